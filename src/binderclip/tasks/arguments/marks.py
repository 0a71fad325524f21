"""`--mark` with `--box`: pictures are marked before they are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.boxes import parse_box

if TYPE_CHECKING:
    import numpy as np

    from binderclip.adapt import Edit, Region
    from binderclip.models import EncodedImages, ImageTextModel


def parse_mark(mark: str | None, box: str | None) -> tuple[Edit, Region] | None:
    """The edit and the region of `--mark` and `--box`, or None where neither is given.

    Raises:
        UsageError: one without the other, an unknown mark, or a malformed box.
    """
    if mark is None and box is None:
        return None
    if mark is None or box is None:
        raise UsageError("--mark and --box belong together, such as --mark crop --box 20,10,120,90")
    from binderclip.adapt import MARKS

    if mark not in MARKS:
        raise UsageError(f"--mark {mark!r} is unknown; there are {', '.join(MARKS)}")
    return MARKS[mark], parse_box(box)


def encode_marked(
    clip: ImageTextModel, paths: Sequence[Path], mark: tuple[Edit, Region], *, batch_size: int = 64
) -> EncodedImages:
    """As `clip.encode_files`, of the marked pictures.

    A picture that cannot be read, or that the box does not meet, is skipped and reported.

    Args:
        clip: encodes.
        paths: of the pictures.
        mark: what `parse_mark` gave.
        batch_size: pictures held and encoded at once.
    """
    import torch

    from binderclip.models import EncodedImages

    edit, region = mark
    features, kept, skipped = [], [], []
    for start in range(0, len(paths), batch_size):
        pictures: list[np.ndarray] = []
        for position in range(start, min(start + batch_size, len(paths))):
            try:
                pictures.append(edit(paths[position], region))
                kept.append(position)
            except (DataError, UsageError) as error:
                skipped.append((str(paths[position]), str(error)))
        if pictures:
            features.append(clip.encode_files(pictures, batch_size=batch_size).features)
    rows = torch.cat(features) if features else torch.zeros(0, clip.embed_dim, device=clip.device)
    return EncodedImages(rows, [paths[i] for i in kept], kept, skipped)
