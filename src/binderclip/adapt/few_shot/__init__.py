"""Heads on the features of a few labelled pictures."""
