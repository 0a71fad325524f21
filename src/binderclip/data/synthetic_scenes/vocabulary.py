"""The words and cut-out pictures that scenes are made of.

A `Vocabulary` is a list of class names and, for each, the pack pictures that show it, as one uint8 RGBA array. It is
read once from the packs; after that a scene costs no decoding.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image
from scipy.ndimage import binary_fill_holes

from binderclip.data.sets.packs import PACKS, SPLITS, pack_folder
from binderclip.errors import UsageError
from binderclip.settings import check_choice

OPAQUE = 128  # alpha from which a pixel belongs to the object
MIN_SOLID = 150  # opaque pixels of 64 x 64 below which a drawing is too faint or thin to be an object
MIN_BOX = 0.22  # share of its bounding box that must be opaque
MIN_FILLED = 0.5  # share of the filled outline that must be opaque

# Fifteen classes that look unlike each other, each with enough drawings. An alias is the head of a phrase of the
# caption; "word*" is how a phrase begins; "!word" must not occur.
SCENES15: dict[str, tuple[str, ...]] = {
    "flag": ("flag", "!signal", "!semaphore", "!in hole"),
    "heart": ("heart", "!card", "!teddy", "!arrow", "!couple", "!broken", "!with", "!suit"),
    "folder": ("folder", "folder*", "file folder", "open file folder"),
    "clock": ("clock", "clock icon", "clock application icon", "!minute hand", "!sand glass", "!sandglass", "!timer"),
    "tree": ("tree", "!view tree", "!leaf", "!christmas balls", "!branch", "!fern", "!garden", "!tanabata", "!bench"),
    "house": ("house", "!dog house", "!green house", "!bird house", "!lowtec"),
    "cat": ("cat", "kitten", "cat face", "!big cat", "!map", "!with heart"),
    "dog": ("dog", "dog head", "dog face", "!hot dog", "!balloon dog"),
    "moon": ("moon", "moon*", "!cake", "!viewing", "!map", "!thermometer", "!moon face"),
    "jigsaw": ("jigsaw puzzle piece", "puzzle piece", "jigsaw piece", "jigsaw*", "!box"),
    "woman": ("woman", "woman*", "!eye", "!eyes", "!and man", "!man", "!couple", "!kiss", "!woman's", "!boot"),
    "apple": ("apple", "apple bitten", "!core", "!wedge", "!blackboard", "!chalkboard", "!seeds", "!adam"),
    "car": ("car", "automobile", "!cable car", "!driving", "!railway", "!tram"),
    "flower": ("flower", "blossom", "sunflower", "tulip", "rose", "hibiscus", "!tree", "!bird", "!hummingbird"),
    "cloud": ("cloud", "!clouds", "!network", "!fight", "!sun behind"),
}
NAMED: dict[str, dict[str, tuple[str, ...]]] = {"scenes15": SCENES15}

_CUT = re.compile(r"\b(?:of|in|on|with|for|from|at|to|by|holding|without|behind|under)\b|[-:(]")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Class names and the cut-out pictures of each.

    Args:
        names: C class names, in the order of their ids 1..C in a scene (0 is the background).
        sprites: (M, 64, 64, 4) uint8, straight (not premultiplied) RGBA.
        owner: (M,) index into `names`.
        captions: M captions, the phrase of the picture.
        keys: M keys of the pack rows.
        styles: M styles ("openclipart", "noto-emoji", "twemoji", ...).
        split: the split(s) the pictures come from.
        missing: names without a picture in that split; they keep their id and never occur.
    """

    names: tuple[str, ...]
    sprites: np.ndarray
    owner: np.ndarray
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    styles: tuple[str, ...]
    split: str = "train"
    missing: tuple[str, ...] = ()
    _members: dict[tuple[int, str | None], np.ndarray] = field(default_factory=dict, repr=False)
    _cut: dict[int, Image.Image] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.sprites.ndim != 4 or self.sprites.shape[-1] != 4 or self.sprites.dtype != np.uint8:
            raise UsageError(f"sprites must be uint8 (M, h, w, 4), got {self.sprites.dtype} {self.sprites.shape}")
        if not len(self.sprites) == len(self.owner) == len(self.captions) == len(self.keys) == len(self.styles):
            raise UsageError("sprites, owner, captions, keys and styles of a Vocabulary must have the same length")

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self.names)} names, {len(self.sprites)} pictures, split={self.split!r})"

    @property
    def classes(self) -> tuple[str, ...]:
        """`("background", *names)`: what the ids of `Scenes.semantic` index."""
        return ("background", *self.names)

    @property
    def counts(self) -> dict[str, int]:
        """Number of pictures of each name."""
        counts = np.bincount(self.owner, minlength=len(self.names))
        return {name: int(count) for name, count in zip(self.names, counts, strict=True)}

    @property
    def fingerprint(self) -> str:
        """Hash of names, pictures and their owners."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        digest.update(np.ascontiguousarray(self.sprites).tobytes())
        digest.update(np.ascontiguousarray(self.owner, dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]

    def members(self, owner: int, style: str | None = None) -> np.ndarray:
        """Rows of `sprites` that show class `owner` (in `style`, when given)."""
        key = (owner, style)
        if key not in self._members:
            chosen = self.owner == owner
            if style is not None:
                chosen = chosen & (np.asarray(self.styles) == style)
            self._members[key] = np.flatnonzero(chosen)
        return self._members[key]

    def cut(self, row: int) -> Image.Image:
        """Sprite `row` cropped to its visible part, premultiplied (mode RGBa), kept for the next time."""
        if row not in self._cut:
            sprite = self.sprites[row]
            seen = sprite[..., 3] >= OPAQUE // 8
            ys, xs = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            crop = sprite[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] if len(ys) else sprite
            self._cut[row] = Image.fromarray(np.ascontiguousarray(crop)).convert("RGBa")
        return self._cut[row]

    def only(self, names: Sequence[str]) -> Vocabulary:
        """The vocabulary restricted to `names`, in that order (for seen and unseen classes)."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise UsageError(f"{unknown[0]!r} is not in the vocabulary: {', '.join(self.names)}")
        position = {self.names.index(name): new for new, name in enumerate(names)}
        rows = [row for row, owner in enumerate(self.owner) if int(owner) in position]
        return Vocabulary(
            names=tuple(names),
            sprites=self.sprites[rows],
            owner=np.array([position[int(self.owner[row])] for row in rows], dtype=np.int64),
            captions=tuple(self.captions[row] for row in rows),
            keys=tuple(self.keys[row] for row in rows),
            styles=tuple(self.styles[row] for row in rows),
            split=self.split,
            missing=tuple(name for name in self.missing if name in names),
        )


