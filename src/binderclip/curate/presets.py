"""Rules that belong together, by name: the filters of DataComp, and papers in their own order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from binderclip.curate.engine.rule import KeepRule
from binderclip.curate.rules.density import ClusterPruner
from binderclip.curate.rules.duplicates import SemanticDuplicates, TargetClusters
from binderclip.curate.rules.groups import Membership, OnePerGroup
from binderclip.curate.rules.scores import ScoreThreshold, ScoreTopFraction
from binderclip.errors import UsageError


def datacomp_basic(*, language: str = "en") -> Sequence[KeepRule]:
    """DataComp's basic filter: English captions of more than 2 words and 5 characters, pictures of some size.

    Args:
        language: code in the column `language` of the data, which is not computed here; "" leaves this test out.
    """
    return [
        *_language(language),
        ScoreThreshold(column="words", minimum=3),
        ScoreThreshold(column="characters", minimum=6),
        ScoreThreshold(column="side", minimum=200),
        ScoreThreshold(column="aspect", maximum=3.0),
    ]


def datacomp_clip_score(
    *, column: str = "clip_score", fraction: float | None = None, threshold: float | None = None
) -> Sequence[KeepRule]:
    """DataComp's filter by CLIP score: the best 30 % of the pool, or everything from a threshold on.

    A fraction keeps exactly floor(fraction * N); DataComp's script makes a threshold of it, which keeps one more and
    all that are equal to it.

    Args:
        column: of the score; DataComp's tables have `clip_l14_similarity_score`.
        fraction: kept of the pool; 0.3 where no threshold is given.
        threshold: smallest score kept.

    Raises:
        UsageError: both are given.
    """
    if fraction is not None and threshold is not None:
        raise UsageError("datacomp-clip-score takes a fraction or a threshold, not both")
    if threshold is not None:
        return [ScoreThreshold(column=column, minimum=threshold)]
    return [ScoreTopFraction(column=column, fraction=0.3 if fraction is None else fraction)]


def datacomp_image_based(
    *, targets: str, embedding: str = "image_embedding", k: int = 100_000, language: str = "en"
) -> Sequence[KeepRule]:
    """DataComp's image-based filter: captions of 2 words and 6 characters, in a cluster of a target picture.

    Args:
        targets: `.npy` of the targets' embeddings.
        embedding: column of embeddings; DataComp's features are `l14_img`.
        k: number of clusters.
        language: as of `datacomp_basic`.
    """
    return [
        *_language(language),
        ScoreThreshold(column="words", minimum=2),
        ScoreThreshold(column="characters", minimum=6),
        TargetClusters(targets=targets, embedding=embedding, k=k),
    ]


def laion_2b(*, column: str = "clip_score", language: str = "en") -> Sequence[KeepRule]:
    """The filter of LAION-2B as DataComp repeats it: English captions, score of ViT-B/32 at least 0.28.

    Args:
        column: of the score; DataComp's tables have `clip_b32_similarity_score`.
        language: as of `datacomp_basic`.
    """
    return [*_language(language), ScoreThreshold(column=column, minimum=0.28)]


def number_free(*, fraction: float = 0.4, column: str = "masked_clip_score") -> Sequence[KeepRule]:
    """The best 40 % by the CLIP score of captions without their numbers (p102).

    Args:
        fraction: kept of the pool.
        column: of the score.
    """
    return [ScoreTopFraction(column=column, fraction=fraction)]


def density_pruning(
    *,
    k: int = 100,
    keep_share: float = 0.4,
    score_fraction: float = 0.5,
    eps: float = 0.05,
    tau: float = 0.1,
    embedding: str = "image_embedding",
    column: str = "clip_score",
) -> Sequence[KeepRule]:
    """Density-based pruning in the paper's order: no near duplicates, the better half by CLIP score, quotas (p103).

    Args:
        k: number of clusters, of deduplication and of pruning.
        keep_share, tau: of `ClusterPruner`.
        score_fraction: kept by the score.
        eps: of `SemanticDuplicates`.
        embedding, column: of embeddings and of the score.
    """
    return [
        SemanticDuplicates(embedding=embedding, k=k, eps=eps),
        ScoreTopFraction(column=column, fraction=score_fraction),
        ClusterPruner(embedding=embedding, k=k, keep_share=keep_share, tau=tau),
    ]


def drop_embedded_text(
    *,
    min_score: float = 0.3,
    min_aesthetic: float | None = 4.5,
    k: int = 100,
    eps: float = 0.05,
    embedding: str = "image_embedding",
    column: str = "clip_score",
) -> Sequence[KeepRule]:
    """Pictures without text in them, of a score and a beauty, without near duplicates: the debiased set of p051.

    "Parrot Captions Teach CLIP to Spot Text" (arXiv 2312.14232). The words in pictures and the aesthetics score are
    columns of the data (`ocr`, `aesthetic`), or `ocr` is read by `ReadText`; neither is computed by binderclip.

    Args:
        min_score: the score is above it.
        min_aesthetic: the column `aesthetic` is above it; None leaves this test out.
        k, eps: of `SemanticDuplicates`.
        embedding, column: of embeddings and of the score.
    """
    beauty = [] if min_aesthetic is None else [ScoreThreshold(column="aesthetic", minimum=min_aesthetic, strict=True)]
    return [
        ScoreThreshold(column="ocr_words", maximum=0),
        ScoreThreshold(column=column, minimum=min_score, strict=True),
        *beauty,
        SemanticDuplicates(embedding=embedding, k=k, eps=eps),
    ]


def exact_duplicates(*, captions: bool = False) -> Sequence[KeepRule]:
    """One of pictures whose files are equal, and of equal captions where that is asked for.

    Args:
        captions: also of captions that differ in case and white space alone.
    """
    rules = [OnePerGroup(group="picture_group")]
    return [*rules, OnePerGroup(group="caption_group")] if captions else rules


def _language(code: str) -> list[KeepRule]:
    return [Membership(member="language", values=[code])] if code else []


PRESETS: dict[str, Callable[..., Sequence[KeepRule]]] = {
    "datacomp-basic": datacomp_basic,
    "datacomp-clip-score": datacomp_clip_score,
    "datacomp-image-based": datacomp_image_based,
    "laion-2b": laion_2b,
    "number-free": number_free,
    "density-pruning": density_pruning,
    "no-embedded-text": drop_embedded_text,
    "exact-duplicates": exact_duplicates,
}
"""Name -> the rules it stands for, in their order; a recipe mixes them with others."""
