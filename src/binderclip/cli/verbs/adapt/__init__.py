"""`binderclip adapt`."""

from binderclip.cli.verbs.adapt.command import register

__all__ = ["register"]
