"""The spike study's second setting: the small CLIP trains on, and the gradient of two steps is made a thousand times
as large.

What trains is the end of its image tower (last block, norm, projection) and the logit scale, on cached tokens: the
class token that enters the last block, and the patches as the means of the four quarters of the picture. Texts stay
as they are, as in the model's own recipe.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.optim import AGC, AdaGC, Clip
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.table import Row
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols.training import spike
from binderclip.studies.protocols.training.spike import SpikeRun

__all__ = [
    "CLIPPERS",
    "DISTURBED",
    "GUESSING",
    "PROTOCOL",
    "SETTING",
    "SPOILT",
    "UNDISTURBED",
    "Tail",
    "TokenPairs",
    "pairs",
    "recovery",
    "run",
    "spike_rows",
    "spoilt_place",
    "train",
]

SETTING = "small CLIP"
"""Of its rows."""
STEPS, BATCH, RATE, WARM_UP = 70, 96, 5e-4, 25
DISTURBED = (35, 50)
"""The disturbed steps, counted from 0."""
FACTOR = 1000.0
TRAIN, HELD_OUT = 30 * BATCH, 3 * BATCH
UNDISTURBED = "none, undisturbed"
"""The method of the run that nothing happened to."""
SPOILT = "block.mlp.fc1.weight"
"""The tensor of `spoil="tensor"`."""
SHARED = ("none", "norm 0.1", "norm 1", "norm 10", "ZClip", "AutoClip 10", "AutoClip 50", "coordinate 10 %")
CLIPPERS: dict[str, Callable[[], Clip] | None] = {name: spike.CLIPPERS[name] for name in SHARED} | {
    # 100 steps of warm-up, the default, would be longer than the run
    "AdaGC 1.05": lambda: AdaGC(1.05, warmup_steps=WARM_UP),
    "AdaGC 1.5": lambda: AdaGC(1.5, warmup_steps=WARM_UP),
    "AGC 0.01": lambda: AGC(0.01, exclude="scale.*"),
}
PROTOCOL = (
    f"The small CLIP trains on: batches of {BATCH} of {TRAIN:,} pairs of the training clip art, AdamW at {RATE:g}, "
    f"{STEPS} steps; at steps {' and '.join(map(str, DISTURBED))} the gradient is multiplied by {FACTOR:,.0f}. Only "
    "the last block of the image tower, norm, projection and logit scale train, on cached tokens (patches pooled to "
    f"2 x 2); texts are frozen, as in the model's recipe. AdaGC's warm-up takes {WARM_UP} steps, as ZClip's does. (An "
    "undisturbed trial run with half as many pairs learned them by heart; nothing else was tried)."
)
"""How it is measured, for the studies that use it."""


GUESSING = f"Guessing within a batch of the small CLIP: a loss of {math.log(BATCH):.2f}."
"""The lower bound of what is measured here."""


class TokenPairs(NamedTuple):
    """Tokens that enter the image tower's last block, and the features of their texts."""

    tokens: Float[Tensor, "N 5 D"]
    texts: Float[Tensor, "N E"]


