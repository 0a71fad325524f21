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


def written(out: Path) -> set[str]:
    """Names of every checkpoint and finished stage, drafts of checkpoints included."""
    return {str(path) for pattern in ("checkpoints/*/*", "stages/*/outcome.json") for path in out.glob(pattern)}


def attempt(recipe: Recipe, out: Path, events: int | None, delay: float = 0.0) -> bool:
    """Train in a child, killed `delay` seconds after it wrote `events` new things; True where it finished before."""
    before = written(out)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(recipe, out=out, resume=True, progress=False)
            status = 0
        finally:
            os._exit(status)
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"the training itself failed with status {status}")
            return True
        if events is not None and len(written(out) - before) >= events:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)


def main(recipe_file: str, out: str, seed: str, kills: str) -> None:
    torch.set_num_threads(1)
    recipe, folder, chance = Recipe.from_dict(json.loads(Path(recipe_file).read_text())), Path(out), random.Random(seed)
    run(recipe, out=folder.with_name("whole"), progress=False)
    killed = 0
    # 0: while it gets ready; 1 and more: while or after it writes a checkpoint.
    for events in [0, *(chance.randint(1, 3) for _ in range(int(kills) - 1))]:
        if attempt(recipe, folder, events, chance.uniform(0.0, 0.04)):
            break
        killed += 1
    attempt(recipe, folder, None)
    print(json.dumps({"killed": killed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
