"""Edges: derivatives, networks that find them, fields of junctions, and the thinning of their maps."""
