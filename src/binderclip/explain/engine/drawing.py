"""How a map is drawn: sign, channels, cap, and the multiplication with the image."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.settings import check_choice

Sign = Literal["abs", "signed", "relu"]
Channels = Literal["sum", "max"]


def to_map(
    values: Float[Tensor, "B *C H W"],
    *,
    sign: Sign = "abs",
    channels: Channels = "sum",
    percentile: float = 99.0,
    image: Float[Tensor, "B C H W"] | None = None,
) -> Float[Tensor, "B H W"]:
    """A sensitivity map fit to be seen: signs, then channels, then a cap that a few single pixels cannot spoil.

    Each image is divided by the percentile of its own absolute values and cut there: a handful of outlying pixels would
    otherwise leave the rest black.

    Args:
        values: (B, C, H, W) attributions with channels, or (B, H, W) maps (`Attribution.maps()`).
        sign: `abs` drops signs (photographs, where an object may be darker or lighter than its ground), `signed` keeps
            them (marks on a uniform ground, as digits), `relu` keeps what speaks for the target.
        channels: `sum`, or `max` for the channel of the largest magnitude.
        percentile: of the absolute values in one image, that becomes 1; 100 for the largest value.
        image: multiplies the attributions first. Mind that black pixels then get nothing, whatever the model sees in
            them.

    Returns:
        (B, H, W) in [0, 1], or [-1, 1] for `signed`; a map of zeros stays zero.

    Raises:
        UsageError: an unknown option, a percentile outside (0, 100], or shapes that do not fit.

    Paper: SmoothGrad: removing noise by adding noise (arXiv 1706.03825), section 3.
    """
    check_choice("sign", sign, ("abs", "signed", "relu"))
    check_choice("channels", channels, ("sum", "max"))
    if not 0 < percentile <= 100:
        raise UsageError(f"percentile must be in (0, 100], not {percentile}")
    if values.ndim not in (3, 4):
        raise UsageError(f"values must be (B, C, H, W) or (B, H, W), not {tuple(values.shape)}")
    maps = values.detach().float()
    maps = maps[:, None] if maps.ndim == 3 else maps
    if image is not None:
        if image.ndim != 4 or len(image) != len(maps) or image.shape[-2:] != maps.shape[-2:]:
            raise UsageError(f"image {tuple(image.shape)} does not fit values {tuple(values.shape)}")
        maps = maps * image.to(maps)
    maps = {"abs": maps.abs(), "signed": maps, "relu": maps.clamp(min=0)}[sign]
    flat = maps.sum(dim=1) if channels == "sum" else maps.gather(1, maps.abs().argmax(dim=1, keepdim=True))[:, 0]
    cap = torch.from_numpy(np.percentile(flat.abs().flatten(1).cpu().numpy(), percentile, axis=1)).to(flat)[
        :, None, None
    ]
    # A map with less than 1 % of its pixels lit has a cap of zero: its largest value then.
    cap = torch.where(cap > 0, cap, flat.abs().amax(dim=(1, 2), keepdim=True))
    return (flat / torch.where(cap > 0, cap, 1.0)).clamp(-1, 1)
