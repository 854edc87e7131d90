"""Upkeep: the pins of every package, and the nightly runs."""
