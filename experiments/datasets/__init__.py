"""Every dataset that is made from a recipe, in one table."""
