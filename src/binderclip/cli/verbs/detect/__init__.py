"""`binderclip detect`."""

from binderclip.cli.verbs.detect.command import register

__all__ = ["register"]
