"""What `foveate` does with pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import open_image, to_tensor
from binderclip.errors import DataError, OutputError
from binderclip.models.files.devices import resolve_device
from binderclip.tasks.events import Saved, counted, emit
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.results import saying_what_is_kept
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.report.sheet import contact_sheet, save_picture
from binderclip.tasks.verbs.foveate.request import FoveateRequest, parse_fixation
from binderclip.tasks.verbs.foveate.result import COLUMNS, FoveatedPicture, FoveatedPictures
from binderclip.tasks.verbs.foveate.rings import eccentricity, kept_rings, region_map
from binderclip.vision import BlockCodec, FoveatedBlur, FoveatedTexture
from binderclip.vision.foveation.texture import cached_regions

SHEET, TABLE = "before-after.png", "table.csv"
SHOWN = 20
"""Results on the sheet."""
SMALL = 512 * 512
"""Pixels up to which regions are kept for the next picture of that size."""
FIELDS = (1.0, 180.0)
"""Degrees that a picture may span."""


def run(request: FoveateRequest) -> FoveatedPictures:
    """Write every picture as it is seen from every fixation, and what is kept of it.

    Raises:
        UsageError: a result would replace one of the pictures, or what is none of ours.
        DataError: no picture can be used, or a file cannot be written.
    """
    folder = output_folder(request.out, make=False)
    resolve_device(request.device)
    if (folder / TABLE).exists():
        writable_path(folder / TABLE, columns=COLUMNS)
    inputs = find_images(request.images, without=str(folder))
    files = _files(request, inputs.paths, folder)
    writable_paths(
        [folder / SHEET, *(file for pairs in files for pair in pairs for file in pair)], sources=inputs.paths
    )
    output_folder(folder)
    rows: list[FoveatedPicture] = []
    skipped: list[tuple[str, str]] = []
    reduced = 0

    def finish() -> None:
        result = FoveatedPictures(request, rows, skipped, reduced, folder / SHEET, folder / TABLE, complete=False)
        write_csv(*result.table(), folder / TABLE)

    with saying_what_is_kept(rows, "result", folder, finish):
        for path, pairs in counted(zip(inputs.paths, files, strict=True), "picture", len(inputs.paths)):
            try:
                picture = open_image(path)
                rows.extend(_foveated(path, picture, pairs, request))  # each as soon as it is there
                reduced += max(picture.size) > request.max_side
            except OutputError:
                raise  # a full disk is no reason to go on
            except DataError as error:
                skipped.append((str(path), str(error)))
    skip_pictures(skipped, left=rows)
    sheet = _sheet(rows, folder / SHEET)
    result = FoveatedPictures(
        request, rows, skipped, reduced, sheet, folder / TABLE, complete=not inputs.exit_code(skipped)
    )
    write_csv(*result.table(), folder / TABLE)
    for place in (*result.files(), folder / TABLE, sheet):
        emit(Saved(place))
    return result


def _files(request: FoveateRequest, paths: list[Path], folder: Path) -> list[list[tuple[Path, Path]]]:
    """For each picture and fixation its result and its map: NAME.png, or NAME-1.png and so on."""
    count = len(request.at)
    numbers = [""] if count == 1 else [f"-{number}" for number in range(1, count + 1)]
    endings = [f"{number}{ending}" for number in numbers for ending in ("", "-regions")]
    names = output_names(paths, endings=endings, taken=[Path(SHEET).stem])
    return [
        [(folder / f"{name}{number}.png", folder / f"{name}{number}-regions.png") for number in numbers]
        for name in names
    ]


def _foveated(
    path: Path, picture: Image.Image, pairs: list[tuple[Path, Path]], request: FoveateRequest
) -> Iterator[FoveatedPicture]:
    """The results of one picture, written."""
    places = [_place(text, picture) for text in request.at]  # all of them before any work
    field = request.field if request.pixels_per_degree is None else max(picture.size) / request.pixels_per_degree
    if not FIELDS[0] <= field <= FIELDS[1]:
        raise DataError(f"{path} spans {field:.3g} degrees at {request.pixels_per_degree:g} pixels a degree: 1 to 180")
    if max(picture.size) > request.max_side:
        ratio = request.max_side / max(picture.size)
        size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        small = picture.resize(size, Image.Resampling.LANCZOS)
    else:
        small = picture
    image = to_tensor(small)[None]
    for (x, y), (result, map_file) in zip(places, pairs, strict=True):
        fixation = ((x + 0.5) / picture.width, (y + 0.5) / picture.height)
        made, regions = foveate_image(image.to(resolve_device(request.device)), fixation, field, request)
        rounded = (255 * made[0].cpu()).round().clamp(0, 255).to(torch.uint8)
        save_picture(Image.fromarray(rounded.permute(1, 2, 0).contiguous().numpy()), result)
        shown = region_map(small, request.scale, fixation=fixation, field_deg=field, fovea_deg=request.fovea)
        save_picture(shown, map_file)
        degrees = eccentricity((small.height, small.width), fixation, field)
        rings = kept_rings(image, rounded[None].float() / 255, degrees)
        whole = kept_rings(image, rounded[None].float() / 255, torch.zeros_like(degrees))[0]
        yield FoveatedPicture(
            str(path), x, y, regions, whole.similarity, whole.detail, rings, result, map_file
        )  # fmt: skip


def _place(text: str, picture: Image.Image) -> tuple[float, float]:
    """A fixation in pixels of the picture.

    Raises:
        DataError: outside of it.
    """
    place = []
    for (value, share), side in zip(parse_fixation(text), picture.size, strict=True):
        # From the first pixel's middle to the last one's.
        place.append(value / 100 * (side - 1) if share else value)
    if not all(value < side for value, side in zip(place, picture.size, strict=True)):
        raise DataError(f"--at {text} is outside the picture of {picture.width} x {picture.height} pixels")
    return place[0], place[1]


@torch.no_grad()
def foveate_image(
    image: Float[Tensor, "1 3 H W"], fixation: tuple[float, float], field_deg: float, request: FoveateRequest
) -> tuple[Float[Tensor, "1 3 H W"], int]:
    """A picture as it is seen, and in how many regions.

    Args:
        image: in [0, 1].
        fixation: (x, y) as fractions of width and height.
        field_deg: degrees that the longer side spans.
        request: what else is asked.
    """
    height, width = image.shape[2:]
    if request.method == "blur":
        geometry = {"fixation": fixation, "field_deg": field_deg, "fovea_deg": request.fovea}
        made = FoveatedBlur(request.blur, scale=request.scale, **geometry)(image)  # type: ignore[arg-type]
        regions = cached_regions((height, width), request.scale, tuple(geometry.items()))
        count = len(regions)
    else:
        made, count = _textured(image, fixation, field_deg, request)
    if height * width > SMALL:
        cached_regions.cache_clear()  # some hundred bytes a pixel
    return made, count


def _textured(
    image: Float[Tensor, "1 3 H W"], fixation: tuple[float, float], field_deg: float, request: FoveateRequest
) -> tuple[Float[Tensor, "1 3 H W"], int]:
    """As `foveate_image` by texture: the mean over four positions of the blocks, so that their edges are not seen."""
    height, width = image.shape[2:]
    side, half = request.block, request.block // 2
    # One noise for all positions: they differ in the blocks' edges alone, and their mean keeps the contrast.
    noise = torch.randn(
        (1, 3, height, width), generator=torch.Generator().manual_seed(request.seed), dtype=torch.float64
    ).to(image)
    offsets = sorted({(0, 0), (0, half), (half, 0), (half, half)})
    total, count = torch.zeros_like(image), 0
    for top, left in offsets:
        # Blocks that stand over the border are filled by repeating its pixels; the fixation stays where it is.
        sides = (left, -(width + left) % side, top, -(height + top) % side)
        whole, drawn = (F.pad(x, sides, mode="replicate") for x in (image, noise))
        rows, columns = whole.shape[2:]
        texture = FoveatedTexture(
            BlockCodec(side), scale=request.scale, slope=request.slope,
            fixation=((fixation[0] * width + left) / columns, (fixation[1] * height + top) / rows),
            field_deg=min(FIELDS[1], field_deg * max(rows, columns) / max(height, width)), fovea_deg=request.fovea,
        ).to(image.device)  # fmt: skip
        made = texture(whole, noise=drawn)
        total += made[:, :, top : top + height, left : left + width] / len(offsets)
        count = count or len(texture.regions((rows // side, columns // side)))
    return total, count


def _sheet(rows: list[FoveatedPicture], place: Path) -> Path:
    """Each picture beside what is seen of it, and its map."""
    cards = []
    for row in rows[:SHOWN]:
        name = Path(row.image).name
        cards += [
            (row.image, name, ""),
            (row.result, f"seen from {row.x:g}, {row.y:g}", f"SSIM {row.similarity:.2f}"),
            (row.region_map, "radius of the regions", ""),
        ]
    more = f" (the first {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    return contact_sheet(cards, place, title=f"as an eye sees it{more}", columns=3, side=300, most=3 * SHOWN)
