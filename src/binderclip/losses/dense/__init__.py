"""Losses of label maps: one label a pixel."""
