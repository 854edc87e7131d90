"""``python3 -m course parity``: every family compared with transformers, block by block."""
