"""Figures of drafts and speculative decoding."""
