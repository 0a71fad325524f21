"""What `binderclip detect` says of pictures, and the maps that it draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binderclip.data import PROCESSING, RealFakeSet, open_image, real_fake_folder, to_tensor
from binderclip.data.labelled.real_fake import FAKE, REAL
from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.evaluate import DetectorSanityCheck
from binderclip.explain import patch_direct_effect
from binderclip.quality import Detector, load_detector
from binderclip.tasks.events import Saved, batches, counted, emit, start
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.writing import short_path, write_csv
from binderclip.tasks.report.sheet import save_picture
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.detect.report import check_tables
from binderclip.tasks.verbs.detect.request import DetectRequest

SMALL = "small-detector"
TABLE = ("image", "logit", "probability")
COLUMNS = ("image", "said", "probability", "logit")


@dataclass(frozen=True)
class Detected(VerbResult):
    """What a detector says of pictures.

    Attributes:
        detector: method and model.
        rows: (path, logit, probability of fake), most likely generated first.
        skipped: (path, reason) of what could not be used.
        limits: what a reader must know, a sentence each.
        check: figures where the folder says the truth, else None.
        maps: pictures of the first rows' patches.
        complete: whether there is a row, and one of every picture that was named one by one.
    """

    request: DetectRequest
    detector: str
    rows: list[tuple[str, float, float]]
    skipped: list[tuple[str, str]]
    limits: list[str]
    check: DetectorSanityCheck | None
    maps: list[Path]
    complete: bool = True

    @property
    def title(self) -> str:
        return f"{number_of(len(self.rows), 'image')}, most likely generated first; {self.detector}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return COLUMNS, [
            (short_path(key), "fake" if logit > 0 else "real", probability, logit)
            for key, logit, probability in self.rows
        ]

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """Title, columns and rows of what was measured."""
        return [] if self.check is None else check_tables(self.check, "by generator")

    def remarks(self) -> list[str]:
        """What was found out about the detector, and what it does not know."""
        return [*([] if self.check is None else self.check.findings), *self.limits] if self.rows else []

    def places(self) -> list[str]:
        """Where the maps are."""
        if self.request.maps is None or not self.rows:
            return []
        maps = f"{number_of(len(self.maps), 'map')} in {self.request.maps}"
        return [f"{maps}: red patches speak for generated, blue ones for real"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "detector": self.detector,
            "images": [{"image": key, "logit": logit, "fake": chance} for key, logit, chance in self.rows],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "limits": self.limits,
            "check": None if self.check is None else self.check.as_dict(),
            "maps": [str(path) for path in self.maps],
            "request": self.request.as_document(),
        }


def run(request: DetectRequest) -> Detected:
    """Look at pictures; where the only argument is a folder of real and generated ones, measure too.

    Args:
        request: what is asked, with pictures.

    Raises:
        UsageError: a result would replace one of the pictures, or what is none of ours.
        CheckpointError: the file is no detector's.
        DataError: nothing to measure on, or a file cannot be written.
    """
    inputs = find_images(request.images, without=request.maps)
    paths = inputs.paths
    table = None if request.csv is None else writable_path(request.csv, columns=TABLE)
    places = {} if request.maps is None else places_of_maps(paths, output_folder(request.maps, make=False))
    start("loading the detector")
    detector, card = load_detector(request.detector or SMALL, device=request.device)
    step = batches("picture")
    logits, kept, skipped = logits_of(
        detector, paths, batch_size=request.batch_size, progress=lambda done: step(done, len(paths))
    )
    order = logits.argsort(descending=True, stable=True).tolist()
    rows = [(str(paths[kept[i]]), float(logits[i]), float(logits[i].sigmoid())) for i in order]
    check = None
    root = Path(request.images[0])
    if len(request.images) == 1 and root.is_dir() and _labelled(root):
        data = real_fake_folder(root)
        check, _ = sanity_check(detector, data, card.get("generators", []), batch_size=request.batch_size)
    skip_pictures(skipped, left=rows)
    maps = []
    if request.maps is not None:
        output_folder(request.maps)
        maps = _write_maps(detector, [(key, places[key]) for key, _, _ in rows[: request.most]])
    if table is not None:
        write_csv(TABLE, rows, table)
        emit(Saved(table))
    complete = not inputs.exit_code(skipped)
    return Detected(request, title_of(detector, card), rows, skipped, limits_of(card), check, maps, complete)


def title_of(detector: Detector, card: Mapping[str, Any]) -> str:
    """A bundled detector's name, the method, and the model that it looks through if there is one."""
    method = card.get("method", "a detector")
    method = f"{card['name']} ({method})" if "name" in card else method
    return f"{method} on {detector.model_name}" if detector.model_name else method


