"""`binderclip masks`: everything in a picture, cut out without a word or a click."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.shared.options import Device, Images, Json, finite
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import DataError
from binderclip.tasks.events import counted
from binderclip.tasks.files.inputs import file_stamp, find_images, output_names
from binderclip.tasks.files.outputs import OUTPUT, output_folder, writable_paths
from binderclip.tasks.files.writing import write_json

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.segment import AutomaticMasks
    from binderclip.segment.promptable import RegionMasks

FOLDER = "masks"
TOGETHER = "masks.json"
"""The COCO file of all pictures."""


def masks(
    images: Images,
    points_per_side: Annotated[int, typer.Option(min=1, max=256, help="Points along each side of the grid.")] = 16,
    points_per_batch: Annotated[int, typer.Option(min=1, max=4096, help="Points that are decoded at once.")] = 64,
    pred_iou_thresh: Annotated[
        float | None,
        typer.Option(
            min=-100, max=100, help="Least predicted IoU of a mask [default: the model's, or 0.88].", callback=finite
        ),
    ] = None,
    stability_score_thresh: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Least stability of a mask [default: the model's, or 0.95].", callback=finite),
    ] = None,
    stability_score_offset: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="How far logits are shifted to measure it [default: the model's, or 1].",
            callback=finite,
        ),
    ] = None,
    box_nms_thresh: Annotated[
        float,
        typer.Option(min=0.001, max=1, help="IoU of boxes above which the less sure mask is dropped.", callback=finite),
    ] = 0.7,
    crop_n_layers: Annotated[
        int, typer.Option(min=0, max=4, help="Layers of crops that are looked at as well: 1 adds 4 crops, 2 adds 20.")
    ] = 0,
    crop_overlap_ratio: Annotated[
        float, typer.Option(min=0, max=0.99, help="Overlap of crops, as a share of the shorter side.", callback=finite)
    ] = 512 / 1500,
    min_mask_region_area: Annotated[
        int,
        typer.Option(min=0, max=10**9, help="Islands of fewer pixels are removed, but for the largest; holes filled."),
    ] = 1,
    cut: Annotated[
        bool,
        typer.Option("--cut", help="Cut every mask out along the edges of the picture (GrabCut): half a second each."),
    ] = False,
    out: Annotated[str, typer.Option("--out", "-o", help="Folder of the overlays and COCO files."), OUTPUT] = FOLDER,
    redo: Annotated[bool, typer.Option("--redo", help="Do pictures again that are done already.")] = False,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="`small-sam`, `hf:facebook/sam-vit-base` or another SAM, or a run folder."),
    ] = "small-sam",
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Cut out everything in pictures: masks from a grid of points, as COCO annotations and overlays.

    Examples:

        binderclip masks photo.jpg

        binderclip masks photos/ --points-per-side 32 --min-mask-region-area 40 --model hf:facebook/sam-vit-base

    Leaves an overlay and a COCO file of each picture, and masks.json of all. A folder can be gone on with: pictures
    that are done are not done again.
    """
    found = find_images(images, without=out)
    settings: dict[str, Any] = {
        "points_per_side": points_per_side,
        "pred_iou_thresh": pred_iou_thresh,
        "stability_score_thresh": stability_score_thresh,
        "stability_score_offset": stability_score_offset,
        "box_nms_thresh": box_nms_thresh,
        "crop_n_layers": crop_n_layers,
        "crop_overlap_ratio": crop_overlap_ratio,
        "min_mask_region_area": min_mask_region_area,
    }
    folder = output_folder(out, make=False)
    names = output_names(found.paths)
    files = [folder / f"{name}{ending}" for name in names for ending in (".json", "-masks.png")]
    writable_paths([folder / TOGETHER, *files], sources=found.paths)

    from binderclip.segment import AutomaticMasks, load_promptable

    segmenter = load_promptable(model, device=device)
    automatic = AutomaticMasks(segmenter, points_per_batch=points_per_batch, **settings)
    folder = output_folder(out)
    known = settings | {"model": model} | ({"cut": True} if cut else {})
    done: list[_Done] = []
    skipped: list[tuple[str, str]] = []
    with stages("masks"):
        for path, name in counted(zip(found.paths, names, strict=True), "picture", len(names)):
            kept = None if redo else _kept(folder / f"{name}.json", path, known)
            try:
                done.append(_found(automatic, path, folder, name, known) if kept is None else kept)
            except DataError as error:
                skipped.append((str(path), str(error)))
    if not done:
        raise DataError(f"of {number_of(len(names), 'picture')} none could be read: {skipped[0][0]}: {skipped[0][1]}")
    if before := sum(one.before for one in done):
        note(f"{number_of(before, 'picture')} done before (--redo does them again)")
    write_json(_together(done), folder / TOGETHER)
    _say(done, skipped, folder, model, json)
    raise typer.Exit(found.exit_code(skipped))


