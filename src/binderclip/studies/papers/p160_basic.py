"""Are gradients of a large batch in pieces those of the whole batch, and do larger batches leave a smaller gap?"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from binderclip.evaluate import TrainedPairs, batch_size_generalization, normalized_contrastive_loss
from binderclip.losses import Cosine, clip, contrastive_step
from binderclip.studies.harness import Row, Table, declared_study, dot_panels
from binderclip.studies.protocols.training import contrastive_towers as towers

SAMPLES, SIZES, PIECE, RATE, EVALUATED = 25_600, (32, 128, 512), 32, 1e-3, 512
WHOLE, PIECES = 256, 16
AVERAGED, SPLIT = "mean of the pieces' own losses", "pieces"
SHORT, SHORT_SLOW = "32, steps and rate of 512", "32, steps of 512, its own rate"
METHODS = tuple(map(str, SIZES))
OFF, OFF64, HELD = (
    "largest difference of a gradient in float32, relative to the largest",
    "largest difference of a gradient in float64, relative to the largest",
    "activations held at once, of the whole batch's",
)
GAP, LOSS, ACCURACY = "gap of the normalised loss", "normalised loss of unseen pairs", "zero-shot accuracy"
SLOPE = "slope of the logarithm of the gap against that of the batch size"


class _Held:
    """Numbers, but for weights, that a graph keeps for its backward pass: now, and at most."""

    now = most = 0
    weights: frozenset[int] = frozenset()

    def __init__(self, kept: Tensor) -> None:
        own = kept.untyped_storage().data_ptr() in _Held.weights
        self.kept, self.size = kept.detach(), 0 if own else kept.numel()
        _Held.now += self.size
        _Held.most = max(_Held.most, _Held.now)

    def __del__(self) -> None:
        _Held.now -= self.size


def gradients(model: towers.Towers, rows: Tensor, dtype: torch.dtype, way: str) -> tuple[list[Tensor], int]:
    """Gradients of towers and scale of one batch, and how many numbers were held at most."""
    loss = clip(chunk=PIECE if way == SPLIT else None, metrics=False).to(dtype)
    model, pairs = copy.deepcopy(model).to(dtype), towers.training()
    batch = {"image": pairs.pictures[rows].to(dtype), "text": pairs.words[rows].to(dtype)}
    encoders = {"image": model.image, "text": model.text}
    _Held.now = _Held.most = 0
    _Held.weights = frozenset(p.untyped_storage().data_ptr() for p in model.parameters())
    with torch.autograd.graph.saved_tensors_hooks(_Held, lambda held: held.kept):
        if way == AVERAGED:
            for part in torch.arange(WHOLE).chunk(PIECES):
                (loss(model.image(batch["image"][part]), model.text(batch["text"][part])).total / PIECES).backward()
        else:
            contrastive_step(encoders, batch, loss, WHOLE // PIECES if way == SPLIT else None)
    return [p.grad for p in (*model.parameters(), *loss.parameters()) if p.grad is not None], _Held.most


def exactness(seed: int) -> list[Row]:
    """How far gradients in pieces are off."""
    model, rows = towers.Towers(seed), torch.randperm(len(towers.training().captions))[:WHOLE]
    found = []
    for metric, dtype in ((OFF, torch.float32), (OFF64, torch.float64)):
        whole, most = gradients(model, rows, dtype, "whole")
        for way in (AVERAGED, SPLIT):
            parts, held = gradients(model, rows, dtype, way)
            off = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(parts, whole, strict=True)]
            found.append(Row(metric, way, max(off)))
    return [*found, Row(HELD, SPLIT, held / most)]


@cache
def measured() -> tuple[Tensor, Tensor]:
    """Training pairs that the gap is measured on: as many as there are unseen ones."""
    count = len(towers.held_out().captions)
    rows = torch.randperm(len(towers.training().captions), generator=torch.Generator().manual_seed(0))[:count]
    return towers.training().pictures[rows], towers.training().words[rows]


def rate(size: int) -> float:
    """The rate goes with the root of the batch size."""
    return RATE * (size / 128) ** 0.5


def trained(size: int, seed: int, steps: int, lr: float) -> tuple[towers.Towers, float]:
    """Towers after training with batches of a size, in pieces, and their scale."""
    from binderclip.fit import fit

    model, loss, pairs = towers.Towers(seed), clip(), towers.training()
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randperm(len(pairs.captions), generator=generator)[:size] for _ in range(steps)]
    encoders = {"image": model.image, "text": model.text}

    def step(rows: Tensor, *, backward: Any) -> Tensor:
        batch = {"image": pairs.pictures[rows], "text": pairs.words[rows]}
        return contrastive_step(encoders, batch, loss, PIECE, backward=backward).total

    fit(step, [*model.parameters(), *loss.parameters()], batches, steps=steps, lr=lr)
    return model.eval(), float(loss.scale.value.detach())


@torch.no_grad()
def embedded(model: towers.Towers, scale: float) -> TrainedPairs:
    """What the gap is measured on."""
    pictures, words = measured()
    return TrainedPairs(model.image(pictures), model.text(words), *model.embed(towers.held_out()), scale)


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    torch.manual_seed(seed)
    rows, models = exactness(seed), {}

    def of_size(size: int, seed: int) -> TrainedPairs:
        model, scale = trained(size, seed, SAMPLES // size, rate(size))
        models[str(size)] = model
        return embedded(model, scale)

    curve = batch_size_generalization(of_size, SIZES, seeds=(seed,), eval_batch=EVALUATED)
    rows.append(Row(SLOPE, "all sizes", curve.slope))
    sides_of: Any = zip(curve.train[0], curve.unseen[0], strict=True)
    losses: dict[str, tuple[float, ...]] = dict(zip(METHODS, sides_of, strict=True))
    for name, lr in ((SHORT, rate(512)), (SHORT_SLOW, rate(32))):
        models[name], scale = trained(32, seed, SAMPLES // 512, lr)
        found = embedded(models[name], scale)
        sides = ((found.image, found.text), (found.unseen_image, found.unseen_text))
        losses[name] = tuple(normalized_contrastive_loss(*side, scale, batch=EVALUATED, seed=seed) for side in sides)
    for name, (seen, unseen) in losses.items():
        accuracy = towers.accuracy(models[name], Cosine())
        rows += [Row(GAP, name, unseen - seen), Row(LOSS, name, unseen), Row(ACCURACY, name, accuracy)]
    return rows


def _exact(table: Table) -> tuple[bool, str]:
    single, double = (float(table.values(metric, SPLIT).max()) for metric in (OFF, OFF64))
    return single < 1e-5 and double < 1e-10, f"at most {single:.1e} in float32, {double:.1e} in float64"


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels(*((metric, (*METHODS, SHORT, SHORT_SLOW)) for metric in (GAP, LOSS, ACCURACY)), rotation=45),
    seeds=range(30, 40),
    null=None,
    registered="c799702eb740",
)
