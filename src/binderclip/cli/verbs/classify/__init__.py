"""`binderclip classify`."""

from binderclip.cli.verbs.classify.command import register

__all__ = ["register"]
