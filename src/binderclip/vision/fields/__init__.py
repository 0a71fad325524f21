"""Solids as the zero level of a small network: fitted to planar cross-sections, read out as a triangle mesh."""
