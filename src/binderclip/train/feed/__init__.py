"""Batches for a run: sources as one table of pictures, an order that resumes, streams."""
