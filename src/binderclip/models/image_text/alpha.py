"""Alpha-CLIP: an image-text model that is told which part of a picture is meant, the rest still in view."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.layers.alpha import ALPHA_MEAN, ALPHA_STD, alpha_of, put_alpha, with_alpha
from binderclip.numeric import check_number

__all__ = ["AlphaCLIP", "add_alpha_channel", "box_alpha", "point_alpha"]


def add_alpha_channel(model: ImageTextModel) -> ImageTextModel:
    """A copy of a model whose image tower has a fourth input channel, of zero weights: at first nothing changes.

    `save` writes an ordinary model folder, which `load` opens. `AlphaCLIP(model)` encodes with it.

    Args:
        model: of open_clip, or a bundled one.

    Raises:
        NotSupported: another library's model, or a tower that does not begin with a convolution over three channels.
        UsageError: the model has an alpha channel already.

    Paper: Alpha-CLIP: A CLIP Model Focusing on Wherever You Want, arXiv 2312.03818.
    """
    refuse_bare_module(model, "add_alpha_channel")
    if model.kind != "open_clip" or "model_cfg" not in model.config:
        raise NotSupported(f"an alpha channel goes with models of open_clip, and {model.name} is one of {model.kind}")
    if model.config["model_cfg"].get("alpha"):
        raise UsageError(f"{model.name} has an alpha channel already")
    other = copy.deepcopy(model)
    put_alpha(other.backbone.visual)
    other._cache = {}
    other.config["model_cfg"]["alpha"] = True
    other.history.append("alpha channel added")
    return other


class AlphaCLIP(nn.Module):
    """Encodes pictures with an alpha channel: 1 where to look, 0 elsewhere; None looks everywhere.

    Trained by pairs of a region and its phrase with the rest of the picture in view (`data.rgba_pairs`): the text
    tower and the logit scale stay as they are, the alpha channel learns at the full rate, the rest of the image tower
    at a hundredth of it (`groups`).

    Args:
        model: with an alpha channel (`add_alpha_channel`), or any model, to a copy of which one is added.

    Examples:
        >>> from binderclip import load
        >>> from binderclip.models import AlphaCLIP, box_alpha
        >>> model = AlphaCLIP(load("small"))
        >>> images = torch.rand(2, 3, 128, 128)
        >>> model.encode_image(images, box_alpha([[0, 0, 64, 64], [64, 64, 128, 128]], (128, 128))).shape
        torch.Size([2, 384])

    Paper: Alpha-CLIP: A CLIP Model Focusing on Wherever You Want, arXiv 2312.03818.
    """

    def __init__(self, model: ImageTextModel) -> None:
        refuse_bare_module(model, "AlphaCLIP")
        super().__init__()
        self.model = model if alpha_of(model.backbone.visual) is not None else add_alpha_channel(model)

    @property
    def conv(self) -> Any:
        """The first convolution; its `alpha_weight` is the alpha channel."""
        return alpha_of(self.model.backbone.visual)

    def encode_image(
        self,
        images: Float[Tensor, "B 3 H W"],
        alpha: Float[Tensor, "b 1 H W"] | Bool[Tensor, "b 1 H W"] | None = None,
        *,
        normalize: bool = False,
    ) -> Float[Tensor, "B E"]:
        """Image features.

        Args:
            images: in [0, 1], of any size; resized and cropped or padded as the model does.
            alpha: masks in [0, 1] of the same height and width, one a picture or one for all; resized with the
                pictures, 0 where those are padded. None: all ones.
            normalize: rows of length one instead of raw features.

        Raises:
            UsageError: masks of another size, or outside [0, 1].
        """
        pixels = self.model.preprocess(images)
        with with_alpha(None if alpha is None else self._fitted(alpha, images).to(pixels)):
            features = self.model.encode_pixels(pixels)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, texts: str | Sequence[str], *, normalize: bool = False) -> Float[Tensor, "Q E"]:
        """Text features of the model, which has learned nothing new about texts."""
        return self.model.encode_text(texts, normalize=normalize)

    def _fitted(self, alpha: Tensor, images: Tensor) -> Float[Tensor, "b 1 h w"]:
        if alpha.ndim != 4 or alpha.shape[1] != 1 or alpha.shape[-2:] != images.shape[-2:]:
            raise UsageError(
                f"alpha must be (B or 1, 1, {images.shape[-2]}, {images.shape[-1]}), got {tuple(alpha.shape)}"
            )
        alpha = alpha.float()
        if len(alpha) and not (float(alpha.min()) >= 0 and float(alpha.max()) <= 1):
            raise UsageError(f"alpha must lie in [0, 1], got {float(alpha.min()):g} to {float(alpha.max()):g}")
        fitted = replace(self.model.preprocess, fill=0).fit(alpha.expand(-1, 3, -1, -1))[:, :1]
        return (fitted - ALPHA_MEAN) / ALPHA_STD

    def groups(self, lr: float = 2e-4, *, tower: float = 0.01, weight_decay: float = 0.02) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: the alpha channel at `lr`, the image tower at `tower` times that.

        The text tower and the logit scale are switched off (`requires_grad = False`).

        Args:
            lr: of the alpha channel (paper: 2e-4 for ViT-B/16 at a batch of 4,096).
            tower: factor for the rest of the image tower.
            weight_decay: of matrices.
        """
        backbone = self.model.backbone
        alpha = self.conv.alpha_weight
        image = [p for p in backbone.visual.parameters() if p is not alpha]  # type: ignore[union-attr]
        learned = {id(alpha), *(id(p) for p in image)}
        for parameter in backbone.parameters():
            parameter.requires_grad_(id(parameter) in learned)
        flat, matrices = [p for p in image if p.ndim < 2], [p for p in image if p.ndim >= 2]
        return [
            {"params": [alpha], "lr": lr, "weight_decay": weight_decay},
            {"params": matrices, "lr": lr * tower, "weight_decay": weight_decay},
            {"params": flat, "lr": lr * tower, "weight_decay": 0.0},
        ]


