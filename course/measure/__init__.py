"""``python3 -m course measure``: measurements of this machine; what is measured stands in ``subjects``."""
