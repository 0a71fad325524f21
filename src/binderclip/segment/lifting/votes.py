"""FlashSplat: which Gaussians an object is made of, in closed form from masks of several views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import GaussianScene, SplatCamera

__all__ = ["lift_masks", "lifted_mask", "mask_votes"]


@torch.no_grad()
def mask_votes(
    scene: GaussianScene,
    cameras: Sequence[SplatCamera],
    masks: Sequence[Int[Tensor, "H W"]],
    classes: int | None = None,
) -> Float[Tensor, "K N"]:
    """How much of each label's pixels each Gaussian has painted, over all views: the sum of its blending weights there.

    One pass over each picture, as in rendering it. A Gaussian that is hidden has no vote.

    Args:
        scene: of N Gaussians, on any device; votes are counted there.
        cameras: of the views.
        masks: label of every pixel of each view, 0 for the background, alike in all views; -1 does not count.
        classes: K; default the largest label and 1.

    Raises:
        UsageError: as many masks as cameras are needed, of their sizes, with whole numbers below K.
    """
    if len(cameras) != len(masks) or not cameras:
        raise UsageError(f"give a mask for each camera, not {len(masks)} masks for {len(cameras)} cameras")
    for number, (camera, mask) in enumerate(zip(cameras, masks, strict=True)):
        if tuple(mask.shape) != camera.size:
            raise UsageError(f"mask {number} is {tuple(mask.shape)}, its camera's picture {camera.size}")
        if mask.is_floating_point() or int(mask.min()) < -1:
            raise UsageError(
                f"mask {number} must hold labels: whole numbers from 0, or -1 for pixels that do not count"
            )
    highest = max(int(mask.max()) for mask in masks) + 1
    count = max(highest, 2) if classes is None else classes
    if highest > count:
        raise UsageError(f"the masks hold the label {highest - 1}, classes is {count}")
    # Metal has no float64; sums of float32 are exact enough for a few views.
    exact = torch.float32 if scene.means.device.type == "mps" else torch.float64
    votes = torch.zeros(count, len(scene), dtype=exact, device=scene.means.device)
    for camera, mask in zip(cameras, masks, strict=True):
        flat = mask.long().flatten().to(votes.device)
        for tile in scene.blend(camera):
            labels = flat[tile.pixels]
            known = labels >= 0
            # (K, P) of zeros and ones, times the weights (P, G)
            member = tile.weights.new_zeros(count, int(known.sum()))
            member.scatter_(0, labels[known][None], 1.0)
            votes.index_add_(1, tile.gaussians, (member @ tile.weights[known]).to(exact))
    return votes.float()


def lift_masks(
    votes: Float[Tensor, "K N"], *, bias: float = 0.0, norm: int = 1, exclusive: bool = False
) -> Bool[Tensor, "K N"]:
    """The Gaussians of each label: those that have painted more of its pixels than of all others.

    A rendered mask is a sum of labels by blending weight, so that the labels in {0, 1} with the least absolute error
    over all pixels are known without a search: a Gaussian belongs to an object where its vote for it is larger.

    Args:
        votes: of `mask_votes`; row 0 is the background.
        bias: added to the share of what is not the object: above 0 objects shrink, which noisy masks want; below 0 they
            grow, for taking an object away. In [-1, 1].
        norm: in which votes are normalised before the bias: 1 for shares, as in the paper; 2 as in its code.
        exclusive: each Gaussian to the label with the most votes, where by default it may belong to several or to none,
            as at unclear boundaries.

    Returns:
        Row k says which Gaussians are of label k; row 0 has those of no object, and those that were never seen.

    Raises:
        UsageError: votes that are negative or of one label, a bias or a norm out of range.

    Paper: FlashSplat: 2D to 3D Gaussian Splatting Segmentation Solved Optimally (arXiv 2409.08270).
    """
    if votes.ndim != 2 or len(votes) < 2 or (votes.numel() and float(votes.min()) < 0):
        raise UsageError(f"votes must be (K, N) of at least two labels and not negative, not {tuple(votes.shape)}")
    if not -1 <= bias <= 1 or norm not in (1, 2):
        raise UsageError(f"bias must be in [-1, 1] and norm 1 or 2, not {bias} and {norm}")
    shares = votes.double() / votes.double().sum(0).clamp(min=1e-30)
    result = torch.zeros(votes.shape, dtype=torch.bool, device=votes.device)
    if exclusive:
        biased = shares / torch.linalg.vector_norm(shares, norm, dim=0).clamp(min=1e-30)  # columns, step 3
        biased[0] += bias
        result.scatter_(0, biased.argmax(0, keepdim=True), True)
    else:
        for label in range(1, len(votes)):
            own = shares[label]
            pair = torch.stack([shares.sum(0) - own, own])
            if bias:
                pair = pair / torch.linalg.vector_norm(pair, norm, dim=0).clamp(min=1e-30)
            result[label] = pair[1] > pair[0] + bias
    result[1:, votes.sum(0) == 0] = False
    result[0] = ~result[1:].any(0)
    return result


def lifted_mask(
    scene: GaussianScene, chosen: Bool[Tensor, "N"], camera: SplatCamera, *, threshold: float = 0.5
) -> Bool[Tensor, "H W"]:
    """The object's mask in any view, new ones too: pixels that its Gaussians have painted more than `threshold` of.

    Gaussians in front of the object hide it, as in the picture.

    Args:
        scene: whole. chosen: which Gaussians are the object's, a row of `lift_masks`.
        camera: of the view.
        threshold: in (0, 1).
    """
    with torch.no_grad():
        painted = scene.coloured(chosen.to(scene.colours)[:, None].expand(-1, 3)).render(camera)
    return painted.image[0] > threshold
