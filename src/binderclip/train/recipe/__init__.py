"""Recipes: their file, their checks, the registry of what they name, and the architectures they build."""
