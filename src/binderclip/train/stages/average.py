"""The stage kind that averages the weights which earlier stages ended with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from binderclip.errors import NotSupported, UsageError
from binderclip.models import ImageTextModel, load
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.passes import TowerPasses
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage

__all__ = ["average_stages"]


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    earlier, of = [stage.name for stage in stages[:index]], settings["of"]
    if len(set(of)) < 2 or not set(of) <= set(earlier):
        raise UsageError(f"average-stages: of = {of}: name at least two of the stages before it, {', '.join(earlier)}")


@register(STAGES, "average-stages")
@demands(check=_check)
def average_stages(context: StageContext, *, of: list[str]) -> dict[str, Any]:
    """Give the model the mean of the weights at the end of earlier stages of the same run.

    Stages that go on from one another lie in one basin, where the mean is often better than each (Wortsman et al.,
    Model soups, arXiv 2203.05482).

    Args:
        context: of the stage; its length is not used.
        of: names of at least two earlier stages.

    Raises:
        UsageError: fewer than two names, one that is no earlier stage, or stages with other tensors than the model.
        NotSupported: the model is no image-text pair.
    """
    earlier = [stage.name for stage in context.recipe.stage[: context.index]]
    if not isinstance(context.model, ImageTextModel):
        raise NotSupported(f"average-stages takes image-text models, not {type(context.model).__name__}")
    states = [
        load(context.out / "stages" / f"{earlier.index(name):02d}-{name}").backbone.state_dict() for name in set(of)
    ]
    own = context.model.backbone.state_dict()
    if any(
        {key: value.shape for key, value in state.items()} != {k: v.shape for k, v in own.items()} for state in states
    ):
        raise UsageError(f"average-stages: the stages {', '.join(of)} do not have the same tensors")
    with torch.no_grad():
        for name, value in own.items():
            parts = torch.stack([state[name].to(value.device, torch.float64) for state in states])
            value.copy_(parts.mean(0) if value.is_floating_point() else parts[0])
    return {"averaged": sorted(set(of))}


@register(PASSES, "average-stages")
def _passes(stage: Stage, **settings: object) -> TowerPasses:
    return TowerPasses(trains=False)
