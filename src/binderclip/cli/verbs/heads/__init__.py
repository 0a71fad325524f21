"""`binderclip heads`."""

from binderclip.cli.verbs.heads.command import register

__all__ = ["register"]
