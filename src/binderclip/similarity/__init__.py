"""What makes two features alike: geometries, as losses train them, and maps that stand in front of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.similarity.embeddings import EmbeddingSet as EmbeddingSet
    from binderclip.similarity.geometry import SIMILARITIES as SIMILARITIES
    from binderclip.similarity.geometry import ArcLength as ArcLength
    from binderclip.similarity.geometry import Cosine as Cosine
    from binderclip.similarity.geometry import Euclidean as Euclidean
    from binderclip.similarity.geometry import Inner as Inner
    from binderclip.similarity.geometry import Lorentz as Lorentz
    from binderclip.similarity.geometry import LorentzInner as LorentzInner
    from binderclip.similarity.geometry import Similarity as Similarity
    from binderclip.similarity.geometry import SquaredEuclidean as SquaredEuclidean
    from binderclip.similarity.geometry import SquaredLorentz as SquaredLorentz
    from binderclip.similarity.hubness import CSLS as CSLS
    from binderclip.similarity.hubness import mean_nearest_cosine as mean_nearest_cosine
    from binderclip.similarity.procrustes import procrustes_align as procrustes_align
    from binderclip.similarity.record import frozen_similarity as frozen_similarity
    from binderclip.similarity.record import similarity_from_record as similarity_from_record
    from binderclip.similarity.record import similarity_record as similarity_record
    from binderclip.similarity.stored import TRANSFORMS as TRANSFORMS
    from binderclip.similarity.stored import load_transform as load_transform
    from binderclip.similarity.stored import save_transform as save_transform
    from binderclip.similarity.stored import transform_named as transform_named
    from binderclip.similarity.transformed import Transformed as Transformed
    from binderclip.similarity.transforms import EmbeddingTransform as EmbeddingTransform
    from binderclip.similarity.transforms import GapRemoval as GapRemoval
    from binderclip.similarity.transforms import MeanShift as MeanShift
    from binderclip.similarity.transforms import Whitening as Whitening

lazy_exports(__name__)
