"""COCO's caption files: `annotations/captions_val2017.json` beside the folder `val2017`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from binderclip.data.formats.tables import read_captions, read_json
from binderclip.data.formats.trees import Tree
from binderclip.errors import DataError

PICTURE_FOLDER = re.compile(r"(train|val|test|unlabeled)20\d\d")
"""Names of COCO's picture folders, which are splits and never classes."""
_SPLIT = re.compile(r"(train|val|test)(?:20\d\d)?")


def caption_files(tree: Tree) -> list[str]:
    """The caption files of a COCO folder; none where it is no such folder.

    Raises:
        DataError: there are COCO annotations, but no captions among them.
    """
    places = [name for name in tree.files if posixpath.dirname(name) in ("", "annotations")]
    files = [name for name in places if name.lower().endswith(".json")]
    captions = [name for name in files if posixpath.basename(name).lower().startswith("captions_")]
    if captions:
        return captions
    others = [n for n in files if re.match(r"(instances|person_keypoints|panoptic|stuff)_", posixpath.basename(n))]
    if others:
        raise DataError(
            f"{tree.title}: COCO annotations without captions ({', '.join(others[:3])}): add "
            "annotations/captions_*.json, or a table captions.csv"
        )
    return []


def is_coco(document: Any) -> bool:
    """Whether a JSON document has the two tables of COCO captions."""
    return isinstance(document, dict) and all(isinstance(document.get(key), list) for key in ("images", "annotations"))


def coco_records(tree: Tree, name: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(place, file_name, captions and split, or what is wrong) of every picture of a caption file.

    Args:
        tree: where it lies.
        name: of the file.

    Raises:
        DataError: not COCO captions.
    """
    try:
        document = read_json(tree.read(name))
    except DataError as error:
        raise DataError(str(error) if name in str(error) else f"{tree.title}/{name}: {error}") from error
    if not is_coco(document):
        raise DataError(f"{tree.title}/{name}: no COCO captions: it needs the lists `images` and `annotations`")
    captions: dict[Any, list[str]] = {}
    for note in document["annotations"]:
        if isinstance(note, dict) and isinstance(note.get("image_id"), (int, str)):
            captions.setdefault(note["image_id"], []).extend(read_captions(note.get("caption")))
    stem = posixpath.splitext(posixpath.basename(name))[0].partition("_")[2]
    split = _SPLIT.fullmatch(stem)
    base = posixpath.basename(name)
    for image in document["images"]:
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            yield base, "an image without file_name"
            continue
        texts = captions.get(image["id"], []) if isinstance(image.get("id"), (int, str)) else []
        record: dict[str, Any] = {"file_name": _place(tree, stem, image["file_name"]), "captions": texts}
        yield base, {**record, "id": image.get("id"), **({"split": split[1]} if split else {})}


def _place(tree: Tree, stem: str, name: str) -> str:
    """The picture in the folder of its split, in `images`, or wherever the only one of its name is."""
    for folder in (stem, f"images/{stem}", "images", ""):
        place = posixpath.normpath(posixpath.join(folder, name))
        if place in tree:
            return place
    return tree.find(name)
