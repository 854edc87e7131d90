"""config.json of each family: our config made from it, and the published one made from ours."""