def box_alpha(
    boxes: Sequence[Sequence[float]] | Float[Tensor, "N 4"], size: tuple[int, int]
) -> Float[Tensor, "N 1 h w"]:
    """One mask for each box: 1 inside.

    Args:
        boxes: (x0, y0, x1, y1) in pixels, half-open.
        size: (h, w) of the pictures.

    Raises:
        UsageError: an empty box or one outside the picture.
    """
    corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    height, width = size
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    inside_x = (x >= corners[:, :1]) & (x < corners[:, 2:3])  # (N, w)
    inside_y = (y >= corners[:, 1:2]) & (y < corners[:, 3:])  # (N, h)
    masks = (inside_y[:, :, None] & inside_x[:, None, :]).float()[:, None]
    if empty := [i for i, mask in enumerate(masks) if not bool(mask.any())]:
        raise UsageError(f"box {corners[empty[0]].tolist()} covers no pixel of {width} x {height}")
    return masks


def point_alpha(
    points: Sequence[Sequence[float]] | Float[Tensor, "N 2"], size: tuple[int, int], *, radius: float
) -> Float[Tensor, "N 1 h w"]:
    """One mask for each point: exp(-d^2 / (2 radius^2)), 1 at the point.

    Args:
        points: (x, y) in pixels.
        size: (h, w) of the pictures.
        radius: standard deviation of the Gaussian in pixels.

    Raises:
        UsageError: a radius that is not positive.
    """
    check_number("radius", radius, above=0)
    coordinates = torch.as_tensor(points, dtype=torch.float32).reshape(-1, 2)
    height, width = size
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    squared = (x - coordinates[:, :1]).square()[:, None, :] + (y - coordinates[:, 1:]).square()[:, :, None]  # (N, h, w)
    return (-squared / (2 * radius**2)).exp()[:, None]
