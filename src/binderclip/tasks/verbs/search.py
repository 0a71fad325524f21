"""Where `search` keeps the index of a folder."""

from __future__ import annotations

INSIDE = ".binderclip"
"""Folder of the index inside the folder that it is of."""
