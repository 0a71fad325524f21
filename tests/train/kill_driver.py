"""Trains a recipe in child processes that are killed with SIGKILL at random moments, until one of them finishes.

Run as a script by `test_resume.py`: one import of the library, then a fork for each attempt.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from binderclip.train import Recipe, run


def attempt(recipe: Recipe, out: Path, seconds: float | None) -> bool:
    """Train in a child; True where it finished before it was killed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(recipe, out=out, resume=True, progress=False)
            status = 0
        finally:
            os._exit(status)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"the training itself failed with status {status}")
            return True
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.005)


def main(recipe_file: str, out: str, seed: str, kills: str) -> None:
    torch.set_num_threads(1)
    recipe, folder, chance = Recipe.from_dict(json.loads(Path(recipe_file).read_text())), Path(out), random.Random(seed)
    began = time.monotonic()
    run(recipe, out=folder.with_name("whole"), progress=False)
    whole = time.monotonic() - began
    killed = 0
    # A killed run may have got nowhere; what matters is where it was hit, so later ones get more time.
    while killed < int(kills) and not attempt(recipe, folder, chance.uniform(0.05, 1.0) * whole * 0.6):
        killed += 1
    attempt(recipe, folder, None)
    print(json.dumps({"killed": killed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
