"""From a recipe to a plan: what will be run, why each value is what it is, and what it will cost. Imports no torch."""
