"""Recipes of the bundled networks that make or mend pictures."""
