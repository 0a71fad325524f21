"""Distances of a picture from a reference: perceptual distances, and how they are judged."""
