"""Generative feedback: an image tower learns from the loss of a generator that it tells of pictures."""
