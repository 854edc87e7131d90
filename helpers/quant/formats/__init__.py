"""Number formats of few bits: one kind per file, and the table of their names."""
