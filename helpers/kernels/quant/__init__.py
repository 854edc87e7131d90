"""Triton kernels that read weights of few bits: one per file."""
