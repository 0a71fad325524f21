"""`binderclip attack`: `command` has the options, `run` the work."""

from binderclip.cli.verbs.attack.command import register

__all__ = ["register"]
