"""Boxes by text from an image-text model alone, for those who have no open-vocabulary detector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

Detector = Callable[[Image.Image, Sequence[str]], tuple[Tensor, Tensor]]
"""(image, texts) -> boxes (B, 4) float xyxy in pixels and scores (B, T), larger is better."""

BACKGROUND = ("a plain background", "a pattern", "a texture", "a landscape")


def text_detector(
    model: ImageTextModel,
    method: Literal["patches", "windows"] = "patches",
    *,
    templates: str | Sequence[str] | None = None,
    background: Sequence[str] = BACKGROUND,
    size: int | None = None,
    threshold: float = 1.0,
    scales: Sequence[float] = (0.25, 0.4, 0.6),
) -> Detector:
    """A callable (image, texts) -> (boxes, scores) that guided cropping and others can use.

    `patches` boxes the connected region where patch features agree with a text; `windows` scores windows of a few
    sizes, half a window apart: slower, for towers that cannot be opened. Scores are cosines with the text minus the
    mean cosine with the background texts. Any callable of the same form, such as OWL-ViT behind a function, takes its
    place. Paper: Zero-Shot Visual Classification with Guided Cropping (arXiv 2309.06581).

    Args:
        model: encodes images and texts.
        method: `patches` or `windows`.
        templates: put around every text.
        background: texts of what is no object.
        size: side in pixels at which `patches` sees the image; None for twice the model's own.
        threshold: standard deviations above its mean where a text's map counts as object (`patches`).
        scales: sides of the windows as shares of the image's shorter side (`windows`).

    Raises:
        UsageError: an unknown method, or no background text.
        NotSupported: `patches` on a model whose image tower cannot be opened.
    """
    refuse_bare_module(model, "text_detector")
    check_choice("method", method, ("patches", "windows"))
    if not background or isinstance(background, str):
        raise UsageError("background must be a list of at least one text")
    if method == "patches":
        _ = model.image_tower
    away = model.text_bank(list(background), templates).unit.mean(dim=0)

    @lru_cache(maxsize=4096)
    def row(text: str) -> Tensor:
        return model.text_bank([text], templates).prototypes()[0] - away

    def detect(image: Image.Image, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        if not texts:
            raise UsageError("texts is empty: name at least one thing to look for")
        rows = torch.stack([row(text) for text in texts]).float()
        with torch.no_grad():
            if method == "windows":
                boxes = window_boxes(image.size, scales)
                crops = [image.crop(tuple(round(v) for v in box)) for box in boxes.tolist()]
                return boxes, F.normalize(model.encode_image(crops).float(), dim=-1) @ rows.T
            return region_boxes(_dense(model, image, size) @ rows.T, image.size, threshold)

    return detect


def window_boxes(size: tuple[int, int], scales: Sequence[float]) -> Float[Tensor, "B 4"]:
    """Square windows half a window apart over an image of `size` (width, height), the last ones at its far edge.

    Raises:
        UsageError: a scale outside (0, 1].
    """
    if not scales or not all(0 < scale <= 1 for scale in scales):
        raise UsageError(f"scales are shares of the image in (0, 1], at least one, not {list(scales)}")
    boxes = []
    for scale in scales:
        side = max(1.0, scale * min(size))
        starts = [np.linspace(0, length - side, 1 + int(np.ceil((length - side) / (side / 2)))) for length in size]
        boxes += [(x, y, x + side, y + side) for y in starts[1] for x in starts[0]]
    return torch.tensor(boxes, dtype=torch.float32)


def region_boxes(
    scores: Float[Tensor, "h w T"], size: tuple[int, int], threshold: float = 1.0
) -> tuple[Float[Tensor, "B 4"], Float[Tensor, "B T"]]:
    """The region of each text: where its map is above its mean plus `threshold` standard deviations, connected.

    Of several regions the one with most excess over the mean is kept: a single bright patch is no object.

    Args:
        scores: one map a text on a grid.
        size: (width, height) of the image that the grid covers.
        threshold: how far above the mean.

    Returns:
        One box a text in pixels, and the mean score of every text inside it.
    """
    h, w = scores.shape[:2]
    maps = scores.double().cpu().numpy()
    boxes, rows = [], []
    for t in range(maps.shape[-1]):
        one = maps[..., t]
        regions, count = ndimage.label(one >= min(one.mean() + threshold * one.std(), one.max()))
        excess = ndimage.sum_labels(one - one.mean(), regions, range(1, count + 1))
        number = 1 + int(np.argmax(excess))
        ys, xs = ndimage.find_objects(regions, count)[number - 1]
        boxes.append((xs.start / w, ys.start / h, xs.stop / w, ys.stop / h))
        rows.append(maps[regions == number].mean(axis=0))
    scale = torch.tensor([size[0], size[1], size[0], size[1]], dtype=torch.float32)
    return torch.tensor(boxes, dtype=torch.float32) * scale, torch.from_numpy(np.stack(rows)).float()


def _dense(model: ImageTextModel, image: Image.Image, size: int | None) -> Float[Tensor, "h w E"]:
    """Unit patch features of the whole image, squeezed to a square."""
    native = min(model.image_size) if isinstance(model.image_size, tuple) else model.image_size
    side = 2 * native if size is None else size
    pixels = torch.from_numpy(np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)).copy())
    x = model.preprocess.normalize_pixels(pixels[None]).to(model.device, model.image_tower.dtype)
    return F.normalize(model.image_tower.dense_images(x, path="value").float(), dim=1)[0].permute(1, 2, 0)
