"""The bundled weights `lite0-quality`: blind quality, trained on photographs of Debian's packages.

`train_blind(".../bundled/lite0-quality", work="work", measured="/usr/share/gcompris-qt/rcc")` trains, puts ten damaged
photographs among those of another package, which it never learned from, and writes weights and card. What has been
looked at lies in `work`, so that a run that was stopped goes on to the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from binderclip.documents import json_text
from binderclip.files import write_whole
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.quality import BlindQuality
from binderclip.train.bundled.data.damaged_folder import TEN_FAULTS, DamagedPicture, places_from_last, ten_damaged
from binderclip.train.bundled.data.photographs import (
    OTHER_PHOTOGRAPHS,
    PHOTOGRAPHS,
    gcompris_photographs,
    other_photographs,
    photographs_in,
    things_on_plain_ground,
)

__all__ = [
    "FolderFigures",
    "folder_figures",
    "measured_folders",
    "train_blind",
    "training_pictures",
    "write_blind",
]

TRAINING: dict[str, Any] = {"views": 6900, "steps": 6000}
COUNT, LONGEST = 200, 768
"""Photographs of the folder that is measured, and the longer side that the command reduces them to."""
FOLDERS = tuple(range(15, 25))
"""Seeds of the folders: which ten are damaged, and how strongly; 0 to 14 were looked at while weights were made."""


@dataclass(frozen=True)
class FolderFigures:
    """Where ten damaged pictures come in folders, counted from the worst.

    Attributes:
        photographs: in a folder, with the damaged ones.
        among_ten: of the ten, how many are among the worst ten; mean over the folders.
        among_twenty: and among the worst twenty.
        all_within: the place of the best placed of the ten; mean over the folders.
        above: probability that a damaged picture scores below a whole one.
        places: fault -> its places, folder by folder.
    """

    photographs: int
    among_ten: float
    among_twenty: float
    all_within: float
    above: float
    places: Mapping[str, list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        figures = ("among_ten", "among_twenty", "all_within", "above")
        return {name: round(getattr(self, name), 3) for name in figures} | {"places": dict(self.places)}


def folder_figures(whole: Sequence[float], damaged: Sequence[Sequence[tuple[DamagedPicture, float]]]) -> FolderFigures:
    """Where the damaged pictures of some folders come, counted from the worst.

    Args:
        whole: scores of the photographs, higher is better.
        damaged: of every folder, the ten with their scores; they stand where their photographs did.
    """
    places: dict[str, list[int]] = {name: [] for name in TEN_FAULTS}
    above = []
    for ten in damaged:
        scores, rows = np.array(whole, dtype=float), [one.row for one, _ in ten]
        scores[rows] = [score for _, score in ten]
        for (one, _), place in zip(ten, places_from_last(scores.tolist(), rows), strict=True):
            places[one.fault].append(place)
        kept = np.delete(scores, rows)
        above.append(np.mean([(kept > scores[row]).mean() + (kept == scores[row]).mean() / 2 for row in rows]))
    table = np.array(list(places.values()))  # (10, folders)
    return FolderFigures(
        len(whole), float((table <= 10).sum(0).mean()), float((table <= 20).sum(0).mean()),
        float(table.max(0).mean()), float(np.mean(above)), places,
    )  # fmt: skip


def measured_folders(metric: BlindQuality, photographs: Sequence[Image.Image]) -> FolderFigures:
    """Damage ten of some photographs, once for every seed of `FOLDERS`, and see where a metric puts them.

    Args:
        metric: its `longest` is what pictures are reduced to after they were damaged.
        photographs: whole ones.
    """
    folders = [ten_damaged(photographs, seed) for seed in FOLDERS]
    pictures = [*photographs, *(one.picture for ten in folders for one in ten)]
    scores = metric.score_files(pictures, on_error="raise").total.tolist()
    left = iter(scores[len(photographs) :])
    return folder_figures(scores[: len(photographs)], [[(one, next(left)) for one in ten] for ten in folders])


def training_pictures(share: str | Path = "/usr/share") -> list[ImageLike]:
    """What the weights learn from: wallpapers, other photographs, and things before a plain ground.

    Args:
        share: the folder that Debian's packages are unpacked to.

    Raises:
        UsageError: a folder or file that is not there.
    """
    share = Path(share)
    wallpapers = photographs_in([str(share / Path(folder).relative_to("/usr/share")) for folder in PHOTOGRAPHS])
    return [*wallpapers, *other_photographs(share), *things_on_plain_ground(share / "tuxpaint" / "stamps")]


def train_blind(
    target: str | Path,
    share: str | Path = "/usr/share",
    *,
    work: str | Path | None = None,
    measured: str | Path | None = None,
) -> Path:
    """Train, measure and write the folder.

    Args:
        target: the new folder; its name is that of the weights.
        share: the folder that Debian's packages, with the photographs to learn from, are unpacked to.
        work: where statistics are kept as they are ready; None for nowhere.
        measured: GCompris's `rcc` folder, whose photographs are measured on; None to measure nothing.

    Raises:
        UsageError: a folder or file that is not there.
        DataError: a picture that cannot be read.
    """
    pictures = training_pictures(share)
    metric = BlindQuality(longest=LONGEST)
    metric.fit(pictures, folder=work, **TRAINING)
    figures = None
    if measured is not None:
        shown = [picture for _, picture in gcompris_photographs(Path(measured))[:COUNT]]
        figures = measured_folders(metric, shown)
    return write_blind(Path(target), metric, len(pictures), figures)


def write_blind(target: Path, metric: BlindQuality, photographs: int, figures: FolderFigures | None) -> Path:
    """Write weights and card.

    Args:
        target: the folder.
        metric: fitted.
        photographs: how many it has learned from.
        figures: what was measured, or None.
    """
    target.mkdir(parents=True, exist_ok=True)
    metric.save_weights(target / "quality.safetensors")
    card: dict[str, Any] = {
        "name": target.name,
        "summary": "what faults of photographs look like: a perceptron on statistics of pixels and of lite0's maps",
        "recipe": "binderclip.train.bundled.blind.train_blind",
        "how": f"{photographs} pictures of Debian's packages: wallpapers, a few of them drawn "
        "(plasma-workspace-wallpapers, mate-backgrounds, budgie-backgrounds, lomiri-wallpapers-16.04, "
        f"lomiri-wallpapers-20.04, ukui-wallpapers), {sum(map(len, OTHER_PHOTOGRAPHS.values()))} other photographs "
        "(kalzium-data, libjxl-testdata, opencv-doc, "
        "palapeli-data, stellarium-data, tuxpaint-data), and cut-out things before a plain ground "
        f"(tuxpaint-stamps-default); {TRAINING['views']} views with three faults each, {TRAINING['steps']} steps. "
        "Cross-validation on 208 of them chose steps, width, dropout and score. Fifteen other folders made as those "
        "below had been looked at: that there are grey noise and specks, no bent pictures, other photographs, things "
        "and differently developed views in the training came of what was missed and what was called faulty there.",
    }
    if figures is not None:
        card["unit"] = (
            "Folders of photographs of gcompris-qt-data, reduced to 768 px, ten damaged by other code than they were "
            "learned from; means over ten folders that were not looked at before. "
            "among_ten, among_twenty: how many of the ten are among the worst ten and twenty. all_within: the place of "
            "the last one found. above: probability that a damaged one scores below a whole one. places: of each "
            "fault, folder by folder, 1 the worst"
        )
        card["figures"] = {"photographs": figures.photographs, **figures.as_dict()}
    write_whole(target / "card.json", json_text(card) + "\n")
    return target
