"""Run by torchrun in `test_distributed.py`: the tiny recipe by DDP and by FSDP2, one after the other."""

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
    recipe = Recipe.from_dict(json.loads((folder / "recipe.json").read_text()))
    run(recipe, out=folder / "ddp", parallel="ddp", progress=False)

    original = context_module.Watchers.__init__

    def with_cut(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
        original(self, *args, **kwargs)
        self.callbacks.append(Cut(8))

    context_module.Watchers.__init__ = with_cut  # type: ignore[method-assign]
    with contextlib.suppress(_Cut):
        run(recipe, out=folder / "fsdp", parallel="fsdp", progress=False)
    context_module.Watchers.__init__ = original  # type: ignore[method-assign]
    result = run(recipe, out=folder / "fsdp", parallel="fsdp", progress=False, resume=True)
    if dist.get_rank() == 0:
        (folder / "done.json").write_text(json.dumps({"resumed_from": result.stages[0].resumed_from}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
