"""Copies of a picture among many: the same bytes, the same pixels, or nearly the same picture."""