def limits_of(card: Mapping[str, Any]) -> list[str]:
    """What a detector does not know, in sentences: the card's own, or those that follow from what it learned from."""
    seen = ", ".join(card.get("generators", [])) or "unknown generators"
    limits = card.get("limits") or (
        f"trained on {card.get('real', 'some')} real pictures and {card.get('fake', 'some')} by {seen}: pictures by "
        "other generators, and edits of real ones, may pass as real, and real pictures unlike those as fake"
    )
    lines = [limits, "a probability is the detector's own and is not calibrated; it is no proof"]
    return lines + [f"at training: {line}" for line in card.get("check", {}).get("findings", [])]


@torch.no_grad()
def logits_of(
    detector: Detector, sources: Sequence[Path | Tensor], *, batch_size: int,
    change: Callable[[Tensor], Tensor] | None = None, progress: Callable[[int], object] | None = None,
) -> tuple[Tensor, list[int], list[tuple[str, str]]]:  # fmt: skip
    """Logits of pictures of any sizes, the rows that could be used, and (path, reason) of the others.

    Args:
        detector: in evaluation mode.
        sources: files, or tensors (3, H, W) in [0, 1].
        batch_size: pictures at once.
        change: processing of a picture before it is looked at.
        progress: called with the number of pictures done.
    """
    logits: list[Tensor] = []
    rows: list[int] = []
    waiting: list[tuple[Tensor, ...]] = []
    skipped: list[tuple[str, str]] = []

    def flush() -> None:
        if waiting:
            views = tuple(torch.cat(parts).to(detector.device) for parts in zip(*waiting, strict=True))
            logits.append(detector.read(detector.features(views)).logit.float().cpu())
            waiting.clear()

    for row, source in enumerate(sources):
        try:
            image = source if isinstance(source, Tensor) else to_tensor(open_image(source, mode="RGB"))
            image = image[None] if change is None else change(image[None])
            waiting.append(detector.view(image))
            rows.append(row)
        except DataError as error:
            skipped.append((str(source), str(error)))
        if len(waiting) == batch_size:
            flush()
        if progress is not None:
            progress(row + 1)
    flush()
    return torch.cat(logits) if logits else torch.zeros(0), rows, skipped


def sanity_check(
    detector: Detector, data: RealFakeSet, seen: Sequence[str], *, batch_size: int
) -> tuple[DetectorSanityCheck, list[tuple[str, str]]]:
    """Figures of every generator, and of real pictures after processing; and what could not be read.

    Raises:
        DataError: no real or no generated picture can be read.
    """
    start("measuring")
    logits, rows, skipped = logits_of(detector, data.sources, batch_size=batch_size)
    value = dict(zip(rows, logits, strict=True))

    def of(rows_of: list[int]) -> Tensor:
        there = [value[row] for row in rows_of if row in value]
        return torch.stack(there) if there else torch.zeros(0)

    every = [row for row in data.rows(label=0) if row in value]
    fakes = {name: of(data.rows(name, label=1)) for name in data.made_by}
    fakes = {name: part for name, part in fakes.items() if len(part)}
    if not every or not fakes:
        raise DataError("nothing to measure on: no real, or no generated, picture could be read")
    own = {name: of(data.rows(name, label=0)) for name in fakes}
    processed = {}
    for name, change in PROCESSING.items():
        start(f"measuring real pictures after {name}")
        processed[name], _, _ = logits_of(
            detector, [data.sources[row] for row in every], batch_size=batch_size, change=change
        )
    return DetectorSanityCheck(of(every), fakes, own_real=own, processed=processed, seen=seen), skipped


def _labelled(root: Path) -> bool:
    pairs = [root, *(path for path in root.iterdir() if path.is_dir())]
    return any((path / REAL).is_dir() and (path / FAKE).is_dir() for path in pairs)


def places_of_maps(paths: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Where the map of each picture goes.

    Raises:
        UsageError: a map would replace one of the pictures.
    """
    places = [folder / f"{name}.png" for name in output_names(paths)]
    writable_paths(places, sources=paths)
    return dict(zip(map(str, paths), places, strict=True))


def _write_maps(detector: Detector, places: Sequence[tuple[str, Path]]) -> list[Path]:
    """Draw the patch effects of pictures, each over the part that its map covers.

    Raises:
        DataError: a file cannot be written.
    """
    written = []
    for path, place in counted(places, "map", len(places)):
        part = detector.mapped(to_tensor(open_image(path, mode="RGB"))).to(detector.device)
        effects = patch_direct_effect(detector, part, patch=detector.patch)
        pixels = (part[0].cpu() * 255).round().byte().permute(1, 2, 0).numpy()
        drawn = effects.attribution().overlay(pixels)
        enlarged = max(1, 384 // max(drawn.size))
        written.append(save_picture(drawn.resize((drawn.width * enlarged, drawn.height * enlarged)), place))
        emit(Saved(written[-1]))
    return written
