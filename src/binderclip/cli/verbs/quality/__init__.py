"""`binderclip quality`."""

from binderclip.cli.verbs.quality.command import register

__all__ = ["register"]
