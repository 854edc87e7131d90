"""``python3 -m course measure``: measurements of this machine, one file per subject."""
