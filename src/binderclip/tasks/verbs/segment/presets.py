"""Segmenters of presets, with their changed parts, built before and after a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel
    from binderclip.segment import Parts, Segmenter


def chosen_parts(presets: Sequence[str], changes: Sequence[str]) -> dict[str, Parts]:
    """The parts of each preset with its changes; needs no model.

    Args:
        presets: their names.
        changes: of --set, such as `rule.scale=40`.

    Raises:
        UsageError: an unknown preset, part or setting.
    """
    from binderclip.segment import parts_of

    chosen = {name: parts_of(name) for name in presets}
    if not changes:
        return chosen
    from binderclip.segment import override
    from binderclip.settings import parse_override

    parsed = [parse_override(text) for text in changes]
    return {name: override(parts, parsed) for name, parts in chosen.items()}


def described(chosen: dict[str, Parts], source: str, names: Sequence[str]) -> dict[str, Parts]:
    """The presets, those that mix them in with descriptions of the labels.

    Args:
        chosen: of `chosen_parts`.
        source: of --descriptions.
        names: the labels, which descriptions must be of.

    Raises:
        UsageError: no preset gives them weight, or a label without descriptions.
    """
    from dataclasses import replace

    from binderclip.adapt import read_descriptions

    if not any(parts.text.alpha for parts in chosen.values()):
        raise UsageError(
            f"--descriptions: {', '.join(chosen)} gives them no weight; add `--set text.alpha=0.2`, a share in [0, 1]"
        )
    texts = read_descriptions(source).of(names, source)
    return {
        name: replace(parts, text=parts.text.with_(auxiliary=texts)) if parts.text.alpha else parts
        for name, parts in chosen.items()
    }


def build_segmenters(
    chosen: dict[str, Parts], model: ImageTextModel, *, background: Sequence[str], size: int | None = None
) -> dict[str, Segmenter]:
    """One segmenter for each preset.

    Args:
        chosen: of `chosen_parts`.
        model: that looks.
        background: words for what is none of the labels.
        size: shorter side at which the model sees the image; None for the preset's.
    """
    from binderclip.segment import Segmenter

    built = {}
    for name, parts in chosen.items():
        segmenter = Segmenter(model, parts, background=tuple(background))
        built[name] = segmenter if size is None else segmenter.at(size)
    return built
