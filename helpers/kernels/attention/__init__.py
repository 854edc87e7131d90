"""Triton kernels of attention: one per file."""
