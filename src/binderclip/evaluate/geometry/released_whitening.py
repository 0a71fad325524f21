"""The whitening matrices of W_CLIP's authors."""

from __future__ import annotations

from pathlib import Path

import torch

from binderclip.errors import CheckpointError
from binderclip.models.files.released import read_tensor
from binderclip.similarity.transforms import Whitening

__all__ = ["load_whitening"]


def load_whitening(mean: str | Path, matrix: str | Path, modality: str) -> Whitening:
    """A `Whitening` from the authors' two files of one modality, `mean_image_L14.pt` and `w_mat_image_L14.pt`.

    They belong to `open_clip:ViT-L-14-quickgelu/openai`, raw features. `inverse` goes through the pseudo-inverse, as
    the matrix of texts has directions of no variance.

    Args:
        mean: file of the mean, (k,); nothing in it is run.
        matrix: file of the whitening matrix, (k, k), applied from the right.
        modality: "image" or "text"; nothing is known of the other one.

    Raises:
        CheckpointError: a file cannot be read, or shapes that do not fit together.

    Paper: Whitened CLIP as a Likelihood Surrogate of Images and Captions (arXiv 2505.06934).
    """
    centre, forward = (read_tensor(path).double() for path in (mean, matrix))
    width = len(centre) if centre.ndim == 1 else 0
    if not width or forward.shape != (width, width):
        raise CheckpointError(
            f"{mean} and {matrix} must hold (k,) and (k, k), not {tuple(centre.shape)} and {tuple(forward.shape)}"
        )
    lengths = forward.square().sum(0)
    if not bool((lengths > 0).all()):
        raise CheckpointError(f"{matrix} has a column of zeros, which whitens nothing")
    whitening = Whitening(mode="pca", redundant="noise")
    entries = {
        "mean": centre,
        "kept": torch.ones(width),
        "forward": forward,
        "backward": torch.linalg.pinv(forward),
        "variances": (1 / lengths).sort(descending=True).values,
    }
    whitening.load_state_dict({f"{modality}/document/{name}": value for name, value in entries.items()})
    return whitening
