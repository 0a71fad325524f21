"""Run by torchrun in `test_distributed.py`: tiny recipes by DDP and by FSDP2, one after the other."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from binderclip.fit import Callback
from binderclip.train import Recipe, run
from binderclip.train.engine import context as context_module


class _Cut(Exception):
    pass


class Cut(Callback):
    """Stops a run as a kill would, in all processes alike."""

    def __init__(self, at: int) -> None:
        self.at = at

    def after_step(self, step: int) -> None:
        if step == self.at:
            raise _Cut


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for path in sorted(folder.glob("*.json")):
        other = Recipe.from_dict(json.loads(path.read_text()))
        for parallel in ("ddp", "fsdp"):
            if (path.stem, parallel) != ("plain", "fsdp"):
                run(other, out=folder / path.stem / parallel, parallel=parallel, progress=False)
    cut_and_resumed(Recipe.from_dict(json.loads((folder / "plain.json").read_text())), folder)
    dist.barrier()
    dist.destroy_process_group()


def cut_and_resumed(recipe: Recipe, folder: Path) -> None:
    """The sharded run of a recipe, stopped in the middle; where it went on is written down."""
    out = folder / "plain" / "fsdp"
    original = context_module.Watchers.__init__

    def with_cut(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        original(self, *args, **kwargs)
        self.callbacks.append(Cut(8))

    context_module.Watchers.__init__ = with_cut  # type: ignore[method-assign]
    with contextlib.suppress(_Cut):
        run(recipe, out=out, parallel="fsdp", progress=False)
    context_module.Watchers.__init__ = original  # type: ignore[method-assign]
    result = run(recipe, out=out, parallel="fsdp", progress=False, resume=True)
    if dist.get_rank() == 0:
        (folder / "resumed_from.txt").write_text(str(result.stages[0].resumed_from))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