def _heads(part: str) -> set[str]:
    """Endings of the phrase in front of the first preposition: "old red car on road" -> car, red car, old red car."""
    if " and " in part:
        return set()
    words = _CUT.split(part, maxsplit=1)[0].split()
    return {" ".join(words[start:]) for start in range(len(words))}


def caption_matches(caption: str, aliases: Sequence[str]) -> bool:
    """Whether a caption names a class.

    The caption is read as comma-separated phrases. A phrase names the class when an alias (or its plural) is its
    head, the words in front of the first preposition read from their end: "red car on a road" is a car, "car rental
    sign" and "apple pie" are not a car and an apple.

    Args:
        caption: one English line.
        aliases: words or phrases; "word*" matches the beginning of a phrase, "!word" rules the caption out.
    """
    text = caption.lower()
    words = re.findall(r"[a-z0-9']+", text)
    flat = f" {' '.join(words)} "
    allowed = [alias.lower() for alias in aliases if not alias.startswith("!")]
    if any(f" {alias[1:].lower()} " in flat for alias in aliases if alias.startswith("!")):
        return False
    for part in (piece.strip() for piece in text.split(",")):
        heads = _heads(part)
        for alias in allowed:
            if alias.endswith("*"):
                if " and " not in part and (part + " ").startswith(alias[:-1] + " "):
                    return True
            elif alias in heads or f"{alias}s" in heads:
                return True
    return False


@lru_cache(maxsize=8)
def _pack_columns(pack: str) -> dict[str, list]:
    import pyarrow.parquet as pq

    path = pack_folder() / PACKS[pack]
    names = set(pq.read_schema(path).names)
    present = [name for name in ("key", "caption", "split", "style", "mono", "image") if name in names]
    table = pq.read_table(path, columns=present)
    columns = {name: table[name].to_pylist() for name in present if name != "image"}
    columns["image"] = table["image"]
    columns.setdefault("style", [pack] * table.num_rows)
    columns.setdefault("mono", [False] * table.num_rows)
    return columns


def _check(names: object, split: str, packs: Sequence[str]) -> tuple[str, ...]:
    for pack in packs:
        check_choice("pack", pack, PACKS)
    splits = SPLITS if split == "all" else tuple(split.split("+"))
    for one in splits:
        if one not in SPLITS:
            raise UsageError(f"split {split!r} is unknown; use all, {', '.join(SPLITS)}, or several joined by '+'")
    if isinstance(names, str) and names not in (*NAMED, "captions"):
        known = ", ".join((*NAMED, "captions"))
        raise UsageError(f"vocabulary {names!r} is unknown; use {known}, a list of names, or a mapping to aliases")
    return splits


def _raise_missing(missing: Sequence[str], split: str, packs: Sequence[str]) -> None:
    seen = sorted(
        {part.strip() for pack in packs for text in _pack_columns(pack)["caption"] for part in text.split(",")}
    )
    near = difflib.get_close_matches(missing[0], seen, n=3)
    hint = f"; captions near it: {', '.join(near)}" if near else ""
    raise UsageError(f"no picture of {missing[0]!r} in split {split!r} of {', '.join(packs)}{hint}")


