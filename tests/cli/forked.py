"""Processes of `binderclip` that begin where the large imports are done: run by the fixture `program`.

A line of JSON on standard input asks for one: its words, folder, environment, and the files for what it prints. The
answer is a line with its exit status. Where a pattern of files is asked for as well, or a text, the process is
interrupted, as by Ctrl-C, as soon as there is such a file, or the text on its standard error. Nothing of binderclip is
imported here, and every process is a new one.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import sys
import time
import traceback

import matplotlib.backends.backend_agg  # noqa: F401
import open_clip  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.linear_model  # noqa: F401
import timm  # noqa: F401
import torch  # noqa: F401


def serve() -> int:
    """Answer until standard input ends; in a process that was asked for, what it leaves with."""
    assert not [name for name in sys.modules if name.partition(".")[0] == "binderclip"]
    for line in sys.stdin:
        asked = json.loads(line)
        open(asked["err"], "wb").close()  # what the process before it said is not waited for
        child = os.fork()
        if not child:
            return begin(asked)
        print(os.waitstatus_to_exitcode(interrupted(child, asked)), flush=True)
    return 0


def interrupted(child: int, asked: dict) -> int:
    """Wait for a process, which is interrupted where that is asked. Gives its status."""
    while asked["until"] or asked["said"]:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        there = asked["until"] and glob.glob(asked["until"], root_dir=asked["cwd"])
        if there or (asked["said"] and asked["said"].encode() in read(asked["err"])):
            os.kill(child, signal.SIGINT)
            break
        time.sleep(0.01)
    return os.waitpid(child, 0)[1]


def read(path: str) -> bytes:
    """What a process said so far."""
    with open(path, "rb") as file:
        return file.read()


def begin(asked: dict) -> int:
    """What the installed program does."""
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    writes = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, (path, flags) in enumerate([(os.devnull, os.O_RDONLY), (asked["out"], writes), (asked["err"], writes)]):
        os.dup2(os.open(path, flags), number)
    sys.argv = asked["words"]
    try:
        from binderclip.cli import main

        return int(main() or 0)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    sys.exit(serve())
