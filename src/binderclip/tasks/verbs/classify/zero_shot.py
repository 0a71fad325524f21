"""What `classify` is told about texts, pools and views, and the classifier they add up to."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.documents import parse_json, read_problem
from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.boxes import COLUMNS
from binderclip.tasks.arguments.marks import encode_marked
from binderclip.tasks.events import warn

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from binderclip.adapt import Edit, Region, Views, ZeroShotClassifier
    from binderclip.models import EncodedImages, ImageTextModel, TextBank
    from binderclip.tasks.verbs.classify.request import ClassifyRequest


@dataclass(frozen=True)
class ZeroShotOptions:
    """What the user asked for, checked as far as it can be before a model is loaded."""

    names: list[str]
    templates: str | None
    descriptions: dict[str, list[str]] | None
    pool: str | None
    context: Any
    views: Views | None
    boxes: dict[str, tuple[float, float, float, float]] | None

    @property
    def plain(self) -> bool:
        """Whether nothing but templates was asked for."""
        return self.descriptions is None and self.pool is None and self.context is None and self.views is None


def zero_shot_options(request: ClassifyRequest) -> ZeroShotOptions:
    """The texts, pools and views of a request.

    Raises:
        UsageError: an unknown name, or options that do not go together.
        DataError: a file that holds something else.
    """
    from binderclip.models import resolve_templates

    names, templates, pool, views = request.words, request.templates, request.pool, request.views
    descriptions, context, crop_from = request.descriptions, request.context, request.crop_from
    if templates is not None:
        resolve_templates(templates)
    if views == "whole" and not any((descriptions, pool, context, crop_from)):
        return ZeroShotOptions(names, templates, None, None, None, None, None)

    from binderclip.adapt import POOLS, GuidedCrops, read_contexts, read_descriptions

    if pool is not None and pool not in POOLS:
        raise UsageError(f"--pool {pool!r} is unknown: one of {', '.join(POOLS)}")
    if pool == "context" and context is None:
        raise UsageError("--pool context needs --context FILE or the name of a shipped set, such as --context pictures")
    if descriptions is not None and context is not None:
        raise UsageError("--descriptions and --context both write the sentences of a label: give one of them")
    sentences = None if descriptions is None else read_descriptions(descriptions).of(names, descriptions)
    seen = parse_views(views)
    boxes = None
    if crop_from is not None:
        if views not in ("whole", "crops"):
            raise UsageError(f"--crop-from says what is looked at; it does not go with --views {views}")
        boxes, seen = read_image_boxes(Path(crop_from)), GuidedCrops()
    contexts = None if context is None else read_contexts(context)
    return ZeroShotOptions(
        names, templates, sentences, pool or ("context" if contexts else None), contexts, seen, boxes
    )


def parse_views(text: str) -> Views | None:
    """The views of `--views`; None for the whole image.

    Raises:
        UsageError: an unknown name, or tiles of no number.
    """
    from binderclip.adapt import GuidedCrops, Tiles

    name, _, count = text.partition("=")
    if name == "tiles" and re.fullmatch("[0-9]{0,9}", count):
        return Tiles(int(count or 3))
    if count or name not in ("whole", "crops"):
        shown = text if len(text) < 40 else f"{text[:40]}..."
        raise UsageError(f"--views {shown!r} is unknown: whole, tiles, tiles=4 or crops")
    return None if name == "whole" else GuidedCrops()


def build_classifier(clip: ImageTextModel, options: ZeroShotOptions) -> ZeroShotClassifier:
    """The classifier that the options describe."""
    from dataclasses import replace

    from binderclip.adapt import GuidedCrops, ZeroShotClassifier, attribute_product
    from binderclip.models import resolve_templates
    from binderclip.segment import text_detector

    views, rule = options.views, "mean-unit"
    if isinstance(views, GuidedCrops) and options.boxes is None:
        views = replace(views, detector=text_detector(clip))
    if options.context is not None:
        main = None if options.templates is None else resolve_templates(options.templates)
        bank = attribute_product(clip, options.names, options.context, main=main).bank
    elif options.descriptions is not None:
        # Every sentence counts the same, as in the paper: the mean of the cosines.
        bank, rule = clip.text_bank(options.descriptions, options.templates), "mean"
    else:
        bank = clip.text_bank(options.names, resolve_templates(options.templates or "simple"))
    return ZeroShotClassifier(bank, prototype=rule, pool=options.pool, views=views)


def classify_views(
    model: ImageTextModel,
    options: ZeroShotOptions,
    paths: Sequence[Path],
    *,
    mark: tuple[Edit, Region] | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], object],
) -> tuple[list[Any], list[tuple[str, str]], Float[Tensor, "N C"], Float[Tensor, "N E"]]:
    """Encode what is to be seen of each image, and classify it.

    Args:
        model: encodes.
        options: what the user asked for.
        paths: of the images.
        mark: drawn on each image first; then it is seen whole.
        batch_size: images at once.
        progress: called with (done, of how many).

    Returns:
        The N images that could be read, (path, reason) of the others, the probabilities of the C labels, and the
        features, of several views their mean direction.
    """
    import torch
    import torch.nn.functional as F

    classifier = build_classifier(model, options)
    boxes = None if options.boxes is None else match_boxes(paths, options.boxes)
    kept: list[Any] = []
    skipped: list[tuple[str, str]] = []
    probabilities = [torch.zeros(0, len(options.names))]
    features: list[Tensor] = []
    for begin in range(0, len(paths), batch_size):
        part = paths[begin : begin + batch_size]
        if mark is not None:
            encoded = encode_marked(model, part, mark, batch_size=batch_size)
        else:
            extra = {} if boxes is None else {"boxes": boxes[begin : begin + batch_size]}
            encoded = classifier.encode(model, list(part), batch_size=batch_size, on_error="skip", **extra)
        if len(encoded):
            probabilities.append(_probabilities(classifier, options, encoded).cpu())
            unit = F.normalize(encoded.features.float(), dim=-1).cpu()  # (B, E) or (B, V, E)
            features.append(unit if unit.ndim == 2 else unit.mean(dim=1))
        kept += encoded.paths
        skipped += encoded.skipped
        progress(begin + len(part), len(paths))
    return kept, skipped, torch.cat(probabilities), torch.cat(features) if features else torch.zeros(0, 1)


def _probabilities(
    classifier: ZeroShotClassifier, options: ZeroShotOptions, encoded: EncodedImages
) -> Float[Tensor, "N C"]:
    """Softmax over the labels; with a bias each label by itself, unless the pool normalises over labels."""
    import torch

    from binderclip.adapt import POOLS
    from binderclip.models.image_text.classification import probabilities

    with torch.no_grad():
        logits = classifier.logits(encoded.features)
    bank: TextBank = classifier.bank
    exclusive = bank.bias is None or (options.pool is not None and POOLS[options.pool].log_probabilities)
    if exclusive or bank.bias is None:
        return probabilities(logits, "softmax")
    return probabilities(logits + bank.bias.to(logits), "sigmoid")


def read_image_boxes(path: Path) -> dict[str, tuple[float, float, float, float]]:
    """The boxes of `--crop-from` by image.

    Raises:
        UsageError: there is no such file.
        DataError: it holds something else, or an image twice.
    """
    if not path.is_file():
        raise UsageError(f"--crop-from: there is no file {path}")
    forms = 'JSON such as {"photo.jpg": [x0, y0, x1, y1]}, or CSV lines "image,x0,y0,x1,y1"'
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = _json_rows(parse_json(text)) if text.lstrip().startswith(("{", "[")) else _csv_rows(text)
    except (ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
        raise DataError(f"{path} holds no boxes by image ({read_problem(error)[:200]}): {forms}") from error
    boxes: dict[str, tuple[float, float, float, float]] = {}
    for name, numbers in entries:
        try:
            x0, y0, x1, y1 = (float(v) for v in numbers)
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: {name}: {numbers!r} is not a box x0, y0, x1, y1") from error
        if not (x0 < x1 and y0 < y1):
            raise DataError(f"{path}: {name}: the box {x0:g}, {y0:g}, {x1:g}, {y1:g} is empty")
        if name in boxes:
            raise DataError(f"{path}: {name} has two boxes")
        boxes[name] = (x0, y0, x1, y1)
    if not boxes:
        raise DataError(f"{path} holds no box: {forms}")
    return boxes


def _json_rows(document: Any) -> list[tuple[str, Any]]:
    if isinstance(document, dict):
        return [(str(name), box) for name, box in document.items()]
    return [(str(entry["image"]), entry["box"]) for entry in document]


def _csv_rows(text: str) -> list[tuple[str, Any]]:
    rows = [
        [cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)
    ]
    head = ["image", *COLUMNS]
    if rows and [cell.lower() for cell in rows[0]][:1] == ["image"]:
        head = [cell.lower() for cell in rows.pop(0)]
    order = [head.index(name) for name in ("image", *COLUMNS)]
    return [(row[order[0]], [row[i] for i in order[1:] if i < len(row)]) for row in rows]


def match_boxes(
    paths: Sequence[Path], boxes: dict[str, tuple[float, float, float, float]]
) -> list[tuple[float, float, float, float] | None]:
    """The box of each image: by its path as it was named, else by the end of its path.

    Raises:
        UsageError: a box file of other images.
    """
    boxes_of_paths = []
    for path in paths:
        keys = [key for key in boxes if path == Path(key) or path.parts[-len(Path(key).parts) :] == Path(key).parts]
        # The longest match is the most particular one.
        boxes_of_paths.append(boxes[max(keys, key=len)] if keys else None)
    without = sum(box is None for box in boxes_of_paths)
    if without == len(boxes_of_paths):
        raise UsageError(f"--crop-from names none of the images; it names {', '.join(list(boxes)[:3])}")
    if without:
        warn(f"seen whole for want of a box: {without} of {number_of(len(boxes_of_paths), 'image')}")
    return boxes_of_paths
