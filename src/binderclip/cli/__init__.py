"""The command line: `binderclip VERB ...`, one file a verb."""

import sys

from binderclip.errors import was_interrupted

try:
    from binderclip.cli.app import app, main
except BaseException as error:
    # Ctrl-C before the verb has begun, while the command line itself is still being imported.
    if not was_interrupted(error):
        raise
    sys.stderr.write("error: interrupted\n")
    raise SystemExit(130) from None

__all__ = ["app", "main"]
