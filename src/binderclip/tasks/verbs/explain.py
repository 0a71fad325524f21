"""What `explain` draws: methods built from words, and captions scored word by word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.explain import DenseMisalignment, Misalignment

SIDE = 512
"""Longest side at which a picture is explained: the model sees less, and maps are drawn at the picture's own size."""
LANCZOS = 1
"""Pillow's number of the filter by which it is made smaller."""
BUNDLED = ("everyday", "small", "small-b")
ALIGNED = 200
"""Fitting pairs of the bundled training pictures that set the threshold of a bundled model."""


def build_methods(names: Sequence[str], layer: str | None, settings: Sequence[str]) -> dict[str, Any]:
    """Methods by name with `--layer` and `--set` applied, before any model is loaded.

    Raises:
        UsageError: an unknown method or setting, or a layer for a method that looks at pixels.
    """
    import inspect

    from binderclip.explain import METHODS
    from binderclip.settings import check_part, parse_override

    for name in names:
        if name not in METHODS:
            raise UsageError(f"--method {name!r} is unknown; there are {', '.join(sorted(METHODS))}")
    chosen: dict[str, Any] = {}
    for text in settings:
        key, value = parse_override(text)
        chosen[".".join(key)] = value
    built = {}
    for name in names:
        accepted = inspect.signature(METHODS[name]).parameters
        mine = {key: value for key, value in chosen.items() if len(names) == 1 or key in accepted}
        if layer is not None:
            place: int | str = int(layer) if re.fullmatch("-?[0-9]{1,4}", layer) else layer
            slot = next((option for option in ("layer", "layers") if option in accepted), None)
            if slot is not None and not (name.startswith(("smoothgrad", "vargrad")) and slot == "layers"):
                mine[slot] = place
            elif len(names) == 1:
                raise UsageError(f"--layer: {name} looks at the pixels, not at a layer")
        check_part({"name": name, **mine}, METHODS, "method")
        built[name] = METHODS[name](**mine)
    return built


def shrunk(picture: Image.Image) -> Image.Image:
    """A picture as it is explained: at most `SIDE` pixels long."""
    from PIL.Image import Resampling

    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Resampling(LANCZOS), None)
    return small


def caption_score(
    clip: Any,
    name: str,
    picture: Any,
    caption: str,
    *,
    decision: str = "threshold",
    eps: float | None = None,
    prompt: str = "A photo depicts ",
) -> Any:
    """F-CLIPScore of a picture and a caption, with what every word does to their match in `found`.

    Args:
        clip, name: the model, and what it is called; for a bundled one the threshold is found on bundled pictures.
        picture, caption, decision, eps, prompt: see `explain_words`.
    """
    from binderclip.evaluate import f_clipscore_dm
    from binderclip.explain import DenseMisalignment

    method = DenseMisalignment(decision, prompt=prompt, **({} if eps is None else {"eps": eps}))  # type: ignore[arg-type]
    if decision == "threshold" and eps is None and name in BUNDLED:
        method = calibrated(clip, method)
    return f_clipscore_dm(clip, [picture], caption, method=method)


def calibrated(clip: Any, method: DenseMisalignment) -> DenseMisalignment:
    """The method with the threshold that 5 % of the words of bundled training captions fall below."""
    from binderclip.data import load_data
    from binderclip.data.cache.features import FeatureCache

    data = load_data("openclipart", split="train")
    # start and end stand in both counts
    room = clip.tokenizer.context_length + 2 - int(clip.tokenizer.encode([method.prompt])[1].sum())
    several = [row for row, text in enumerate(data.captions) if len(text.split()) > 1]
    sizes = clip.tokenizer.encode([data.captions[row] for row in several])[1].sum(dim=1).tolist()
    rows = [row for row, size in zip(several, sizes, strict=True) if size <= room]
    rows = rows[:: max(1, len(rows) // ALIGNED)][:ALIGNED]
    cache = FeatureCache(clip.fingerprint, f"whole, background {data.background}")
    keys = [data.content_hash(row) for row in rows]
    features = cache.fetch(keys, lambda missing: clip.encode_image([data[rows[k]].image for k in missing]))
    return method.calibrate(clip, features.float(), [data.captions[row] for row in rows])


def words_html(found: Misalignment) -> str:
    """The caption as HTML: green words speak for the picture, red ones against it; what does not fit is underlined."""
    words = found.words()[0]
    top = max((abs(score) for _, score in words if score is not None), default=0.0) or 1.0
    spans = [_span(word, score, top, wrong) for (word, score), wrong in zip(words, found.flagged[0], strict=True)]
    return f'<span style="font-size: 1.4rem; line-height: 2.2">{" ".join(spans)}</span>'


def _span(word: str, score: float | None, top: float, wrong: bool) -> str:
    if score is None:
        return f'<s title="not seen by the model">{escape(word)}</s>'
    colour = "200, 30, 30" if score < 0 else "20, 140, 60"
    line = "; text-decoration: underline; text-decoration-thickness: 3px" if wrong else ""
    style = (
        f"background: rgba({colour}, {0.75 * abs(score) / top:.2f}); border-radius: 5px; padding: .1rem .35rem{line}"
    )
    return f'<span style="{style}" title="{score:.6f}">{escape(word)}</span>'
