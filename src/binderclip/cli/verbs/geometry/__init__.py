"""`binderclip geometry`."""

from binderclip.cli.verbs.geometry.command import register

__all__ = ["register"]
