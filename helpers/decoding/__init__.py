"""Decoding: prompts, sampling, stopping, speculative decoding, and compiled steps."""
