"""Detectors of generated pictures, their training, and small generators to test them with."""
