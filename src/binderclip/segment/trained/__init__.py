"""Segmentation heads that are trained."""
