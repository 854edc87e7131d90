"""What each model of the zoo is measured by, for its card."""
