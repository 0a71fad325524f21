"""`binderclip curate`."""

from binderclip.cli.verbs.curate.command import register

__all__ = ["register"]
