"""How each model of the zoo is made: one recipe per kind of model."""
