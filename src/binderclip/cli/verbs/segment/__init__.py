"""`binderclip segment`."""

from binderclip.cli.verbs.segment.command import register

__all__ = ["register"]