def vocabulary(
    names: str | Sequence[str] | Mapping[str, Sequence[str]] = "scenes15",
    *,
    split: str = "train",
    packs: Sequence[str] = ("openclipart", "noto-emoji", "icons", "openmoji"),
    mono: bool = False,
    per_class: int | None = None,
) -> Vocabulary:
    """Read the pictures of some classes from the packs.

    Args:
        names: "scenes15" (flag, heart, folder, clock, tree, house, cat, dog, moon, jigsaw, woman, apple, car, flower,
            cloud); "captions" (every distinct caption is a class: open-vocabulary training); a list of names, each
            matched on captions as the head of a phrase; or a mapping name -> aliases (see `caption_matches`).
        split: "train", "val", "test", "shift", "all", or several joined by "+" ("val+test").
        packs: which packs to look in: openclipart, noto-emoji, icons, openmoji (whose only split is "shift": a style
            that training never sees).
        mono: also take the one-colour silhouettes of the icon sets.
        per_class: keep at most this many pictures a class (the first by key).

    Returns:
        A `Vocabulary`; classes of "scenes15" without a picture in the split keep their id and are listed in `missing`.

    Raises:
        UsageError: an unknown pack, split or vocabulary, or a name no caption of the split matches.
    """
    splits = _check(names, split, packs)
    if isinstance(names, Mapping):
        frozen: str | tuple = tuple((name, tuple(aliases)) for name, aliases in names.items())
    else:
        frozen = names if isinstance(names, str) else tuple((name, (name,)) for name in names)
    return _read(frozen, split, splits, tuple(packs), mono, per_class)


@lru_cache(maxsize=16)
def _read(
    frozen: str | tuple,
    split: str,
    splits: tuple[str, ...],
    packs: tuple[str, ...],
    mono: bool,
    per_class: int | None,
) -> Vocabulary:
    rows = [
        (pack, row)
        for pack in packs
        for row, (one, flat) in enumerate(zip(_pack_columns(pack)["split"], _pack_columns(pack)["mono"], strict=True))
        if one in splits and (mono or not flat)
    ]
    text = [_pack_columns(pack)["caption"][row] for pack, row in rows]
    if frozen == "captions":
        classes = tuple(dict.fromkeys(text))
        index = {name: number for number, name in enumerate(classes)}
        pairs = [(index[caption], place) for place, caption in enumerate(text)]
    else:
        spec = NAMED[frozen].items() if isinstance(frozen, str) else frozen
        classes = tuple(name for name, _ in spec)
        pairs = []
        for place, caption in enumerate(text):
            owners = [number for number, (_, aliases) in enumerate(spec) if caption_matches(caption, aliases)]
            if len(owners) == 1:  # a caption that names two classes shows both: no use as a cut-out of one
                pairs.append((owners[0], place))
    if per_class is not None:
        kept: dict[int, int] = {}
        limited = []
        for owner, place in pairs:
            kept[owner] = kept.get(owner, 0) + 1
            if kept[owner] <= per_class:
                limited.append((owner, place))
        pairs = limited
    drawn = [_decode(_pack_columns(rows[place][0])["image"][rows[place][1]].as_py()) for _, place in pairs]
    solid = [_is_solid(sprite) for sprite in drawn]
    drawn = [sprite for sprite, keep in zip(drawn, solid, strict=True) if keep]
    pairs = [pair for pair, keep in zip(pairs, solid, strict=True) if keep]
    present = {owner for owner, _ in pairs}
    missing = tuple(name for number, name in enumerate(classes) if number not in present)
    if (missing and not isinstance(frozen, str)) or not pairs:
        _raise_missing(missing or (str(frozen),), split, packs)
    chosen = [rows[place] for _, place in pairs]
    sprites = np.stack(drawn)
    sprites.setflags(write=False)
    return Vocabulary(
        names=classes,
        sprites=sprites,
        owner=np.array([owner for owner, _ in pairs], dtype=np.int64),
        captions=tuple(text[place] for _, place in pairs),
        keys=tuple(_pack_columns(pack)["key"][row] for pack, row in chosen),
        styles=tuple(_pack_columns(pack)["style"][row] for pack, row in chosen),
        split=split,
        missing=missing,
    )


def _is_solid(sprite: np.ndarray) -> bool:
    """Whether the picture is a thing with a body: neither faint, nor shreds, nor a see-through outline."""
    mask = sprite[..., 3] >= OPAQUE
    count = int(mask.sum())
    if count < max(MIN_SOLID, MIN_FILLED * int(binary_fill_holes(mask).sum())):
        return False
    height, width = (np.ptp(np.flatnonzero(mask.any(axis))) + 1 for axis in (1, 0))
    return bool(count >= MIN_BOX * height * width)


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