class Tail(nn.Module):
    """Copies of what follows the last block's input in the image tower of `small`, and of its logit scale."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        from binderclip.losses import LogitScale

        visual = model.get_submodule("backbone.visual")
        trunk = visual.get_submodule("trunk")
        self.block = copy.deepcopy(trunk.get_submodule("blocks")[-1])  # type: ignore[index]
        self.norm, self.head = copy.deepcopy(trunk.get_submodule("norm")), copy.deepcopy(visual.get_submodule("head"))
        self.scale = copy.deepcopy(LogitScale.of(model))

    def forward(self, tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B E"]:
        """Raw embeddings."""
        return self.head(self.norm(self.block(tokens)[:, 0]))


@lru_cache(maxsize=1)
def pairs() -> tuple[TokenPairs, TokenPairs]:
    """For training and held out: the first pictures of either split whose caption no earlier one has."""
    from binderclip.data import load_data
    from binderclip.data.cache.features import FeatureCache

    model = _model()
    tower = model.image_tower
    cache = FeatureCache(model.fingerprint, "study, into the last block, 2 x 2")
    found = []
    for split, count in (("train", TRAIN), ("val", HELD_OUT)):
        data = load_data("openclipart", split)
        captions = list(data.captions)
        data = data.subset(
            sorted({caption: row for row, caption in reversed(list(enumerate(captions)))}.values())[:count]
        )

        def tokens(missing: list[int], data: Any = data) -> Tensor:
            parts = []
            for start in range(0, len(missing), BATCH):
                pixels = model.preprocess([data[row].image for row in missing[start : start + BATCH]])
                parts.append(pooled(tower.run(tower.embed(pixels), stop=-1).x, tower.grid))
            return torch.cat(parts)

        with torch.no_grad():
            keys = [data.content_hash(row) for row in range(len(data))]
            found.append(TokenPairs(cache.fetch(keys, tokens), model.encode_text(list(data.captions))))
    return found[0], found[1]


def pooled(tokens: Float[Tensor, "B L D"], grid: tuple[int, int]) -> Float[Tensor, "B 5 D"]:
    """The class token, and the mean patch of each quarter."""
    patches = tokens[:, 1:].unflatten(1, grid).movedim(-1, 1)
    return torch.cat([tokens[:, :1], nn.functional.adaptive_avg_pool2d(patches, 2).flatten(2).mT], 1)


@lru_cache(maxsize=1)
def _model() -> Any:
    from binderclip.models import load

    return load("small").eval()


def train(seed: int, clip: Clip | None = None, *, spoil: Literal["all", "tensor", "nothing"] = "all") -> SpikeRun:
    """Train once.

    Args:
        seed: of the batches.
        clip: attached to AdamW; None for none.
        spoil: what is made huge at the disturbed steps: the whole gradient, that of one weight matrix, or nothing.
    """
    from binderclip.losses import ContrastiveLoss

    training, held_out = pairs()
    model, generator = Tail(_model()), torch.Generator().manual_seed(seed)
    loss_of = ContrastiveLoss(scales=model.scale, metrics=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    if clip is not None:
        clip.attach(optimizer, model.named_parameters())
    losses, order = [], torch.zeros(0, dtype=torch.int64)
    seen: list[tuple[float, float, list[float]]] = []
    for step in range(STEPS):
        if len(order) < BATCH:
            order = torch.randperm(len(training.tokens), generator=generator)
        batch, order = order[:BATCH], order[BATCH:]
        loss = loss_of(model(training.tokens[batch]), training.texts[batch]).total
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        if step in DISTURBED and spoil != "nothing":
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and (spoil == "all" or name == SPOILT):
                    parameter.grad.mul_(FACTOR)
        optimizer.step()
        seen.append(spike.what_was_done(clip, model))
    with torch.no_grad():
        batches = zip(held_out.tokens.split(BATCH), held_out.texts.split(BATCH), strict=True)
        validation = float(np.mean([float(loss_of(model(tokens), texts).total) for tokens, texts in batches]))
    norms, clipped, scales = (np.array(part) for part in zip(*seen, strict=True))
    disturbed = () if spoil == "nothing" else DISTURBED
    return SpikeRun(np.array(losses), validation, norms, clipped, scales, disturbed, tail=10)


@lru_cache(maxsize=256)
def run(clipper: str, seed: int, spoil: Literal["all", "tensor"] = "all") -> SpikeRun:
    """The cached run of one of `CLIPPERS`, or of `UNDISTURBED`."""
    pairs()  # encoded once, with all threads
    with one_thread():
        if clipper == UNDISTURBED:
            return train(seed, spoil="nothing")
        make = CLIPPERS[clipper]
        return train(seed, None if make is None else make(), spoil=spoil)


def spoilt_place() -> int:
    """Place of `SPOILT` among the parameters of `Tail`."""
    return [name for name, _ in Tail(_model()).named_parameters()].index(SPOILT)


def loss_after(found: SpikeRun) -> float:
    """Mean loss of the ten steps after each disturbed one."""
    return float(np.mean([found.losses[step + 1 : step + 11] for step in DISTURBED]))


def spike_rows(clippers: Iterable[str], seed: int) -> list[Row]:
    """The rows of the shared table, beside the digits': losses, and what was done to undisturbed steps."""
    table = []
    for name in clippers:
        found = run(name, seed)
        table += [
            Row("training loss", name, found.final, SETTING),
            Row("loss after a disturbance", name, loss_after(found), SETTING),
            Row("validation loss", name, found.validation, SETTING),
            Row("clean steps clipped", name, float(found.clipped[found.clean].mean()), SETTING),
            Row("mean scale of clean steps", name, float(found.scales[found.clean].mean()), SETTING),
        ]
    return table


def recovery(spreads: Mapping[str, float], pilot: tuple[int, ...] = (0, 1, 2)) -> Iterator[Criterion]:
    """Essential criteria: these clippers recover, and without clipping the disturbances do harm.

    Args:
        spreads: of the logarithm of the ratio in the pilot, by clipper.
        pilot: seeds of the pilot.
    """
    metric, whole = "loss after a disturbance", value_of("loss after a disturbance", UNDISTURBED, SETTING)
    for name, spread in spreads.items():
        yield Criterion.below(
            f"small CLIP, {name}: the loss after the disturbances is at most 5 % above the undisturbed run's "
            "(logarithm of the ratio)",
            value_of(metric, name, SETTING).log_over(whole),
            math.log(1.05),
            expected=0.03,
            pilot=Pilot(spread, pilot),
            essential=True,
        )
    yield Criterion.at_least(
        "small CLIP: without clipping it is at least 20 % above (logarithm of the ratio)",
        value_of(metric, "none", SETTING).log_over(whole),
        math.log(1.2),
        expected=0.1,
        pilot=Pilot(0.0283, pilot),
        essential=True,
    )
