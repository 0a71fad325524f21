"""Correcting the labels of pictures: which are worth a look, and what is learned from those that a person gave."""
