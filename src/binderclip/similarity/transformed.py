"""A fitted transform in front of a geometry: itself a geometry, so that everything that compares can use it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.similarity.geometry import Cosine, Similarity, at_least_float32
from binderclip.similarity.transforms import EmbeddingTransform

__all__ = ["Transformed"]


class Transformed(Similarity):
    """Features go through a fitted transform first; what comes out is compared by another geometry.

    A text that asks has the modality "query"; where the transform was not fitted on queries, it is mapped as any text.

    Args:
        transform: fitted on pictures and on texts; both must come out in one space.
        base: what compares; None: the cosine.

    Raises:
        UsageError: a transform that was not fitted on both, or whose outputs cannot be compared with each other.

    Examples:
        >>> from binderclip.similarity import EmbeddingSet, GapRemoval
        >>> clouds = EmbeddingSet(torch.eye(3), "image"), EmbeddingSet(-torch.eye(3), "text")
        >>> similarity = Transformed(GapRemoval().fit(*clouds))
        >>> points = similarity.embed(torch.eye(3), "image")
        >>> similarity(points, similarity.embed(-torch.eye(3), "text")).argmin(1)
        tensor([0, 1, 2])
    """

    def __init__(self, transform: EmbeddingTransform, base: Similarity | None = None) -> None:
        super().__init__()
        self.transform, self.base = transform, base or Cosine()
        widths = {}
        for modality in ("image", "text"):
            transform.fitted(modality)
            widths[modality] = transform.transform(torch.zeros(1, transform.width), modality).shape[1]
        if not transform.shared_axes or len(set(widths.values())) > 1:
            raise UsageError(
                f"{type(transform).__name__} puts pictures and texts on axes of their own, which cannot be compared; "
                "whiten with mode='zca'"
            )
        self.of_dot, self.spherical, self.initial_scale = self.base.of_dot, self.base.spherical, self.base.initial_scale

    def extra_repr(self) -> str:
        return f"transform={type(self.transform).__name__}"

    def settings(self) -> dict[str, Any]:
        """Name and settings of the transform, and the geometry behind it."""
        name = type(self.transform).__name__
        return {"transform": name, **self.transform.settings(), "base": self.base.signature()}

    def signature(self) -> str:
        """As of every geometry, with a hash of what the transform learned."""
        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.transform.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return json.dumps([type(self).__qualname__, self.settings(), digest.hexdigest()], sort_keys=True)

    def embed(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n e"]:
        """Raw features to mapped points of the geometry behind."""
        kind, role = ("text", "query") if modality == "query" else (modality, "document")
        if (kind, role) not in self.transform.counts:
            role = "document"
        rows = at_least_float32(x).reshape(-1, x.shape[-1])
        mapped = self.transform.transform(rows, kind, role)
        return self.base.embed(mapped.reshape(*x.shape[:-1], mapped.shape[-1]), kind)

    def left(self, a: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """That of the geometry behind."""
        return self.base.left(a)

    def right(self, b: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """That of the geometry behind."""
        return self.base.right(b)

    def factor(self) -> Float[Tensor, ""] | float:
        """That of the geometry behind."""
        return self.base.factor()

    def cone_angles(
        self, apex: Float[Tensor, "n e"], point: Float[Tensor, "n e"], radius: float
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Those of the geometry behind."""
        return self.base.cone_angles(apex, point, radius)
