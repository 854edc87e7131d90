"""Exercises: checks with hints, the learner's stored predictions, and a time limit."""
