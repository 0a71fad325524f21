"""What makes two features alike: geometries, as losses train them, and maps that stand in front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.similarity.embeddings import EmbeddingSet
    from binderclip.similarity.geometry import (
        SIMILARITIES,
        ArcLength,
        Cosine,
        Euclidean,
        Inner,
        Lorentz,
        LorentzInner,
        Similarity,
        SquaredEuclidean,
        SquaredLorentz,
    )
    from binderclip.similarity.hubness import CSLS, mean_nearest_cosine
    from binderclip.similarity.record import frozen_similarity, similarity_from_record, similarity_record
    from binderclip.similarity.stored import TRANSFORMS, load_transform, save_transform, transform_named
    from binderclip.similarity.transformed import Transformed
    from binderclip.similarity.transforms import EmbeddingTransform, GapRemoval, MeanShift, Whitening

__all__ = [
    "CSLS",
    "SIMILARITIES",
    "TRANSFORMS",
    "ArcLength",
    "Cosine",
    "EmbeddingSet",
    "EmbeddingTransform",
    "Euclidean",
    "GapRemoval",
    "Inner",
    "Lorentz",
    "LorentzInner",
    "MeanShift",
    "Similarity",
    "SquaredEuclidean",
    "SquaredLorentz",
    "Transformed",
    "Whitening",
    "frozen_similarity",
    "load_transform",
    "mean_nearest_cosine",
    "save_transform",
    "similarity_from_record",
    "similarity_record",
    "transform_named",
]

lazy_exports(__name__)
