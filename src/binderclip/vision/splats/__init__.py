"""Scenes of 3-D Gaussians: a renderer whose blending weights can be read, and files in the usual PLY form."""
