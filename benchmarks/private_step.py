"""A private step against an ordinary one, and against every mode of Opacus.

A ViT-tiny at 64 px (patches of 8) and open_clip's text transformer (6 layers of width 256, 16 tokens), B = 64, flat
clipping with noise, SGD. The coupling check runs on the first batch only, which is part of the warm-up. Memory is the
peak of a fresh process beyond what it held before its first step. The limit is the ordinary step: a private one needs
its forward pass and backward pass, and per-sample norms on top.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Row, in_child, row, timed

BATCH, CLASSES = 64, 10
MODELS = ("ViT-tiny, 64 px", "text transformer")
MODES = ("hooks", "functorch", "ghost")
GOAL_SPEED, GOAL_MEMORY = 0.75, 1.3
REPEATS = 5
VARIABLE = "MALLOC_MMAP_THRESHOLD_"


class Text(nn.Module):
    """open_clip's text tower behind a linear head."""

    def __init__(self) -> None:
        super().__init__()
        from open_clip.transformer import TextTransformer

        self.tower = TextTransformer(
            context_length=16, vocab_size=8000, width=256, heads=4, layers=6, output_dim=256, output_tokens=False
        )
        self.head = nn.Linear(256, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.tower(ids))


def build(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Model and batch."""
    torch.manual_seed(0)
    labels = torch.randint(0, CLASSES, (BATCH,))
    if name == MODELS[0]:
        import timm

        model = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=CLASSES)
        return model.train(), torch.randn(BATCH, 3, 64, 64), labels
    return Text().train(), torch.randint(1, 8000, (BATCH, 16)), labels


def step_of(name: str, kind: str) -> Callable[[], Any]:
    """One training step: "plain", "ours", or a mode of Opacus."""
    model, x, y = build(name)
    inner = torch.optim.SGD(model.parameters(), lr=0.01)
    if kind == "plain":

        def plain() -> None:
            inner.zero_grad()
            F.cross_entropy(model(x), y).backward()
            inner.step()

        return plain
    if kind == "ours":
        from binderclip.privacy import PrivateOptimizer

        optimizer = PrivateOptimizer(inner, 1.0, 1.0, BATCH, model=model, sample_rate=0.1)

        def ours() -> None:
            optimizer.backward(F.cross_entropy(model(x), y, reduction="none"))
            optimizer.step()

        return ours
    return _opacus(model, inner, x, y, kind)


def _opacus(model: nn.Module, inner: Any, x: Tensor, y: Tensor, kind: str) -> Callable[[], Any]:
    from opacus import PrivacyEngine
    from opacus.validators import ModuleValidator
    from torch.utils.data import DataLoader, TensorDataset

    model = ModuleValidator.fix(model)
    inner = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH)
    settings: dict[str, Any] = {"criterion": nn.CrossEntropyLoss()} if kind == "ghost" else {}
    engine = PrivacyEngine()
    parts = engine.make_private(
        module=model, optimizer=inner, data_loader=loader, noise_multiplier=1.0, max_grad_norm=1.0,
        poisson_sampling=False, grad_sample_mode=kind, **settings,
    )  # fmt: skip
    wrapped, optimizer = parts[0], parts[1]
    criterion = parts[2] if kind == "ghost" else nn.CrossEntropyLoss()

    def step() -> None:
        optimizer.zero_grad()
        criterion(wrapped(x), y).backward()
        optimizer.step()

    return step


def peak_gigabytes(name: str, kind: str) -> float:
    """Of this process, beyond what it held before the first step."""
    # memory does not depend on the threads, which crawl where the machine is busy
    torch.set_num_threads(1)
    step = step_of(name, kind)
    before = _high_water()
    for _ in range(3):
        step()
    return (_high_water() - before) * 1024 / 1e9


def _high_water() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


MEMORY = """
import json, sys, warnings
warnings.simplefilter("ignore")
from benchmarks.private_step import peak_gigabytes
print(json.dumps({"gigabytes": peak_gigabytes(sys.argv[1], sys.argv[2])}))
"""


def run() -> list[Row]:
    """Time and memory of both models."""
    rows: list[Row] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in MODELS:
            rows += _times(name)
            rows += _memories(name)
    return rows


def _opacus_modes(name: str) -> dict[str, Callable[[], Any]]:
    """The modes that can take this model; a mode that cannot is left out with its reason."""
    found = {}
    for kind in MODES:
        try:
            step = step_of(name, kind)
            step()
        except Exception as error:
            print(f"{name}: Opacus {kind} cannot: {str(error).splitlines()[0][:120]}", file=sys.stderr)
            continue
        found[kind] = step
    return found


def _times(name: str) -> list[Row]:
    steps = {"plain": step_of(name, "plain"), "ours": step_of(name, "ours"), **_opacus_modes(name)}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {kind: [] for kind in steps}
    for turn in range(REPEATS):
        order = list(steps) if turn % 2 else list(reversed(steps))
        for kind in order:
            seconds[kind].append(timed(steps[kind]))
    rows = []
    for kind in steps:
        if kind == "ours":
            continue
        plain = kind == "plain"
        rows.append(
            row(
                f"{name}: private step against {'an ordinary one' if plain else f'Opacus, {kind}'}",
                seconds["ours"],
                seconds[kind],
                goal=f"at least {GOAL_SPEED} of its throughput" if plain else "faster",
                target=GOAL_SPEED if plain else 1.0,
                limit=min(seconds["plain"]) * 1e3,
                note=f"batch {BATCH}, {torch.get_num_threads()} threads; limit: the ordinary step",
                peer_name="ordinary step" if plain else f"Opacus {kind}",
            )
        )
    return rows


def _memories(name: str) -> list[Row]:
    """With freed blocks given back at once (what is really held), and as the allocator leaves it by default."""
    rows = []
    for what, threshold in (("peak of held memory", "1048576"), ("peak memory, default allocator", None)):
        before = os.environ.get(VARIABLE)
        if threshold:
            os.environ[VARIABLE] = threshold
        try:
            ours, plain = (in_child(MEMORY, name, kind)["gigabytes"] for kind in ("ours", "plain"))
        finally:
            os.environ.pop(VARIABLE, None)
            if before is not None:
                os.environ[VARIABLE] = before
        ratio = ours / plain
        rows.append(
            Row(
                name=f"{name}: {what} of a private step",
                ours=ours,
                peer=plain,
                unit="GB",
                ratio=ratio,
                low=ratio,
                high=ratio,
                goal=f"at most {GOAL_MEMORY} of an ordinary step's",
                limit=plain,
                note="beyond model and batch, after three steps, each in a fresh process; both sides alike "
                + (
                    f"with {VARIABLE}={threshold}"
                    if threshold
                    else "with the C library's defaults: it raises the size below which freed blocks stay with the "
                    "process to that of the largest freed one, up to 32 MB, and per-sample parts are many such blocks; "
                    "what is held at once is the row above"
                ),
                met=ratio <= GOAL_MEMORY,
                peer_name="ordinary step",
            )
        )
    return rows


if __name__ == "__main__":
    print(json.dumps([item.as_dict() for item in run()], indent=1))
