"""Real photographs named by eye, to learn, choose and measure on: the list is here, the pictures are never shipped.

`labelled_photographs.csv` names files of Debian packages. Every picture was looked at; neither file names nor a model
that is measured here decided. "learn" holds what `small` was trained on and nothing else; "choose" is for settings;
"report" for figures that are published, and for nothing before them. A split is made of whole packages, of which two
are cut at a folder or resource file (`SPLIT_RULES`); no scene and no monument lies in two splits.

`region_photographs.csv` names more of them, with people. They are looked at where regions are learned
(`photograph_masks`) and where people are (`everyday.people_probe`), and nowhere else.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from binderclip.data import open_image
from binderclip.errors import DataError, UsageError
from binderclip.train.bundled.data.photographs import qt_resources

__all__ = [
    "DISTRACTORS",
    "SPLIT_RULES",
    "LabelledPhotograph",
    "PhotographKind",
    "PhotographSplit",
    "label_names",
    "load_labelled_photographs",
    "load_region_photographs",
    "package_path",
    "photograph_rows",
    "region_photograph_rows",
    "require_files",
    "split_of",
]

PhotographSplit = Literal["learn", "choose", "report"]
PhotographKind = Literal["photograph", "cutout"]
_RCC = "/usr/share/gcompris-qt/rcc/"
SPLIT_RULES: tuple[tuple[str, str, PhotographSplit], ...] = (
    ("plasma-workspace-wallpapers", "", "learn"),
    ("gnome-backgrounds", "", "learn"),
    ("mate-backgrounds", "", "learn"),
    ("tuxpaint-stamps-default", "", "learn"),
    ("gcompris-qt-data", f"{_RCC}categorization.rcc", "learn"),
    ("gcompris-qt-data", f"{_RCC}erase.rcc", "learn"),
    ("gcompris-qt-data", f"{_RCC}explore_farm_animals.rcc", "learn"),
    ("gcompris-qt-data", f"{_RCC}explore_monuments.rcc", "learn"),
    ("gcompris-qt-data", f"{_RCC}explore_world_animals.rcc", "learn"),
    ("gcompris-qt-data", f"{_RCC}lang.rcc", "learn"),
    ("gcompris-qt-data", "", "report"),
    ("tuxpaint-data", "", "choose"),
    ("kalzium-data", "", "choose"),
    ("stellarium-data", "", "choose"),
    ("opencv-doc", "/usr/share/doc/opencv-doc/opencv4/", "choose"),
    ("opencv-doc", "/usr/share/doc/opencv-doc/examples/", "report"),
    ("budgie-backgrounds", "", "report"),
    ("libjxl-testdata", "", "report"),
    ("palapeli-data", "", "report"),
    ("lomiri-wallpapers", "", "report"),
    ("ukui-wallpapers", "", "report"),
)
"""(package, start of the file's path, split); the first that fits counts. Of gnome-backgrounds, lomiri-wallpapers and
ukui-wallpapers nothing is in the list: they hold drawings."""
# fmt: off
DISTRACTORS: tuple[str, ...] = (
    "accordion", "ambulance", "baby", "banana", "bathroom", "carrot", "cucumber", "grapes", "hamburger", "helicopter",
    "hippopotamus", "ice cream", "kitchen", "ladder", "laptop", "lightning", "mirror", "motorcycle", "octopus", "piano",
    "pineapple", "pizza", "rainbow", "refrigerator", "scorpion", "sewing machine", "shark", "skateboard", "snail",
    "snake", "snowman", "starfish", "submarine", "suitcase", "supermarket", "swimming pool", "teapot", "telephone",
    "tent", "toothbrush", "tractor", "train", "turtle", "typewriter", "umbrella", "volcano", "washing machine",
    "waterfall",
)
# fmt: on
"""Plain nouns that no picture of the list shows."""


@dataclass(frozen=True)
class LabelledPhotograph:
    """A picture in a package, and its names.

    Attributes:
        package: of Debian. file: the path that dpkg installs it to. member: its name inside a Qt resource file, or "".
        label: the word that fits best. also: others that are right too (what it is a kind of, a second subject).
        shows: words for what is visible beside it, or that one may dispute: neither right nor wrong for this picture.
        kind: "cutout" has transparent ground, which is opened as white.
        scene: the label names a place, weather or time of day rather than a thing.
        split: what it may be used for.
        path: where the file lies here; None if it was not looked for.
    """

    package: str
    file: str
    member: str
    label: str
    also: tuple[str, ...]
    shows: tuple[str, ...]
    kind: PhotographKind
    scene: bool
    split: PhotographSplit
    path: Path | None = None

    def open(self) -> Image.Image:
        """The picture as 8-bit RGB, transparent parts white.

        Raises:
            UsageError: its file was not looked for.
            DataError: the file is not readable, or has no such member.
        """
        if self.path is None:
            raise UsageError(f"open: {self.file} was not looked for; use load_labelled_photographs")
        if not self.member:
            return open_image(self.path)
        members = _members(self.path)
        if self.member not in members:
            raise DataError(f"{self.path} has no {self.member}: another version of {self.package}?")
        return open_image(io.BytesIO(members[self.member]))


@lru_cache(maxsize=1)  # rows of one resource file follow each other; the largest has 13 MB
def _members(path: Path) -> dict[str, bytes]:
    return dict(qt_resources(path))


def photograph_rows() -> tuple[LabelledPhotograph, ...]:
    """All rows of the list, by split, package and file; needs no package."""
    return _rows("labelled_photographs.csv")


def region_photograph_rows() -> tuple[LabelledPhotograph, ...]:
    """Rows of photographs that only regions and people are learned from, by package and file; needs no package."""
    return _rows("region_photographs.csv")


@lru_cache(maxsize=2)
def _rows(name: str) -> tuple[LabelledPhotograph, ...]:
    text = resources.files("binderclip.train.bundled.data").joinpath(name)
    with io.StringIO(text.read_text(encoding="utf-8")) as lines:
        return tuple(
            LabelledPhotograph(
                package=row["package"],
                file=row["file"],
                member=row["member"],
                label=row["label"],
                also=tuple(row["also"].split(";")) if row["also"] else (),
                shows=tuple(row["shows"].split(";")) if row["shows"] else (),
                kind=row["kind"],  # type: ignore[arg-type]
                scene=row["scene"] == "true",
                split=row["split"],  # type: ignore[arg-type]
            )
            for row in csv.DictReader(lines)
        )


def split_of(package: str, file: str) -> PhotographSplit:
    """The split that `SPLIT_RULES` give a file.

    Raises:
        UsageError: a package, or a part of one, that they do not name.
    """
    for name, start, split in SPLIT_RULES:
        if package == name and file.startswith(start):
            return split
    raise UsageError(f"split_of: no rule for {file} of {package}; packages: {', '.join(_packages())}")


def _packages() -> list[str]:
    return sorted({package for package, _, _ in SPLIT_RULES})


def label_names(*splits: PhotographSplit, distractors: bool = True) -> tuple[str, ...]:
    """Sorted words for classification: every `label`, `also` and `shows` of some splits, and words that nothing shows.

    Args:
        splits: whose words; all three without any.
        distractors: with `DISTRACTORS`.

    Raises:
        UsageError: an unknown split.

    Examples:
        >>> len(label_names("report")) >= 150
        True
    """
    known = get_args(PhotographSplit)
    for split in splits:
        _known_split(split)
    rows = [row for row in photograph_rows() if row.split in (splits or known)]
    words = {word for row in rows for word in (row.label, *row.also, *row.shows)}
    return tuple(sorted(words | (set(DISTRACTORS) if distractors else set())))


def _known_split(split: str) -> None:
    if split not in get_args(PhotographSplit):
        raise UsageError(f"split is {split!r}; it is {', '.join(map(repr, get_args(PhotographSplit)))}")


def package_path(package: str, file: str, root: str | Path | Mapping[str, str | Path] = "/") -> Path:
    """Where a file of a package lies: below `root`, or below the folder that `root` gives for the package.

    Raises:
        UsageError: a mapping without the package.
    """
    if isinstance(root, Mapping):
        if package not in root:
            raise UsageError(f"root: no folder for {package}; it has {', '.join(sorted(root)) or 'none'}")
        root = root[package]
    return Path(root) / file.lstrip("/")


def load_labelled_photographs(
    split: PhotographSplit | None = None, *, root: str | Path | Mapping[str, str | Path] = "/"
) -> list[LabelledPhotograph]:
    """Find the labelled photographs of a split.

    Args:
        split: "learn" (209), "choose" (96), "report" (77), or None for all.
        root: where the packages are installed, "/"; or the folder of each package as `dpkg-deb --extract` makes it.

    Returns:
        rows with `path`, by split, package and file.

    Raises:
        UsageError: an unknown split, or a package that `root` does not name.
        DataError: files that are not there; the message names their packages and how to get them.
    """
    return _located(photograph_rows(), split, root)


def load_region_photographs(
    split: PhotographSplit | None = None, *, root: str | Path | Mapping[str, str | Path] = "/"
) -> list[LabelledPhotograph]:
    """Find the photographs that regions and people are learned from and nothing else, as others are found.

    Args:
        split: "choose" (8); the others have none.
        root: where the packages are.
    """
    return _located(region_photograph_rows(), split, root)


def _located(
    rows: Iterable[LabelledPhotograph], split: PhotographSplit | None, root: str | Path | Mapping[str, str | Path]
) -> list[LabelledPhotograph]:
    if split is not None:
        _known_split(split)
    own = [row for row in rows if split in (None, row.split)]
    located = [replace(row, path=package_path(row.package, row.file, root)) for row in own]
    require_files(located)
    return located


def require_files(rows: Iterable[LabelledPhotograph]) -> None:
    """Refuse rows whose file is not there.

    Raises:
        DataError: names the packages and how to get them.
    """
    missing = [row for row in rows if row.path is None or not row.path.is_file()]
    if missing:
        packages = sorted({row.package for row in missing})
        raise DataError(
            f"{len(missing)} labelled photographs are not there, the first {missing[0].path}; "
            f"apt-get install {' '.join(packages)} (their pictures are not shipped), or name their folders with root"
        )
