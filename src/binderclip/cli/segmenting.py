"""What `binderclip segment` does: pictures, folders that can be gone on with, and measured presets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from binderclip.cli.inputs import ImageArguments, output_path, writable_path
from binderclip.cli.output import note, print_json, print_table, warn_skipped, write_json
from binderclip.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from binderclip.segment import Measured, Parts, Segmenter


@dataclass(frozen=True)
class Request:
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


@dataclass(frozen=True)
class Done:
    """One picture: its label map, classes and files."""

    path: Path
    labels: np.ndarray
    classes: tuple[str, ...]
    overlay: Path
    label_map: Path

    def shares(self) -> dict[str, float]:
        """Share of the picture of every class."""
        return {name: float((self.labels == index).mean()) for index, name in enumerate(self.classes)}


def segment_images(
    request: Request, found: ImageArguments, names: Sequence[str], *, overlay: str | None, label_map: str | None,
    out: str | None, legend: bool, coco: str | None, csv: str | None, redo: bool,
) -> int:  # fmt: skip
    """Segment, save and say; the exit code."""
    many = len(found.paths) > 1 or not found.named
    if many and (overlay or label_map):
        raise UsageError("--overlay and --map are for one image; for several give --out FOLDER")
    if out is not None and not many:
        raise UsageError("--out is the folder for several images; for one give --overlay and --map")
    places = _places(found.paths, out, overlay, label_map, many)
    for extra in (coco, csv):
        if extra is not None:
            writable_path(extra)
    classes = tuple((["background"] if request.background else []) + list(names))
    if many:
        _same_settings(places[0][0].parent, request, names, redo)
    waiting = [not (many and not redo and all(p.is_file() for p in pair)) for pair in places]
    segmenter = next(iter(build_segmenters(request, names).values())) if any(waiting) else None
    done, skipped = [], []
    for path, (shown, mapped), due in zip(found.paths, places, waiting, strict=True):
        try:
            if due:
                assert segmenter is not None
                done.append(_segmented(segmenter, path, names, shown, mapped, legend))
            else:
                done.append(Done(path, _read(mapped, len(classes)), classes, shown, mapped))
        except DataError as error:
            if not many:
                raise
            skipped.append((str(path), str(error)))
    if not done:
        raise DataError(f"none of {len(places)} pictures could be segmented: {skipped[0][0]}: {skipped[0][1]}")
    if len(waiting) > sum(waiting):
        note(f"{len(waiting) - sum(waiting)} images were done before (--redo does them again)")
    if coco is not None:
        from binderclip.segment import coco_document

        write_json(coco_document([(str(d.path), d.labels) for d in done], classes), Path(coco))
    if csv is not None:
        _areas(done, Path(csv))
    _say(request, done, many, skipped)
    warn_skipped(skipped)
    return found.exit_code(skipped)


def preset_names(text: str) -> list[str]:
    """What --preset says: names apart by commas, `all` for every one.

    Raises:
        UsageError: there is no name.
    """
    from binderclip.segment import PRESETS

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"--preset is empty; there are {', '.join(PRESETS)}")
    return list(PRESETS) if names == ["all"] else names


def chosen_parts(request: Request) -> dict[str, Parts]:
    """The parts of each preset of the request, with its settings; needs no model.

    Raises:
        UsageError: no preset, or an unknown preset, part or setting.
    """
    from binderclip.segment import override, parts_of
    from binderclip.train.toml import parse_override

    changes = [parse_override(text) for text in request.settings]
    return {name: override(parts_of(name), changes) for name in preset_names(request.preset)}


def build_segmenters(request: Request, names: Sequence[str]) -> dict[str, Segmenter]:
    """One segmenter for each preset of the request, settings checked before the model is loaded.

    Args:
        request: what was asked for.
        names: the labels, which descriptions must be of.

    Raises:
        UsageError: an unknown preset, part or setting, a label without descriptions.
    """
    from binderclip.segment import PARTS, Segmenter

    chosen = chosen_parts(request)
    if request.descriptions is not None:
        chosen = _described(chosen, request.descriptions, names)
    from binderclip.models import load

    clip = load(request.model, device=request.device, dtype=request.dtype)
    built = {}
    for name, parts in chosen.items():
        segmenter = Segmenter(
            clip, name, background=request.background, **{part: getattr(parts, part) for part in PARTS}
        )
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


def measure(request: Request, source: str, limit: int) -> None:
    """Presets on label maps: a table, with intervals against the first."""
    from itertools import islice

    from binderclip.data.label_maps import SCENES, label_maps
    from binderclip.segment import measure_segmenters

    chosen_parts(request)  # a wrong name is said before scenes are made
    made = {"n": limit, "background": bool(request.background)}
    data = label_maps(source, **made) if source in SCENES else label_maps(source)
    segmenters = build_segmenters(request, [name for name in data.classes if name != "background"])

    class Limited:
        classes = data.classes

        @property
        def skipped(self) -> Any:
            return data.skipped

        def __iter__(self) -> Any:
            return islice(iter(data), limit)

    found = measure_segmenters(segmenters, Limited(), details=True)
    rows = _measured_rows(found)
    if request.json:
        per_class = {
            name: dict(zip(found.classes, _or_none(score.per_class), strict=True))
            for name, score in found.scores.items()
        }
        print_json(
            {
                "data": source,
                "model": request.model,
                "images": len(found.keys),
                "presets": rows,
                "per_class": per_class,
                "skipped": [{"image": key, "reason": reason} for key, reason in found.skipped],
            }
        )
        return
    first = rows[0]["preset"]
    ground = ", background left out" if rows[0]["ece_foreground_only"] else ""
    shown = [
        [r["preset"], r["miou"], r["accuracy"], *("" if r[k] is None else r[k] for k in ("boundary_f", "ece")),
         "" if r["difference"] is None else _interval(r["difference"])]
        for r in rows
    ]  # fmt: skip
    columns = (
        "preset", "mIoU", "pixel accuracy", "boundary F", f"ECE{ground}", f"mean IoU of an image, minus {first}'s",
    )  # fmt: skip
    counts = f"{_several(len(found.keys), 'image')}, {_several(len(found.classes), 'class', 'classes')}"
    print_table(f"{source}: {counts}, {request.model}", columns, shown)
    warn_skipped(found.skipped)


def _measured_rows(found: Measured) -> list[dict[str, Any]]:
    """What is said of every preset; None where there was nothing to measure."""
    first = next(iter(found.scores))
    rows: list[dict[str, Any]] = []
    for name, score in found.scores.items():
        boundary, calibration = found.boundaries.get(name), found.calibration.get(name)
        rows.append(
            {
                "preset": name,
                "miou": score.miou,
                "accuracy": score.accuracy,
                "boundary_f": None if boundary is None else boundary.mean,
                "ece": None if calibration is None else calibration.ece,
                "ece_foreground_only": calibration is not None and calibration.foreground_only,
                "difference": found.difference(name, first) if name != first else None,
            }
        )
    return rows


def _several(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _or_none(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    return [None if math.isnan(value) else float(value) for value in values]


def show_presets(json: bool) -> None:
    """Every preset with its parts."""
    from binderclip.segment import CHOICES, PRESETS, describe, parts_of

    if json:
        print_json({name: describe(parts_of(name)) for name in PRESETS})
        return
    plain = describe(parts_of("value"))
    rows = []
    for name in PRESETS:
        parts = {key: value for key, value in describe(parts_of(name)).items() if value != plain[key] and value}
        rows.append((name, "; ".join(f"{key}: {_short(value)}" for key, value in parts.items()) or "the value path"))
    print_table("presets of the segmenter", ("preset", "parts that differ from `value`"), rows)
    places = {"map": "last_block.map"}
    named = [(places.get(part, part), ", ".join(names)) for part, names in CHOICES.items() if names]
    print_table("parts by name, for --set PART=NAME (none takes a part out)", ("part", "names"), named)


def _segmented(segmenter: Segmenter, path: Path, names: Sequence[str], shown: Path, mapped: Path, legend: bool) -> Done:
    from binderclip.cli.sheet import save_picture

    result = segmenter(path, list(names))
    save_picture(result.overlay(legend=legend), shown)
    try:
        # The map last: where it is, the picture is done.
        result.save(mapped)
    except OSError as error:
        raise DataError(f"cannot write {mapped}: {error.strerror or error}") from error
    return Done(path, result.labels.cpu().numpy(), result.classes, shown, mapped)


def _read(path: Path, classes: int) -> np.ndarray:
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as opened:
            values = np.asarray(opened).astype(np.int64)
    except OSError as error:
        raise DataError(f"{path}: no readable label map ({error}); --redo makes it again") from error
    limit = 255 if classes <= 255 else 65535
    labels = np.where(values == limit, -1, values)
    if labels.ndim != 2 or labels.max(initial=-1) >= classes:
        raise DataError(f"{path} is no label map of {classes} classes: --redo makes it again")
    return labels


def _places(
    paths: Sequence[Path], out: str | None, overlay: str | None, label_map: str | None, many: bool
) -> list[tuple[Path, Path]]:
    """Overlay and label map of every image, checked before the model is loaded."""
    if not many:
        mapped = output_path(label_map, paths[0], "labels")
        if mapped.suffix.lower() != ".png":
            raise UsageError(f"--map {mapped}: label numbers are saved as PNG; another format would change them")
        return [(output_path(overlay, paths[0], "overlay"), mapped)]
    folder = Path(out or "segments")
    if folder.is_file():
        raise UsageError(f"--out {folder} is a file: give a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make {folder}: {error.strerror or error}") from error
    stems = [path.stem for path in paths]
    own = [p.stem if stems.count(p.stem) == 1 else "-".join([*p.parts[:-1], p.stem]).strip("/-") for p in paths]
    names = [name.replace("/", "-") for name in own]
    return [(folder / f"{name}-overlay.png", folder / f"{name}-labels.png") for name in names]


def _same_settings(folder: Path, request: Request, names: Sequence[str], redo: bool) -> None:
    """A folder is gone on with only by what began it: maps of other labels must not be mixed in.

    Raises:
        UsageError: it was made with other labels or settings.
    """
    import json

    path = folder / "segment.json"
    now = {
        "labels": list(names),
        "background": list(request.background),
        "preset": request.preset,
        "settings": list(request.settings),
        "size": request.size,
        "model": request.model,
        "descriptions": request.descriptions,
    }
    if path.is_file() and not redo:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            before = {}
        changed = [key for key, value in now.items() if before.get(key) != value]
        if changed:
            raise UsageError(
                f"{folder} was made with other {', '.join(changed)}: give another --out, or --redo to do all again"
            )
    write_json(now, path)


def _areas(done: Sequence[Done], path: Path) -> None:
    import csv

    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "class", "pixels", "share"])
            for one in done:
                for index, name in enumerate(one.classes):
                    pixels = int((one.labels == index).sum())
                    writer.writerow([one.path, name, pixels, f"{pixels / one.labels.size:.6f}"])
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


def _say(request: Request, done: Sequence[Done], many: bool, skipped: Sequence[tuple[str, str]]) -> None:
    if request.json:
        documents = [
            {
                "image": one.path,
                "model": request.model,
                "preset": request.preset,
                "classes": list(one.classes),
                "share": one.shares(),
                "overlay": one.overlay,
                "label_map": one.label_map,
            }
            for one in done
        ]
        left_out = [{"image": key, "reason": reason} for key, reason in skipped]
        print_json({"images": documents, "skipped": left_out} if many else documents[0])
        return
    if many:
        rows_ = [(str(one.path), *_largest(one)) for one in done]
        print_table(
            f"{len(done)} images, {request.preset}, model {request.model}", ("image", "largest", "share"), rows_
        )
        return
    for one in done:
        ordered = sorted(one.shares().items(), key=lambda item: -item[1])
        rows = [(name, f"{share:.1%}") for name, share in ordered]
        print_table(f"{one.path}, {request.preset}, model {request.model}", ("class", "share of the image"), rows)
        typer.echo(f"overlay {one.overlay}\nlabel map {one.label_map}")


def _largest(one: Done) -> tuple[str, str]:
    name, share = max(one.shares().items(), key=lambda item: item[1])
    return name, f"{share:.1%}"


def _interval(gap: tuple[float, float, float]) -> str:
    return f"{gap[0]:+.3f} ({gap[1]:+.3f} to {gap[2]:+.3f})"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(item) for item in value)
    if isinstance(value, dict):
        inner = ", ".join(
            f"{k}={_short(v)}" for k, v in value.items() if k != "part" and v not in (None, False, [], "")
        )
        return f"{value['part']}({inner})"
    return str(value)
