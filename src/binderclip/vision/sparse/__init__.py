"""Sparse codes of picture patches: penalties, the dictionaries that they learn, and receptive fields."""
