"""Scores of captions by an image-text model, and how well misaligned words are found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.explain import DenseMisalignment, Misalignment
from binderclip.models.checks import refuse_bare_module
from binderclip.similarity.arrays import Rows, as_features

SCALE = 2.5
"""The factor of CLIPScore."""


def clip_score(image_features: Rows, text_features: Rows) -> Float[Tensor, "B"]:
    """CLIPScore of each pair: `2.5 * max(cosine, 0)`.

    Args:
        image_features: (B, E) raw or of length one.
        text_features: (B, E) of the captions, in the same order.

    Raises:
        UsageError: shapes that differ.

    Paper: CLIPScore: A Reference-free Evaluation Metric for Image Captioning (arXiv 2104.08718).
    """
    image_features, text_features = (
        each if isinstance(each, Tensor) else as_features(name, each)
        for name, each in (("image_features", image_features), ("text_features", text_features))
    )
    if image_features.ndim != 2 or image_features.shape != text_features.shape:
        raise UsageError(
            "clip_score needs one text row for each image row, (B, E) both; got "
            f"{tuple(image_features.shape)} and {tuple(text_features.shape)}"
        )
    cosine = functional.cosine_similarity(image_features.float(), text_features.float(), dim=-1)
    return SCALE * cosine.clamp(min=0)


@dataclass(frozen=True)
class MisalignmentScore:
    """Scores of captions, nearer to zero is better for the negative ones.

    Attributes:
        f_clip_score: (B,) `sum_negative * (1 - clip_score / 2.5)`, at most 0 where only negative words are flagged.
        clip_score: (B,) `2.5 * max(cosine, 0)`.
        found: the words behind them.
    """

    f_clip_score: Float[Tensor, "B"]
    clip_score: Float[Tensor, "B"]
    found: Misalignment


def f_clipscore_dm(
    model: Any,
    images: Any,
    texts: str | Sequence[str],
    *,
    method: Callable[[Any, Any, str | Sequence[str]], Misalignment] | None = None,
) -> MisalignmentScore:
    """F-CLIPScore of CLIP4DM: local evidence (the sum of misaligned words) times global distance (one minus cosine).

    Not the F-CLIPScore that averages CLIPScores over noun phrases (Oh and Hwang), which shares only the name.

    Args:
        model: an `ImageTextModel`.
        images: one for all captions or one each, anything the model takes, or their features (B, E).
        texts: one caption or several.
        method: finds the words from (model, images, texts); default `DenseMisalignment()`, whose threshold fits
            OpenAI's and LAION's models: use `DenseMisalignment().calibrate(...)` for others.

    Raises:
        UsageError: as `DenseMisalignment`.

    Paper: Extract Free Dense Misalignment from CLIP (arXiv 2412.18404).
    """
    refuse_bare_module(model, "f_clipscore_dm")
    misalignment = (DenseMisalignment() if method is None else method)(model, images, texts)
    score = SCALE * misalignment.cosine.double().clamp(min=0)
    return MisalignmentScore(misalignment.sum_negative * (1 - score / SCALE), score, misalignment)


def word_detection(misalignment: Misalignment, wrong: Sequence[Sequence[int]]) -> dict[str, float]:
    """How well misaligned words are found, counted over all words of all captions.

    Args:
        found: what a method says.
        wrong: for each caption the places of its wrong words, from 0, as white space separates them.

    Returns:
        `localisation` (share of the wrong words that are flagged, over captions that have one), `precision`, `recall`,
        `f1`; 0 where nothing is flagged.

    Raises:
        UsageError: another number of captions, or a place that a caption does not have.
    """
    if len(wrong) != len(misalignment):
        raise UsageError(f"word_detection got places for {len(wrong)} captions, {len(misalignment)} were scored")
    hits, flagged, total, shares = 0, 0, 0, []
    for flags, places in zip(misalignment.flagged, wrong, strict=True):
        if any(not 0 <= place < len(flags) for place in places):
            raise UsageError(f"places {list(places)}: the caption has {len(flags)} words, counted from 0")
        right = sum(flags[place] for place in set(places))
        hits, flagged, total = hits + right, flagged + sum(flags), total + len(set(places))
        shares += [right / len(set(places))] if places else []
    precision, recall = hits / max(flagged, 1), hits / max(total, 1)
    return {
        "localisation": sum(shares) / max(len(shares), 1),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
    }
