"""Which presets of the segmenter a command means, built and shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from binderclip.errors import UsageError
from binderclip.models.files.registry import has_concepts
from binderclip.tasks.arguments.labels import parse_labels

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

    @property
    def title(self) -> str:
        """What made the label maps."""
        return f"{self.preset}, model {self.model}"

    @property
    def described(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"model": self.model, "preset": self.preset}

    def record(self, names: Sequence[str]) -> dict[str, Any]:
        """What the label maps depend on."""
        return {
            "labels": list(names),
            "background": list(self.background),
            "preset": self.preset,
            "settings": list(self.settings),
            "size": self.size,
            "model": self.model,
            "descriptions": self.descriptions,
        }

    def build(self, names: Sequence[str]) -> Segmenter:
        """The segmenter of the one preset."""
        return next(iter(build_segmenters(self, names).values()))


def default_preset(model: str) -> str:
    """The preset of those who name none: objects cut out with concepts, else one that finds the ground.

    `clip_dinoiser` stands on a head that was trained for `small`; other towers with attention take its teacher.
    """
    if has_concepts(model):
        return "photograph"
    return {"small": "clip_dinoiser", "small-b": "dense"}.get(model, "clip_dinoiser-teacher")


def ground_words(
    background: str | None, names: Sequence[str], option: str = "--background", *, files: bool = True
) -> list[str]:
    """The words of --background for what is none of the labels.

    Args:
        background: as the user wrote it; None takes the usual words, an empty one or `none` no words.
        names: the labels, which the usual words leave out.
        option, files: as `parse_labels` takes them.

    Raises:
        UsageError: as `parse_labels`.
    """
    if background is None:
        from binderclip.segment import GROUND

        return [word for word in GROUND if word not in names]
    if background.strip() in ("", "none"):
        return []
    return parse_labels(background.strip(), option, files=files)


def preset_names(text: str, model: str | None = None) -> list[str]:
    """What --preset says: names apart by commas, `all` for every one.

    Args:
        text: as the user wrote it.
        model: `all` leaves out what a model of this name has no concepts for; None leaves out nothing.

    Raises:
        UsageError: there is no name.
    """
    from binderclip.segment import PRESETS

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"--preset is empty; there are {', '.join(PRESETS)}")
    if names != ["all"]:
        return names
    return [name for name in PRESETS if name != "photograph" or model is None or has_concepts(model)]


def chosen_parts(request: SegmentRequest) -> dict[str, Parts]:
    """The parts of each preset of the request, with its settings; needs no model.

    Raises:
        UsageError: no preset, or an unknown preset, part or setting.
    """
    from binderclip.segment import override, parts_of
    from binderclip.settings import parse_override

    changes = [parse_override(text) for text in request.settings]
    return {name: override(parts_of(name), changes) for name in preset_names(request.preset, request.model)}


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
