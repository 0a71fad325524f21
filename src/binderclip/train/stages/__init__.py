"""Kinds of stage that a user's recipe may name."""
