"""Distances between the distributions that two sets of samples come from, as losses."""
