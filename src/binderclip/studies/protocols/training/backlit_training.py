"""How studies train enhancers of backlit scenes: a small network in two rounds, with guidance that may be refined."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.quality import CLIPLIT, IlluminationNet
from binderclip.quality.enhance.backlit import DECAY
from binderclip.quality.enhance.light_views import view_matrices
from binderclip.studies.protocols.data.backlit_scenes import BacklitScenes

SEEN, STEPS, RATE, BATCH = 64, 75, 5e-4, 8
"""Side at which `small` sees results, steps of each of two rounds, their rate and batch."""
PROMPT_STEPS, PROMPT_RATE, VIEWS, CONTENT = 60, 1e-3, 4, 30.0
INITIAL, REFINED = "first prompts", "refined prompts"


def network(seed: int) -> IlluminationNet:
    """A small one that begins near its pictures, and never darkens."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return IlluminationNet(8, level=0.9, std=0.12, most=1.0)


def settings(seed: int) -> dict[str, Any]:
    """Of all trainings."""
    return {"network": network(seed), "side": SEEN, "content": CONTENT, "seed": seed}


def twice(
    lit: CLIPLIT,
    data: BacklitScenes,
    *,
    arms: tuple[str, ...] = (INITIAL, REFINED),
    prompt_rate: float = PROMPT_RATE,
) -> dict[str, Float[Tensor, "T 3 s s"]]:
    """Results of two rounds that share the first one: the guidance of the second is the same or a refined one.

    Args:
        lit: a trainer; it keeps its first prompts.
        data: pictures.
        arms: which of the two; guidance that learns nothing has the first alone.
        prompt_rate: of the prompts.
    """
    lit.fit(
        data.dark, data.bright, rounds=1, prompt_steps=PROMPT_STEPS, warmup_steps=0, steps=STEPS, lr=RATE,
        prompt_lr=prompt_rate, batch_size=BATCH, views=VIEWS,
    )  # fmt: skip
    found = {}
    for name in arms:
        second = copy.copy(lit)
        second.network, second.guidance = copy.deepcopy(lit.network), copy.deepcopy(lit.guidance)
        if name == REFINED:
            matrices = view_matrices(VIEWS, lit.seed)
            dark, made, bright = (second.views(x, matrices) for x in (data.dark, lit(data.dark), data.bright))
            adam = torch.optim.Adam(second.guidance.parameters(), lr=prompt_rate, weight_decay=DECAY)
            second.refine([dark, made], bright, PROMPT_STEPS, adam)
        second.guided(data.dark, second.guidance, steps=STEPS, lr=RATE, batch_size=BATCH)
        found[name] = second(data.test)
    return found
