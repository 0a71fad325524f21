"""What normal looks like: embeddings of sound pictures, and how far others are from the nearest of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError

CELLS = 4_000_000
"""Most cosines that are held at once."""


class NormalMemory:
    """Embeddings of normal pictures; the association of others with them, a > 0 for what no reference resembles.

    Args:
        references: (K, M, D): M embeddings (of windows or patches) of each of K pictures, any length.

    Raises:
        UsageError: another shape, no reference, or values that are not finite.

    Paper: WinCLIP: Zero-/Few-Shot Anomaly Classification and Segmentation (arXiv 2303.14814), equation 4.
    """

    def __init__(self, references: Float[Tensor, "K M D"]) -> None:
        if references.ndim != 3 or not references.numel():
            raise UsageError(f"references must be (pictures, places, D), not {tuple(references.shape)}")
        if not bool(torch.isfinite(references).all()):
            raise UsageError("references hold NaN or infinite values")
        self.rows = F.normalize(references.float(), dim=-1).flatten(0, 1)
        self.owner: Int[Tensor, "R"] = torch.arange(len(references), device=references.device).repeat_interleave(
            references.shape[1]
        )

    def __len__(self) -> int:
        return int(self.owner[-1]) + 1

    def distances(
        self, embeddings: Float[Tensor, "B M D"], *, without: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B M"]:
        """Half of one minus the cosine with the nearest reference, in [0, 1].

        Args:
            embeddings: any length.
            without: for each picture a reference picture that does not count: its own, when the references themselves
                are scored.

        Raises:
            UsageError: another width, or `without` where there is one reference picture alone.
        """
        if embeddings.ndim != 3 or embeddings.shape[2] != self.rows.shape[1]:
            raise UsageError(
                f"embeddings {tuple(embeddings.shape)} do not fit references of width {self.rows.shape[1]}"
            )
        if without is not None and len(self) < 2:
            raise UsageError("one reference picture cannot be left out: it is the only one")
        unit = F.normalize(embeddings.float(), dim=-1)
        places = unit.shape[1]
        distances = []
        step = max(1, CELLS // (places * len(self.rows)))
        for first in range(0, len(unit), step):
            part = unit[first : first + step]
            cosines = part @ self.rows.T
            if without is not None:
                without = without.to(self.owner.device)
                own: Bool[Tensor, "b R"] = self.owner == without[first : first + step, None]
                cosines = cosines.masked_fill(own[:, None], -1.0)
            distances.append(cosines.amax(dim=-1))
        # Rounding may put a cosine a hair above 1.
        return ((1 - torch.cat(distances)) / 2).clamp(min=0)
