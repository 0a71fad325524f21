"""Settings of the room: what is annotated as a whole number or a fraction, and is neither, is refused by its name.

Networks are None: a setting is refused before anything is asked.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from binderclip import robust
from binderclip.errors import UsageError
from binderclip.segment.promptable import Prompts

PIXELS = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1])
SIDE = 16


def prompts() -> Prompts:
    return Prompts(points=torch.tensor([[[8.0, 8.0]]]), labels=torch.ones(1, 1).long())


WRONG = {
    "int": (2.5, math.nan, math.inf, "3"), "int | None": (2.5, math.nan, math.inf, "3"),
    "float": (math.nan, math.inf, "3"), "float | None": (math.nan, math.inf, "3"),
}  # fmt: skip
RESULTS = {"AttackResult", "MasterPrint", "TransferRates", "TriangleConfidence"}
NEEDED: dict[str, Callable[..., Any]] = {
    "CW": lambda **s: robust.CW(None, **s), "FGSM": lambda **s: robust.FGSM(None, **s),
    "DIFGSM": lambda **s: robust.DIFGSM(None, **s), "MIFGSM": lambda **s: robust.MIFGSM(None, **s),
    "PGD": lambda **s: robust.PGD(None, **s),
    "TransferStudy": lambda **s: robust.TransferStudy(targets={"net": None}, **s),
    "UAD": lambda **s: robust.UAD(features=None, **s),
    "LevelSetTraversal": lambda **s: robust.LevelSetTraversal(None, **s),
    "MasterPrintAttack": lambda **s: robust.MasterPrintAttack(None, ["a"], **s),
    "Evolution": lambda **s: robust.Evolution((4,), **s),
    "RandomizedSmoothing": lambda **s: robust.RandomizedSmoothing(None, **{"sigma": 0.1, **s}),
    "PAGTargets": lambda **s: robust.PAGTargets("score", PIXELS, LABELS, **s),
    "Momentum": lambda **s: robust.Momentum(**{"alpha": 0.1, **s}),
    "Margin": lambda **s: robust.Margin(None, LABELS, **s),
    "MinSimilarity": lambda **s: robust.MinSimilarity(None, ["a"], **s),
    "FeatureAttack": lambda **s: robust.FeatureAttack(None, PIXELS, **s),
    "MaskRemoval": lambda **s: robust.MaskRemoval(None, prompts(), **s),
    "attack": lambda **s: robust.attack(
        robust.CrossEntropy(None, LABELS), PIXELS, param=robust.Linf(0.1), step=robust.Sign(0.1), **s
    ),
    "attack_similarity": lambda **s: robust.attack_similarity(
        None, PIXELS, PIXELS, PIXELS, **s
    ),
    "confidence_along": lambda **s: robust.confidence_along(None, PIXELS, PIXELS, LABELS, **s),
    "level_set_width": lambda **s: robust.level_set_width(None, PIXELS, PIXELS, LABELS, **s),
    "triangle_confidence_map": lambda **s: robust.triangle_confidence_map(
        None, PIXELS[0], PIXELS[0], PIXELS[1], **{"label": 0, **s}
    ),
    "transfer_success_rate": lambda **s: robust.transfer_success_rate(None, PIXELS, LABELS, **s),
    "adversarial_step": lambda **s: robust.adversarial_step(None, robust.PGD(None), **s),
    "shift_modality_gap": lambda **s: robust.shift_modality_gap(PIXELS.flatten(1), PIXELS.flatten(1), **s),
    "tune_off_manifold": lambda **s: robust.tune_off_manifold(
        None, PIXELS, ["a", "b"], latent=(3, SIDE, SIDE), **s
    ),
    "train_fooling_detector": lambda **s: robust.train_fooling_detector(None, PIXELS, PIXELS, **s),
    "flow_roughness": lambda **s: robust.flow_roughness(torch.zeros(1, 2, 4, 4), **s),
    **{name: getattr(robust, name) for name in (
        "Adam", "InputDiversity", "L2", "Linf", "Normalized", "OnePixel", "Sign", "SpatialAttack", "TeCoA",
    )},
}  # fmt: skip


def settings() -> list[tuple[str, str, Any]]:
    """Every number that a public callable of the room takes, with each value that it must not be."""
    found = []
    for name in sorted(robust.__all__):
        made = getattr(robust, name)
        if not callable(made) or name in RESULTS:
            continue
        taken = inspect.signature(robust.PGD if name in ("CW", "DIFGSM", "MIFGSM") else made).parameters
        for parameter in taken.values():
            wrong = WRONG.get(str(parameter.annotation), ())
            # Infinity is what `confidence` is by default: the margin counts however large it is.
            wrong = wrong if (name, parameter.name) != ("Margin", "confidence") else wrong[:1]
            found += [(name, parameter.name, value) for value in wrong]
    return found


@pytest.mark.parametrize(("name", "setting", "value"), settings())
def test_settings_that_are_no_numbers_are_refused_by_name(name: str, setting: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"\b{setting}\b"):
        NEEDED[name](**{**({"eps": 0.1} if name in ("L2", "Linf") else {}), setting: value})


def test_a_new_method_with_numbers_is_walked_over() -> None:
    assert {name for name, _, _ in settings()} == set(NEEDED)
