"""Seeded distortions of pictures at five levels."""
