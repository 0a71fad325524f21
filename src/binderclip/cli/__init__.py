"""The command line: `binderclip VERB ...`, one file a verb."""

from binderclip.cli.app import app, main

__all__ = ["app", "main"]
