"""What `binderclip classify` does with pictures: labels by their texts, or by a head that learned them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.tasks.arguments.marks import encode_marked
from binderclip.tasks.verbs.classify.zero_shot import ZeroShotOptions, classify_views

if TYPE_CHECKING:
    from binderclip.adapt import Edit, Region
    from binderclip.models import ImageTextModel


@dataclass(frozen=True)
class LabelAnswers:
    """For each image the likeliest labels with their probability.

    Attributes:
        model: its name. labels: all that were asked for.
        rows: (image, [(label, probability), ...]), likeliest first.
        skipped: (image, reason) of those that could not be read.
        preprocess: of the model, where it saw each picture as a whole, cropped as it does; else None.
    """

    model: str
    labels: list[str]
    rows: list[tuple[Any, list[tuple[str, float]]]]
    skipped: list[tuple[str, str]]
    preprocess: Any = None


def by_labels(
    clip: ImageTextModel,
    options: ZeroShotOptions,
    paths: Sequence[Path],
    *,
    top: int = 3,
    mark: tuple[Edit, Region] | None = None,
    batch_size: int = 64,
    progress: Callable[[int], object] | None = None,
) -> LabelAnswers:
    """Zero-shot: which of the labels fits each image.

    Args:
        clip: encodes.
        options: labels, texts, pools and views, of `parse_zero_shot`.
        paths: image files.
        top: labels given for each.
        mark: drawn on each image first.
        batch_size: images that go through the model at once.
        progress: called with the number of images done, where they are seen whole.
    """
    names = options.names
    if options.plain:
        bank = clip.text_bank(names, options.templates or "simple")
        if mark is None:
            encoded = clip.encode_files(list(paths), batch_size=batch_size, progress=progress)
        else:
            encoded = encode_marked(clip, paths, mark, batch_size=batch_size)
        probs = clip.classify_features(encoded.features, bank).probs
    else:
        encoded, probs = classify_views(clip, options, paths, mark=mark, batch_size=batch_size)
    order = probs.argsort(dim=-1, descending=True)[:, :top]
    rows = [
        (path, [(names[c], float(probs[row, c])) for c in order[row].tolist()])
        for row, path in enumerate(encoded.paths)
    ]
    cropped = options.views is None and mark is None
    return LabelAnswers(clip.name, names, rows, encoded.skipped, clip.preprocess if cropped else None)


def by_head(
    head: Path, paths: Sequence[Path], *, top: int = 3, model: str | None, device: str, dtype: str, batch_size: int
) -> LabelAnswers:
    """Labels of a head that `binderclip adapt` left; the arguments are those of `learned_heads.answers_of`."""
    from binderclip.tasks.verbs.classify.learned_heads import answers_of

    found = answers_of(head, list(paths), model=model, device=device, dtype=dtype, batch_size=batch_size)
    rows = [(path, found.best(row, top)) for row, path in enumerate(found.paths)]
    return LabelAnswers(found.model, found.labels, rows, found.skipped)
