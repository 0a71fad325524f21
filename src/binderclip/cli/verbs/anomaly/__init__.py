"""`binderclip anomaly`."""

from binderclip.cli.verbs.anomaly.command import register

__all__ = ["register"]
