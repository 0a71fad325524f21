"""`binderclip quality A --reference B`: how far each picture is from its original."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from binderclip.data.images import list_images, open_image, to_tensor
from binderclip.errors import DataError, UsageError
from binderclip.models.files.devices import resolve_device
from binderclip.quality import LPIPS, create_metric
from binderclip.quality.score.native_files import reduced_picture

COLUMNS = ("distance", "PSNR (dB)")


@dataclass(frozen=True)
class ReferenceComparison:
    """Pictures from the one farthest from its original to the nearest.

    Attributes:
        rows: (path, reference, distance, PSNR in dB; infinite for equal pictures).
        skipped: (path, reason) of what could not be compared.
        reduced: pairs that were reduced before they were compared.
    """

    rows: list[tuple[str, str, float, float]]
    skipped: list[tuple[str, str]]
    reduced: int


def partners(images: Sequence[Path], arguments: Sequence[str], reference: Path) -> list[tuple[Path, Path | None]]:
    """Each picture with its original: the one file, or the file of the same place below the folder, or of its name.

    Suffixes may differ: `a/1.jpg` is compared with `b/1.png`. None where there is no original.

    Raises:
        UsageError: `reference` is neither a file nor a folder.
        DataError: two originals differ by their suffix alone.
    """
    if reference.is_file():
        return [(image, reference) for image in images]
    if not reference.is_dir():
        raise UsageError(f"--reference {reference}: there is no file or folder {reference}")
    originals: dict[Path, Path] = {}
    for path in list_images(reference):
        key = path.relative_to(reference).with_suffix("")
        if key in originals:
            raise DataError(f"--reference {reference}: {originals[key].name} and {path.name} go by one name")
        originals[key] = path
    folders = [Path(argument) for argument in arguments if Path(argument).is_dir()]

    def key_of(image: Path) -> Path:
        above = next((folder for folder in folders if folder in image.parents), image.parent)
        return image.relative_to(above).with_suffix("")

    return [(image, originals.get(key_of(image))) for image in images]


@torch.no_grad()
def compared(
    pairs: Sequence[tuple[Path, Path | None]], distance: str, *, weights: Path | None, longest: int, device: str,
    progress: Callable[[int], object],
) -> ReferenceComparison:  # fmt: skip
    """Measure all pairs.

    Args:
        pairs: picture and original.
        distance: `st-lpips` or `lpips`, on `lite0`.
        weights: that `LPIPS.from_weights` opens instead, or None.
        longest: larger pairs are reduced to this longer side in pixels.
        device: where.
        progress: called with the number of pairs done.
    """
    where = resolve_device(device)
    metric: LPIPS = LPIPS.from_weights(weights) if weights is not None else create_metric(distance)
    metric.to(where)
    rows, skipped, smaller = [], [], 0
    for number, (image, original) in enumerate(pairs, 1):
        try:
            if original is None:
                raise DataError(f"{image}: no picture of this name below --reference")
            one, other = (open_image(path, mode="RGB") for path in (image, original))
            if one.size != other.size:
                sizes = " and ".join(f"{each.width} x {each.height}" for each in (one, other))
                raise DataError(f"{image}: it and its original must be of one size, they have {sizes} pixels")
            if max(one.size) > longest:
                smaller += 1
                one, other = reduced_picture(one, longest), reduced_picture(other, longest)
            x, y = (to_tensor(picture)[None].to(where) for picture in (one, other))
            error = float((x - y).square().mean())
            psnr = float("inf") if error == 0 else -10 * float(torch.tensor(error).log10())
            rows.append((str(image), str(original), float(metric(x, y)), psnr))
        except (DataError, UsageError) as problem:  # too small for the network
            skipped.append((str(image), str(problem)))
        progress(number)
    rows.sort(key=lambda row: -row[2])
    return ReferenceComparison(rows, skipped, smaller)
