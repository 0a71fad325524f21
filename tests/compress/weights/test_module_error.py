"""p046: the error of a module against a forward pass without it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from binderclip.compress import ModulePruningError, PairedSample, masked, tower_groups
from binderclip.errors import UsageError
from binderclip.evaluate.retrieval_metrics import retrieval


@pytest.mark.parametrize("metric", ["recall", "accuracy", "loss"])
def test_the_error_is_that_of_whole_passes_without_the_module(
    metric: str, make_clip: Callable[..., Any], make_pairs: Callable[..., PairedSample]
) -> None:
    """Brute force: the library's own encoders on the masked model, and the recall of `evaluate`."""
    model = make_clip()
    labels = torch.arange(12) if metric == "accuracy" else None
    data = make_pairs(labels=labels)

    def value() -> float:
        with torch.no_grad():
            image, text = model.encode_image(data.pixels), model.encode_text(list(data.texts))
            logits = model.scale() * model.similarity(image, text)
        if metric == "accuracy":
            return float((logits.argmax(1) == labels).double().mean())
        if metric == "recall":
            found = retrieval(image, text)
            return sum(found[f"{way}/R@{k}"] for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)) / 6
        rows, columns = (-side.log_softmax(1).diagonal().mean() for side in (logits, logits.mT))
        return -float(rows + columns) / 2

    groups = [
        one
        for side, tower in (("image", model.image_tower), ("text", model.text_tower))
        for one in tower_groups(tower, ("head", "block"), side=side)
    ]
    errors = ModulePruningError(sample=data, metric=metric, break_ties=False, batch_size=5)(model, groups)  # type: ignore[arg-type]
    assert list(errors) == [one.name for one in sorted(groups, key=lambda one: one.side)]
    whole, changes = value(), []
    for one in groups:
        for number in range(len(one)):
            with masked([one], {one.name: torch.arange(len(one)) != number}):
                changes.append(whole - value())
            assert math.isclose(float(errors[one.name][number]), changes[-1], rel_tol=1e-4, abs_tol=2e-6)
    assert len({round(change, 6) for change in changes}) > 3


def test_a_module_that_adds_nothing_has_no_error_and_ties_are_broken_below_a_step(
    make_clip: Callable[..., Any], make_pairs: Callable[..., PairedSample]
) -> None:
    model = make_clip()
    with torch.no_grad():
        model.backbone.visual.transformer.resblocks[1].attn.out_proj.weight[:, 8:16] = 0
    groups = tower_groups(model.image_tower)
    plain = ModulePruningError(sample=make_pairs(), break_ties=False)(model, groups)
    errors = ModulePruningError(sample=make_pairs())(model, groups)
    assert float(errors["image.1.heads"][1]) == 0
    step = 1 / (6 * 12)
    for name, error in errors.items():
        assert float((error - plain[name]).abs().max()) <= 0.25 * step + 1e-12
    values = torch.cat(list(errors.values()))
    assert len(values.unique()) > len(torch.cat(list(plain.values())).unique())


def test_what_cannot_be_judged_is_refused(
    make_clip: Callable[..., Any], make_pairs: Callable[..., PairedSample]
) -> None:
    model = make_clip()
    with pytest.raises(UsageError, match="not of Identity"):
        ModulePruningError(sample=make_pairs())(torch.nn.Identity(), tower_groups(model.image_tower))
    with pytest.raises(UsageError, match="needs labels"):
        ModulePruningError(sample=make_pairs(), metric="accuracy")
    with pytest.raises(UsageError, match="caption for each"):
        ModulePruningError(sample=make_pairs(labels=torch.zeros(12, dtype=torch.long)), metric="recall")
    with pytest.raises(UsageError, match="12 pictures and 2 captions"):
        make_pairs(texts=("a", "b"))
    with pytest.raises(UsageError, match="labels"):
        make_pairs(labels=torch.full((12,), 12))
    with pytest.raises(UsageError, match="at least two"):
        PairedSample(pixels=torch.rand(1, 3, 16, 16), texts=("a",))
