"""`binderclip classify --head`: pictures under a head that `binderclip adapt` or `save_head` left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.errors import DataError, UsageError
from binderclip.tasks.files.inputs import skip_pictures

if TYPE_CHECKING:
    import numpy as np

    from binderclip.models import ImageTextModel

NONE = "none of these"


@dataclass(frozen=True)
class Answers:
    """What a head says of the readable pictures.

    Attributes:
        labels: names of the columns of `probs` (N, C).
        said: the labels of each picture; empty where the head has several labels and none applies, `NONE` where the
            best probability is below the head's threshold.
        paths: the N pictures. skipped: (key, reason) of the others.
        features: (N, E) that the head looked at; None of one that looks at something else.
        several: whether a picture has any number of labels.
    """

    labels: list[str]
    probs: np.ndarray
    said: list[list[str]]
    paths: list[Any]
    skipped: list[tuple[str, str]]
    model: str
    features: np.ndarray | None = None
    several: bool = False

    def best(self, row: int, top: int) -> list[tuple[str, float]]:
        """(label, probability), likeliest first; a refusal first of all."""
        if not self.said[row]:
            return [(NONE, float((1 - self.probs[row]).prod()))]
        if len(self.said[row]) > 1:
            column = {label: c for c, label in enumerate(self.labels)}
            labels = [(label, float(self.probs[row, column[label]])) for label in self.said[row]]
            return sorted(labels, key=lambda pair: -pair[1])
        order = (-self.probs[row]).argsort(kind="stable")[:top]
        named = [(self.labels[c], float(self.probs[row, c])) for c in order]
        if self.said[row] == [NONE]:
            return [(NONE, 1 - named[0][1]), *named][:top]
        return named


def answers_of(
    folder: str | Path, paths: Sequence[Any], *, model: str | None, device: str, dtype: str, batch_size: int
) -> Answers:
    """Load a head and the model it stands on, and ask it about pictures.

    Args:
        folder: that `binderclip adapt --out` or `save_head` wrote.
        paths: image files; unreadable ones are skipped and named.
        model: another name of the same model; None: the name stored with the head.
        device, dtype, batch_size: of the model.

    Raises:
        CheckpointError: no head there.
        UsageError: a head that does not say which model it stands on, or one of another width.
    """
    from scipy import special

    from binderclip.adapt import OneVsRest, head_model, load_head
    from binderclip.models import load

    name = head_model(folder) if model is None else model
    if not name:
        raise UsageError(f"{folder} does not say which model its head stands on: give --model")
    clip = load(name, device=device, dtype=dtype)
    head = load_head(folder, model=clip)
    x, kept, skipped = _inputs(head, clip, paths, batch_size)
    labels = [str(label) for label in head.classes_.tolist()]
    if not kept:  # what is left out beside others is said where the answers are used
        skip_pictures(skipped, left=kept)
    try:
        if isinstance(head, OneVsRest):
            probs = head.predict_proba(x)
            answers = [[labels[c] for c in range(len(labels)) if row[c]] for row in head.predict(x)]
        else:
            about = getattr(head, "about_", {})
            probs = special.softmax(head.predict_logits(x) / float(about.get("temperature", 1.0)), axis=1)
            least = float(about.get("threshold", 0.0))
            answers = [[labels[int(row.argmax())]] if row.max() >= least else [NONE] for row in probs]
    except ValueError as error:
        raise UsageError(f"{folder} stands on another model than {name}: {error}") from error
    features = x if head.input_level == "features" else None
    return Answers(labels, probs, answers, kept, skipped, name, features, isinstance(head, OneVsRest))


def _inputs(head: Any, clip: ImageTextModel, paths: Sequence[Any], batch_size: int) -> tuple[Any, list[Any], list]:
    from binderclip.adapt import features_for

    if head.input_level == "features":
        encoded = clip.encode_files(list(paths), batch_size=batch_size)
        return encoded.features.double().cpu().numpy(), list(encoded.paths), encoded.skipped
    pixels, kept, skipped = [], [], []
    for path in paths:
        try:
            pixels.append(clip.preprocess.pixels(path))
            kept.append(path)
        except DataError as error:
            skipped.append((str(path), str(error)))
    x = features_for(head, clip, pixels, batch_size=min(batch_size, 16)) if kept else None
    return (x if head.input_level == "images" or x is None else x.double().numpy()), kept, skipped
