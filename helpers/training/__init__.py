"""Training: the loop, its optimizers and losses, what a model recalls, and what training costs."""
