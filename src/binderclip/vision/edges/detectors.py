"""Edge maps of whole pictures: by a network, windows over large ones, and by Canny's and Sobel's derivatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.windows import WindowGrid, fold, unfold
from binderclip.errors import UsageError, require
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.folders import read_folder, write_folder
from binderclip.numeric import check_number, check_whole
from binderclip.vision.edges.boundary_attention import BoundaryAttention
from binderclip.vision.edges.derivatives import sobel
from binderclip.vision.edges.dexined import DexiNed, load_dexined

__all__ = ["EdgeNetwork", "canny_levels", "load_edge_network", "save_edge_network", "sobel_map"]

KIND = "edges"
NETWORKS: dict[str, type[DexiNed | BoundaryAttention]] = {"dexined": DexiNed, "boundary": BoundaryAttention}
OVERLAP = 64
"""Pixels that neighbouring windows share, at most half of a window."""
LEVELS = tuple(np.geomspace(0.05, 2.0, 12).tolist())
"""Upper thresholds of Canny's hysteresis; scikit-image's gradient of a step of height 1 is at most 4, less its blur."""

ROUNDING = 1e-6
"""Slopes up to this are what float32 makes of a flat part."""


@dataclass(frozen=True)
class EdgeNetwork:
    """A network that finds edges, and how it is used.

    Attributes:
        network: `DexiNed` or `BoundaryAttention`, in evaluation mode.
        threshold: probability from which a pixel counts as an edge.
        card: what is known of the weights.
    """

    network: DexiNed | BoundaryAttention
    threshold: float = 0.5
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, above=0, below=1)

    @torch.no_grad()
    def __call__(self, picture: Float[Tensor, "3 H W"], *, window: int = 512) -> Float[Tensor, "H W"]:
        """Probability of an edge at each pixel.

        A picture of one colour has none. A larger picture than the window is seen in overlapping windows of equal size,
        whose maps are blended; so an edge map takes no more memory than one window, and no detail is lost.

        Args:
            picture: red, green and blue in [0, 1], of any size.
            window: side in pixels, at least 32.

        Raises:
            UsageError: no picture, or a window that is too small.
        """
        check_whole("window", window, least=32)
        if picture.ndim != 3 or picture.shape[0] != 3 or not picture.is_floating_point() or not picture.numel():
            raise UsageError(f"picture must be float (3, H, W), not {picture.dtype} of shape {tuple(picture.shape)}")
        height, width = picture.shape[1:]
        if bool((picture.amax((1, 2)) == picture.amin((1, 2))).all()):
            return picture.new_zeros(height, width)
        grid = WindowGrid.over((height, width), window, window - min(OVERLAP, window // 2))
        maps = torch.stack([self._probability(part[None]) for part in unfold(picture[None], grid)[0]])  # (V, h, w)
        return fold(maps[None, :, None], grid, weight=_taper(grid.window, min(OVERLAP, window // 2)))[0, 0]

    def _probability(self, window: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "h w"]:
        if isinstance(self.network, DexiNed):
            return self.network.probability(window)[0]
        height, width = window.shape[-2:]
        # A junction belongs to a whole patch: a smaller picture is continued by its last pixels.
        more = [max(0, self.network.patch - side) for side in (width, height)]
        padded = F.pad(window, (0, more[0], 0, more[1]), mode="replicate")
        return self.network(padded, outputs=1)[-1].probability()[0, :height, :width]


def _taper(window: tuple[int, int], overlap: int) -> Float[Tensor, "h w"]:
    """Weight of each pixel of a window: rises from its border over the overlap."""
    rise = []
    for side in window:
        at = torch.arange(side, dtype=torch.float32)
        rise.append((torch.minimum(at, at.flip(0)) + 1).clamp(max=overlap))
    return rise[0][:, None] * rise[1]


def save_edge_network(
    network: DexiNed | BoundaryAttention,
    folder: str | Path,
    *,
    threshold: float = 0.5,
    card: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> Path:
    """Write a network into a folder that `load_edge_network` and `binderclip edges --model` take.

    Args:
        network: a trained one.
        folder: is made where it is missing.
        threshold: probability from which a pixel counts as an edge, in (0, 1).
        card: what to say of it, as JSON.
        dtype: of the stored weights: "float32", "float16" or "int8".

    Raises:
        UsageError: another network, or a threshold out of range.
    """
    check_number("threshold", threshold, above=0, below=1)
    names = [name for name, kind in NETWORKS.items() if type(network) is kind]
    if not names:
        raise UsageError(f"network must be a DexiNed or a BoundaryAttention, not a {type(network).__name__}")
    config = {"network": names[0], "settings": network.settings, "threshold": threshold}
    state = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    return write_folder(folder, kind=KIND, config=config, state=state, card=card or {}, dtype=dtype)


def load_edge_network(source: str | Path, *, device: str | torch.device = "cpu") -> EdgeNetwork:
    """Read a folder that `save_edge_network` wrote, or a released checkpoint of DexiNed.

    Args:
        source: a folder, or a file such as `10_model.pth` of xavysp/DexiNed.
        device: where the network runs.

    Raises:
        UsageError: no such folder or file.
        CheckpointError: another kind of model, or damaged weights.
    """
    path = Path(source)
    if path.is_file():
        return EdgeNetwork(load_dexined(path, device=device), card={"name": path.name, "summary": "released DexiNed"})
    if not path.is_dir():
        raise UsageError(f"there is no folder of an edge network, and no checkpoint, {str(source)!r}")
    read = read_folder(path, KIND)
    network = configured(lambda: NETWORKS[read.config["network"]](**read.config["settings"]), path)
    counters = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    guarded(lambda: network.load_state_dict({**counters, **read.state}), path, "this version")
    threshold = read.config.get("threshold", 0.5)
    return configured(lambda: EdgeNetwork(network.to(device).eval(), float(threshold), read.card), path)


def sobel_map(picture: Float[Tensor, "3 H W"], *, sigma: float = 1.0) -> Float[Tensor, "H W"]:
    """Steepest slope of the three channels after a blur, by Sobel's kernels; 1 for a step from 0 to 1 without blur.

    Args:
        picture: in [0, 1].
        sigma: standard deviation of the blur in pixels, 0 for none.

    Raises:
        UsageError: a sigma out of [0, 100].
    """
    check_number("sigma", sigma, least=0, most=100)
    slope = 2 * sobel(_blurred(picture, sigma)).amax(0)
    return torch.where(slope > ROUNDING, slope, torch.zeros_like(slope)).clamp(max=1)


def _blurred(picture: Float[Tensor, "C H W"], sigma: float) -> Float[Tensor, "C H W"]:
    from scipy.ndimage import gaussian_filter1d

    if not sigma:
        return picture
    values = picture.cpu().numpy()
    for axis in (1, 2):
        values = gaussian_filter1d(values, sigma, axis=axis, mode="nearest")
    return torch.from_numpy(np.ascontiguousarray(values)).to(picture)


def canny_levels(picture: Float[Tensor, "3 H W"], *, sigma: float = 1.0) -> Float[Tensor, "H W"]:
    """Canny's edges at twelve thresholds as one map: the share of them at which a pixel is an edge.

    Of the grey picture, by scikit-image; each lower threshold of the hysteresis is half of the upper one. The edges are
    one pixel wide, and none lies on the border.

    Args:
        picture: in [0, 1].
        sigma: standard deviation of the blur in pixels.

    Raises:
        UsageError: a sigma out of [0, 100].
        MissingDependency: without scikit-image.
    """
    check_number("sigma", sigma, least=0, most=100)
    feature: Any = require("skimage.feature", "photographs")
    grey = (picture.cpu().double() * picture.new_tensor([0.2126, 0.7152, 0.0722]).cpu().double()[:, None, None]).sum(0)
    kept = np.zeros(tuple(grey.shape))
    for high in LEVELS:
        edges = feature.canny(grey.numpy(), sigma=sigma, low_threshold=high / 2, high_threshold=high)
        if not edges.any():  # nor at any higher one
            break
        kept += edges
    return torch.from_numpy(kept / len(LEVELS)).to(picture)
