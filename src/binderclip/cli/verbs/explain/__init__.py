"""`binderclip explain`."""

from binderclip.cli.verbs.explain.command import register

__all__ = ["register"]
