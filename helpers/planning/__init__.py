"""Planning on paper: weights, cache and FLOP of a published model, from its config.json alone."""
