"""Labels that a trained expert makes of pictures: once, kept in few bytes beside them, and moved with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.cache.features import FeatureCache, content_hash
from binderclip.errors import UsageError

__all__ = ["LABEL_KINDS", "LabelKind", "PseudoLabeler", "decode_labels", "encode_labels", "surface_normals"]

LabelKind = Literal["classes", "depth", "normals"]
LABEL_KINDS: tuple[LabelKind, ...] = ("classes", "depth", "normals")
UNLABELLED, DEEPEST, MIDDLE, HALF = 255, 65_535, 128, 32_768


def encode_labels(labels: Tensor, kind: LabelKind) -> Tensor:
    """Labels in few bytes: classes in one a pixel, depth in two, normals in three.

    Args:
        labels: of N pictures. `classes`: integers (N, H, W), ids up to 254, -1 or 255 where nothing is known. `depth`:
            (N, H, W), of any scale and shift (inverse depth, as experts give it), NaN where nothing is known; each
            picture's range is spread over 1 to 65,535 and so lost. `normals`: (N, 3, H, W), x to the right, y down, z
            towards the viewer, of any length; zero (or NaN) where nothing is known.
        kind: which of the three.

    Returns:
        uint8 (N, H, W), int16 (N, H, W), uint8 (N, 3, H, W).

    Raises:
        UsageError: another shape or kind, or a class id that does not fit.
    """
    _check(labels, kind)
    if kind == "classes":
        if labels.is_floating_point() or int(labels.max()) > UNLABELLED or int(labels.min()) < -1:
            raise UsageError("classes are integers, -1 or 255 where nothing is known, else 0 to 254")
        return torch.where(labels == -1, UNLABELLED, labels).to(torch.uint8)
    if kind == "depth":
        known = labels.isfinite()
        flat = labels.float().flatten(1)
        low = torch.where(known.flatten(1), flat, torch.inf).amin(1)[:, None, None]
        high = torch.where(known.flatten(1), flat, -torch.inf).amax(1)[:, None, None]
        fraction = (labels.float() - low) / (high - low).clamp_min(1e-12)
        return (torch.where(known, 1 + (fraction * (DEEPEST - 1)).round(), 0) - HALF).to(torch.int16)
    unit = F.normalize(labels.float().nan_to_num(0, 0, 0), dim=1)
    return (unit * (MIDDLE - 1)).round().add(MIDDLE).to(torch.uint8)


def decode_labels(stored: Tensor, kind: LabelKind) -> Tensor:
    """What `encode_labels` kept.

    Returns:
        `classes`: int64 (N, H, W), -1 where nothing is known. `depth`: float32 (N, H, W) in [0, 1], NaN there.
        `normals`: float32 (N, 3, H, W) of length 1, zero there.
    """
    _check(stored, kind)
    if kind == "classes":
        return torch.where(stored == UNLABELLED, -1, stored.long())
    if kind == "depth":
        level = stored.float() + HALF
        return torch.where(level == 0, torch.nan, (level - 1) / (DEEPEST - 1))
    return F.normalize(stored.float() - MIDDLE, dim=1)


def _check(labels: Tensor, kind: LabelKind) -> None:
    if kind not in LABEL_KINDS:
        raise UsageError(f"labels are of kind {', '.join(LABEL_KINDS)}, not {kind!r}")
    good = labels.ndim == 4 and labels.shape[1] == 3 if kind == "normals" else labels.ndim == 3
    if not good or not labels.numel():
        expected = "(N, 3, H, W)" if kind == "normals" else "(N, H, W)"
        raise UsageError(f"{kind} have the shape {expected}, got {tuple(labels.shape)}")


class PseudoLabeler:
    """An expert whose labels of each picture are made once and kept on disk, by the picture's content.

    Args:
        name: of the expert.
        fn: (B, C, H, W) in [0, 1] -> labels as `encode_labels` takes them, of any height and width, the same for
            pictures of one size.
        kind: "classes", "depth" or "normals".
        version: of the expert: weights, settings, input size. Another version labels anew.
        classes: number of classes, for that kind.
        batch: pictures given to the expert at once.
        root: of the cache, see `FeatureCache`.

    Raises:
        UsageError: a kind that is none, no name or version, or classes that do not belong.

    Examples:
        >>> import tempfile
        >>> bright = PseudoLabeler("bright", lambda x: (x.mean(1) > 0.5).long(), kind="classes", version="1", classes=2,
        ...                        root=tempfile.mkdtemp())
        >>> bright(torch.ones(2, 3, 8, 8)).shape
        torch.Size([2, 8, 8])

    Paper: Salehi et al., "CLIP meets Model Zoo Experts: Pseudo-Supervision for Visual Enhancement", arXiv 2310.14108.
    """

    def __init__(
        self,
        name: str,
        fn: Callable[[Tensor], Tensor],
        *,
        kind: LabelKind,
        version: str,
        classes: int | None = None,
        batch: int = 32,
        root: str | Path | None = None,
    ) -> None:
        if kind not in LABEL_KINDS:
            raise UsageError(f"an expert's kind is {', '.join(LABEL_KINDS)}, not {kind!r}")
        if not name or not version:
            raise UsageError("an expert needs a name and a version: by them its labels are found again")
        if (kind == "classes") != (classes is not None) or not 1 <= (classes or 1) <= UNLABELLED or batch < 1:
            raise UsageError(
                f"experts of kind 'classes' say how many, from 1 to {UNLABELLED}, and no others do; batch is at least "
                f"1; got kind={kind!r}, classes={classes}, batch={batch}"
            )
        self.name, self.fn, self.kind, self.version = name, fn, kind, version
        self.classes, self.batch, self.root = classes, batch, root

    def __repr__(self) -> str:
        return f"PseudoLabeler({self.name!r}, kind={self.kind!r}, version={self.version!r})"

    @property
    def channels(self) -> int:
        """Channels of a prediction: classes, 1 or 3."""
        return {"depth": 1, "normals": 3}.get(self.kind, self.classes or 0)

    def stored(
        self, images: Float[Tensor, "N C H W"] | UInt8[Tensor, "N C H W"], keys: Sequence[str] | None = None
    ) -> UInt8[Tensor, "N h w"] | UInt8[Tensor, "N 3 h w"] | Int[Tensor, "N h w"]:
        """The labels as they are kept; what is not there yet is made.

        Args:
            images: in [0, 1], or bytes.
            keys: that name the contents; default a hash of each picture.

        Raises:
            UsageError: keys and pictures differ in number, or the expert gives other labels than it says.
        """
        if keys is not None and len(keys) != len(images):
            raise UsageError(f"{len(keys)} keys for {len(images)} pictures")
        if not len(images):
            raise UsageError("no picture to label")
        names = [content_hash(image) for image in images] if keys is None else list(keys)
        size = "x".join(map(str, images.shape[1:]))
        cache = FeatureCache(f"expert {self.name}, version {self.version}", f"{self.kind}@{size}", self.root)
        return cache.fetch(names, lambda rows: torch.cat([self._made(images[p]) for p in _parts(rows, self.batch)]))

    @torch.no_grad()
    def _made(self, images: Tensor) -> Tensor:
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        labels = self.fn(pixels)
        if len(labels) != len(images):
            raise UsageError(f"{self!r} gave {len(labels)} label maps for {len(images)} pictures")
        stored = encode_labels(labels.detach().cpu(), self.kind)
        if self.kind == "classes" and bool((stored[stored != UNLABELLED] >= (self.classes or 0)).any()):
            raise UsageError(f"{self!r} has {self.classes} classes and gave one beyond")
        return stored

    def __call__(
        self, images: Float[Tensor, "N C H W"] | UInt8[Tensor, "N C H W"], keys: Sequence[str] | None = None
    ) -> Tensor:
        """The labels of pictures as `decode_labels` gives them; arguments as of `stored`."""
        return decode_labels(self.stored(images, keys), self.kind)


def _parts(rows: list[int], size: int) -> list[list[int]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def surface_normals(height: Float[Tensor, "N H W"], strength: float = 1.0) -> Float[Tensor, "N 3 H W"]:
    """Normals of a height map: (-dh/dx, -dh/dy, 1), of length 1; x to the right, y down.

    Args:
        height: towards the viewer, in units of a pixel once multiplied by `strength`.
        strength: factor of the height.

    Raises:
        UsageError: maps of less than 3 x 3 pixels.
    """
    if min(height.shape[-2:]) < 3:
        raise UsageError(f"a height map has at least 3 x 3 pixels, got {tuple(height.shape)}")
    padded = F.pad(strength * height[:, None].float(), (1, 1, 1, 1), mode="replicate")[:, 0]
    x = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    y = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return F.normalize(torch.stack([-x, -y, torch.ones_like(x)], 1), dim=1)
