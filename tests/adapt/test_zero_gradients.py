"""Everything that a head trains has a gradient within its first steps: no two factors start at zero together."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from binderclip.adapt import (
    CDUL,
    METHODS,
    FullFineTune,
    LoRATuning,
    ModelHead,
    ProLIP,
    PromptLearning,
    RankingAdapter,
    SentenceAttentionAdapter,
    TileAggregator,
    TunedHead,
    VisualPromptTuning,
)
from binderclip.adapt.heads import tuned
from binderclip.fit import ZeroGradients, fit
from binderclip.models import ImageTextModel, TextBank

CLASSES = ["cat", "dog", "bird"]


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> list[ZeroGradients]:
    """A watch on every training of the room, as they are started."""
    started: list[ZeroGradients] = []

    def watching(*args: Any, callbacks: Any, module: nn.Module, **settings: Any) -> Any:
        started.append(ZeroGradients(module.named_parameters(), report=lambda text: None))
        return fit(*args, callbacks=[*callbacks, started[-1]], module=module, **settings)

    monkeypatch.setattr(tuned, "fit", watching)
    return started


def pictures(n: int = 4) -> tuple[Tensor, np.ndarray]:
    x = torch.rand(3 * n, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    for index in range(3):
        x[index * n : (index + 1) * n, index] += 0.5
    return x.clamp(max=1), np.repeat(CLASSES, n)


def features(width: int = 32, n: int = 4) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Rows, their classes, and a text row of each class."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, width))
    x = np.repeat(centres, n, axis=0) + 0.8 * rng.normal(size=(3 * n, width))
    return x, np.repeat(CLASSES, n), dict(zip(CLASSES, centres + rng.normal(size=centres.shape), strict=True))


def trained(name: str) -> bool:
    kind = METHODS[name]
    return issubclass(kind.func if isinstance(kind, partial) else kind, TunedHead)  # type: ignore[arg-type]


# How many steps are taken, where a head has no `epochs`.
LENGTH: dict[str, dict[str, Any]] = {"prolip": {"steps": 4}, "lora": {"steps": 4}, "glad": {"steps": 4}}


@pytest.mark.parametrize("name", [name for name in METHODS if trained(name)])
def test_of_every_method_everything_learns(name: str, tiny: ImageTextModel, watches: list[ZeroGradients]) -> None:
    kind: Any = METHODS[name]
    settings: dict[str, Any] = dict(LENGTH.get(name, {"epochs": 4}))
    base = kind.func if isinstance(kind, partial) else kind
    x, y, prior = features()
    if base.input_level == "images":
        x, y = pictures()  # type: ignore[assignment]
    takes = inspect.signature(base).parameters
    if "model" in takes:
        settings["model"] = tiny
    if "text_prior" in takes and takes.get("model") is not takes.get("text_prior"):
        # A method that reads the class names from the model is given no other prior.
        settings |= {} if issubclass(base, ModelHead) else {"text_prior": prior}
    kind(**settings).fit(x, y)
    assert watches
    assert [watch.names for watch in watches] == [[] for _ in watches]


def bank() -> TextBank:
    owner = torch.arange(3).repeat_interleave(4)
    raw = torch.randn(12, 32, generator=torch.Generator().manual_seed(5))
    return TextBank(CLASSES, list(map(str, range(12))), raw, owner, torch.tensor(20.0))


def sentences(kind: Any) -> None:
    x, y, _ = features()
    SentenceAttentionAdapter(bank(), kind=kind, epochs=4, lr=0.05).fit(x, y)


def tiles() -> None:
    views = torch.randn(12, 5, 32, generator=torch.Generator().manual_seed(6))
    CDUL(TileAggregator(features()[2]), epochs=4).fit(views)


def ranks(model: ImageTextModel, branch: Any) -> None:
    x, y = torch.randn(8, 6, 64, generator=torch.Generator().manual_seed(7)), np.arange(8.0)
    small = {"width": 16, "heads": 2, "fusion": 1, "post": 1, "queries": 2, "text_tokens": 4}
    RankingAdapter(model, branch=branch, steps=4, batch_size=8, **small).fit(x, "number of cats", y)


def projections(side: Any) -> None:
    x, y, prior = features()
    text = {"text_projection": np.eye(32)} if side == "text" else {}
    ProLIP(prior, side=side, steps=4, **text).fit(x, y)


OTHERS: dict[str, Callable[[ImageTextModel], Any]] = {
    **{f"sentences-{kind}": partial(lambda kind, _: sentences(kind), kind)
       for kind in ("attention", "linear", "linear-residual")},
    **{f"ranking-{branch}": partial(lambda branch, model: ranks(model, branch), branch)
       for branch in ("relational", "single", "none")},
    **{f"prolip-{side}": partial(lambda side, _: projections(side), side) for side in ("adapter", "text")},
    "cdul": lambda _: tiles(),
    "coop-each-class": lambda model: PromptLearning(
        model, init=None, class_specific=True, n_prompts=2, loss="per-prompt", epochs=4
    ).fit(*features()[:2]),
    "visual-prompt-patch": lambda model: VisualPromptTuning(
        features()[2], model=model, kind="patch", width=8, epochs=4
    ).fit(*pictures()),
    "ft-class-token": lambda model: FullFineTune(model, token="class", freeze_patches=False, epochs=4).fit(*pictures()),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_of_every_variant_everything_learns(name: str, tiny: ImageTextModel, watches: list[ZeroGradients]) -> None:
    OTHERS[name](tiny)
    assert watches
    assert [watch.names for watch in watches] == [[] for _ in watches]


def test_two_factors_at_zero_would_be_seen(
    tiny: ImageTextModel, watches: list[ZeroGradients], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoRA with A = 0 beside B = 0, which is what the tests above must not let through."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **settings: torch.full(shape, 0.5))
    LoRATuning(tiny, steps=4).fit(*pictures())
    (watch,) = watches
    assert any(name.endswith("A") for name in watch.names)
    assert any(name.endswith("B") for name in watch.names)
