"""Refinement of label maps and relabelling of regions."""
