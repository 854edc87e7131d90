"""Fewer bits per weight: formats, and what is built on them.

A format is a list of values, a way to scale them and a way to lay codes into bytes; ``formats.encode`` names one.
"""
