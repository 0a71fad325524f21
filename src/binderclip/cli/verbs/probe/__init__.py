"""`binderclip probe`."""

from binderclip.cli.verbs.probe.command import register

__all__ = ["register"]
