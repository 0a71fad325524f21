"""Which presets of the segmenter a command means, built and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from binderclip.cli.shared.output import print_json, print_table
from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel
    from binderclip.segment import Parts, Segmenter


@dataclass(frozen=True)
class SegmentRequest:
    """What all uses share."""

    preset: str
    settings: tuple[str, ...]
    size: int | None
    background: tuple[str, ...]
    model: str
    device: str
    dtype: str
    json: bool
    descriptions: str | None = None


def preset_names(text: str) -> list[str]:
    """What --preset says: names apart by commas, `all` for every one.

    Raises:
        UsageError: there is no name.
    """
    from binderclip.segment import PRESETS

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"--preset is empty; there are {', '.join(PRESETS)}")
    return list(PRESETS) if names == ["all"] else names


def chosen_parts(request: SegmentRequest) -> dict[str, Parts]:
    """The parts of each preset of the request, with its settings; needs no model.

    Raises:
        UsageError: no preset, or an unknown preset, part or setting.
    """
    from binderclip.segment import override, parts_of
    from binderclip.settings import parse_override

    changes = [parse_override(text) for text in request.settings]
    return {name: override(parts_of(name), changes) for name in preset_names(request.preset)}


def build_segmenters(
    request: SegmentRequest, names: Sequence[str], clip: ImageTextModel | None = None
) -> dict[str, Segmenter]:
    """One segmenter for each preset of the request, settings checked before the model is loaded.

    Args:
        request: what was asked for.
        names: the labels, which descriptions must be of.
        clip: the model of the request, where it is loaded already.

    Raises:
        UsageError: an unknown preset, part or setting, a label without descriptions.
    """
    from binderclip.segment import Segmenter

    chosen = chosen_parts(request)
    if request.descriptions is not None:
        chosen = _described(chosen, request.descriptions, names)
    if clip is None:
        from binderclip.models import load

        clip = load(request.model, device=request.device, dtype=request.dtype)
    built = {}
    for name, parts in chosen.items():
        segmenter = Segmenter(clip, parts, background=request.background)
        built[name] = segmenter if request.size is None else segmenter.at(request.size)
    return built


def _described(chosen: dict[str, Parts], source: str, names: Sequence[str]) -> dict[str, Parts]:
    """The presets, those that mix them in with descriptions of the labels."""
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


def show_presets(json: bool, names: Sequence[str]) -> None:
    """Presets with their parts, and how they differ from the methods as published.

    Args:
        json: one document instead of tables, the differences of each preset under `departures`.
        names: of the presets.

    Raises:
        UsageError: an unknown preset.
    """
    from binderclip.segment import CHOICES, DEPARTURES, describe, parts_of

    if json:
        print_json({n: {**describe(parts_of(n)), "departures": list(DEPARTURES.get(n, ()))} for n in names})
        return
    plain = describe(parts_of("value"))
    rows = []
    for name in names:
        parts = {key: value for key, value in describe(parts_of(name)).items() if value != plain[key] and value}
        rows.append((name, "; ".join(f"{key}: {_short(value)}" for key, value in parts.items()) or "the value path"))
    print_table("presets of the segmenter", ("preset", "parts that differ from `value`"), rows)
    differ = [(name, line) for name in names for line in DEPARTURES.get(name, ())]
    if differ:
        print_table("how they differ from the methods as published", ("preset", "difference"), differ)
    places = {"map": "last_block.map"}
    named = [(places.get(part, part), ", ".join(names)) for part, names in CHOICES.items() if names]
    print_table("parts by name, for --set PART=NAME (none takes a part out)", ("part", "names"), named)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    if isinstance(value, dict):
        inner = ", ".join(
            f"{k}={_short(v)}" for k, v in value.items() if k != "part" and v not in (None, False, [], "")
        )
        return f"{value['part']}({inner})"
    return str(value)
