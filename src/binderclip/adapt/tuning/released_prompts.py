"""Prompts that others learned (CoOp, ProGrad), as classifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from binderclip.adapt.tuning.prompt_learning import average
from binderclip.adapt.zero_shot.classifier import ZeroShotClassifier
from binderclip.models import load_prompt_context
from binderclip.models.checks import refuse_bare_module
from binderclip.models.text.prompts import Position

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel


@torch.no_grad()
def load_prompts(
    path: str | Path,
    model: ImageTextModel,
    classes: Sequence[Any] | Mapping[Any, str],
    *,
    position: Position = "end",
    scale: float | None = None,
) -> ZeroShotClassifier:
    """A classifier by the prompts in a file of CoOp, ProGrad or another program of their kind.

    Args:
        path: of the file (`model.pth.tar-50`); nothing in it is run.
        model: whose text tower they were learned on, such as `load("open_clip:RN50-quickgelu/openai")`.
        classes: the labels, their own names in the prompt; or {label: name}. A context that all classes share goes
            with any names, own contexts for each class only with those they were learned for, in their order.
        position: of the name, as in training: `end`, `middle` or `front`.
        scale: factor on the cosines; None: the model's.

    Raises:
        CheckpointError, UsageError: as `load_prompt_context`.

    Papers: Learning to Prompt for Vision-Language Models (arXiv 2109.01134); Prompt-aligned Gradient for Prompt Tuning
    (arXiv 2205.14865).

    Examples:
        >>> head = load_prompts("model.pth.tar-50", model, ["cat", "dog"])  # doctest: +SKIP
        >>> head.predict(model.encode_image(paths, normalize=True))  # doctest: +SKIP
    """
    refuse_bare_module(model, "load_prompts")
    names = [str(name) for name in (classes.values() if isinstance(classes, Mapping) else classes)]
    prompts = load_prompt_context(path, model, names, position=position)
    rows = average(F.normalize(prompts(), dim=-1).cpu())
    return ZeroShotClassifier(rows, classes=list(classes), scale=float(model.scale()) if scale is None else scale).fit()
