"""`binderclip enhance`."""

from binderclip.cli.verbs.enhance.command import register

__all__ = ["register"]
