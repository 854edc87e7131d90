"""Figures of attention: what it reads, chooses and stores."""
