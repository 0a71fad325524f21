"""Camouflaged objects, found in the features of a diffusion network and named by text (p131)."""
