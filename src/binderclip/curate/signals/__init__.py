"""Columns that are computed for each sample: of its text, its picture, or by a model."""