@dataclass(frozen=True)
class _Done:
    """One picture: its COCO document, and whether an earlier run had made it."""

    path: Path
    document: dict[str, Any]
    overlay: Path
    before: bool = False

    @property
    def count(self) -> int:
        return len(self.document["annotations"])

    @property
    def largest(self) -> float:
        image = self.document["images"][0]
        areas = [entry["area"] for entry in self.document["annotations"]]
        return max(areas, default=0) / (image["height"] * image["width"])


def _kept(place: Path, path: Path, known: dict[str, Any]) -> _Done | None:
    """What an earlier run found with the same settings in the same file."""
    overlay = place.with_name(f"{place.stem}-masks.png")
    try:
        document = parse_json(place.read_bytes())
        made = document["info"]
        same = made["settings"] == known and made["file"] == file_stamp(path)
        whole = _is_whole(document)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _Done(path, document, overlay, before=True) if same and whole and overlay.is_file() else None


def _is_whole(document: dict[str, Any]) -> bool:
    """Whether a COCO document has all that `_found` wrote: one picture with its size, and annotations with theirs.

    Raises:
        KeyError, TypeError, ValueError: it has another form.
    """
    (image,) = document["images"]
    size = [image["height"], image["width"]]
    if not isinstance(image["file_name"], str) or not all(isinstance(side, int) and side > 0 for side in size):
        return False
    return isinstance(document["annotations"], list) and all(
        entry["segmentation"]["size"] == size
        and isinstance(entry["segmentation"]["counts"], list)
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in [entry["area"], *entry["bbox"]])
        for entry in document["annotations"]
    )


def _found(automatic: AutomaticMasks, path: Path, folder: Path, name: str, known: dict[str, Any]) -> _Done:
    from binderclip.data import open_image, to_tensor
    from binderclip.segment.promptable import cut_regions
    from binderclip.tasks.report.sheet import save_picture

    picture = open_image(path).convert("RGB")
    regions = automatic(picture)
    if known.get("cut"):
        regions = cut_regions(to_tensor(picture), regions)
    overlay = save_picture(drawn(picture, regions), folder / f"{name}-masks.png")
    document = {
        "info": {"settings": known, "file": file_stamp(path)},
        "images": [{"id": 1, "file_name": str(path), "height": picture.height, "width": picture.width}],
        "annotations": regions.annotations(),
        "categories": [{"id": 1, "name": "object"}],
    }
    # Last: where it is, the picture is done.
    write_json(document, folder / f"{name}.json")
    return _Done(path, document, overlay)


def drawn(picture: Image.Image, regions: RegionMasks) -> Image.Image:
    """The picture with each mask in its colour, small ones over large ones."""
    from binderclip.segment.output.palette import colours, paint

    palette = colours(max(1, len(regions)))
    return paint(picture, regions.id_map().numpy(), palette, opacity=0.6, quiet=set())


def _together(done: list[_Done]) -> dict[str, Any]:
    """One COCO document of all pictures."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(done, start=1):
        images.append(one.document["images"][0] | {"id": number})
        for entry in one.document["annotations"]:
            annotations.append(entry | {"id": len(annotations) + 1, "image_id": number})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}


def _say(done: list[_Done], skipped: list[tuple[str, str]], folder: Path, model: str, json: bool) -> None:
    if json:
        print_json(
            {
                "model": model,
                "images": [{"image": d.path, "masks": d.count, "overlay": d.overlay} for d in done],
                "skipped": [{"image": key, "reason": reason} for key, reason in skipped],
                "coco": folder / TOGETHER,
            }
        )
        return
    rows = [(str(one.path), one.count, f"{one.largest:.1%}", str(one.overlay)) for one in done]
    print_table(f"{number_of(len(done), 'picture')}, model {model}", ("image", "masks", "largest", "overlay"), rows)
    typer.echo(f"COCO {folder / TOGETHER}")
    warn_skipped(skipped)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(masks)
