"""What an index stores of a picture and asks with: vectors whose cosine or dot product ranks as the model compares.

Every geometry is a monotonic function of one dot product, so the nearest in it are found by an exact search for the
largest dot products, whatever it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import NotSupported
from binderclip.similarity.geometry import Cosine, Similarity
from binderclip.similarity.hubness import CSLS
from binderclip.similarity.transformed import Transformed
from binderclip.similarity.transforms import mixed_units


@dataclass(frozen=True)
class IndexVectors:
    """Vectors of a geometry for an index.

    Args:
        geometry: what the model compares by; None: cosines.
    """

    geometry: Similarity | None = None

    @property
    def metric(self) -> Literal["cosine", "dot"]:
        """LanceDB's metric of these vectors."""
        return "cosine" if self.geometry is None else "dot"

    @property
    def correction(self) -> str:
        """What similarities of pictures with a text are beyond cosines, in words; empty where they are cosines."""
        geometry = self.geometry
        if geometry is None:
            return ""
        if isinstance(geometry, CSLS):
            weights = f"{geometry.image_weight:g} of pictures, {geometry.text_weight:g} of texts"
            return f"cosines less what each side has in common with everything (CSLS, weights {weights})"
        if isinstance(geometry, Transformed) and type(geometry.base) is Cosine:
            return f"cosines after {type(geometry.transform).__name__}"
        return f"similarities by {type(geometry).__name__}"

    def width(self, features: int) -> int:
        """Width k of the stored vectors of features of width E."""
        return features if self.geometry is None else self.stored(torch.zeros(1, features)).shape[1]

    def stored(self, features: Float[Tensor, "n E"], modality: str = "image") -> Float[Tensor, "n k"]:
        """What is stored of documents: unit vectors, or the left sides of the geometry, turned so that a larger dot
        product is more alike.
        """
        if self.geometry is None:
            return F.normalize(features.float(), dim=-1)
        return self._sign * self.geometry.left(self.geometry.embed(features, modality)).float()

    def stored_both(
        self, text: Float[Tensor, "n E"], image: Float[Tensor, "n E"], share: float = 0.5
    ) -> Float[Tensor, "n k"]:
        """What is stored of pictures with a text: the mean of both sides' unit vectors, weighted by the text's share.

        Raises:
            NotSupported: a geometry that has no such mean.
        """
        self.need_means()
        if isinstance(self.geometry, Transformed):
            return self.geometry.transform.mixed(text, image, share).float()
        mean = mixed_units(F.normalize(text.float(), dim=-1), F.normalize(image.float(), dim=-1), share)
        return self.stored(mean)

    def need_means(self) -> None:
        """Refuse documents of a picture and a text where they have no place between the two.

        Raises:
            NotSupported: what is compared are not cosines, with or without a transform.
        """
        base = self.geometry.base if isinstance(self.geometry, Transformed) else self.geometry
        if base is not None and not base.angular:
            raise NotSupported(f"a picture and its text are one document by cosines alone, not by {base}")

    def need_units(self) -> None:
        """Refuse features that are there as unit vectors where their lengths have a meaning.

        Raises:
            NotSupported: what is compared are not cosines, or are those of a transform that reads lengths.
        """
        base = self.geometry
        if isinstance(base, Transformed):
            if base.transform.reads_lengths:
                kind = type(base.transform).__name__
                raise NotSupported(
                    f"embeddings are kept as unit vectors, and {kind} reads the lengths that raw ones have"
                )
            base = base.base
        if base is not None and not base.angular:
            raise NotSupported(f"embeddings are kept as unit vectors, and {base} compares by their lengths too")

    def units(self, rows: Float[Tensor, "n k"]) -> Float[Tensor, "n E"]:
        """The unit vectors of documents whose stored rows these are; the inverse of `stored`.

        Raises:
            NotSupported: a geometry whose rows are no longer unit vectors with numbers behind them.
        """
        if self.geometry is None:
            return rows
        if not isinstance(self.geometry, CSLS):
            raise NotSupported(f"rows of an index by {type(self.geometry).__name__} hold no unit vectors")
        return F.normalize(rows[:, :-2], dim=-1)

    def asked(self, features: Float[Tensor, "n E"], modality: str = "query") -> Float[Tensor, "n k"]:
        """What is asked with: unit vectors, or the right sides of the geometry.

        A picture that asks is compared with pictures by cosines: what both have in common with everything tells texts
        apart, and no picture from its like.
        """
        if self.geometry is None:
            return F.normalize(features.float(), dim=-1)
        if modality == "image" and isinstance(self.geometry, CSLS):
            return F.pad(F.normalize(features.float(), dim=-1), (0, 2))
        return self.geometry.right(self.geometry.embed(features, modality)).float()

    def score(self, distance: float) -> float:
        """The similarity of a document whose distance LanceDB gives as 1 - cosine or 1 - dot product."""
        if self.geometry is None:
            return 1.0 - distance
        with torch.no_grad():
            return float(self.geometry.similarity(torch.tensor(self._sign * (1.0 - distance)).to(self._device)))

    @property
    def _sign(self) -> float:
        """-1 where a larger dot product is less alike."""
        of_dot = None if self.geometry is None else self.geometry.of_dot
        return 1.0 if of_dot is None or of_dot.rising else -1.0

    @property
    def _device(self) -> torch.device:
        assert self.geometry is not None
        return next((parameter.device for parameter in self.geometry.parameters()), torch.device("cpu"))
