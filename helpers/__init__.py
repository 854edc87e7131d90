"""What two or more lessons share: the reference implementations, the tools to measure and to draw.

Rooms import only rooms of lower steps (``tests/rooms.toml``), and nothing here imports ``course``.
"""
