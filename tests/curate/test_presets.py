"""Presets rule by rule, with the figures of their papers and of DataComp's scripts written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from binderclip.curate import (
    PRESETS,
    ClusterPruner,
    KeepRule,
    Membership,
    OnePerGroup,
    ScoreThreshold,
    ScoreTopFraction,
    SemanticDuplicates,
    TargetClusters,
)
from binderclip.errors import UsageError

ENGLISH = Membership(member="language", values=["en"])
TWINS = SemanticDuplicates(embedding="image_embedding", k=100, eps=0.05, iterations=100)
RULES: dict[tuple[str, tuple[tuple[str, object], ...]], list[KeepRule]] = {
    ("datacomp-basic", ()): [
        ENGLISH,
        ScoreThreshold(column="words", minimum=3),
        ScoreThreshold(column="characters", minimum=6),
        ScoreThreshold(column="side", minimum=200),
        ScoreThreshold(column="aspect", maximum=3.0),
    ],
    ("datacomp-clip-score", ()): [ScoreTopFraction(column="clip_score", fraction=0.3)],
    ("datacomp-clip-score", (("fraction", 0.0), ("column", "s"))): [ScoreTopFraction(column="s", fraction=0.0)],
    ("datacomp-clip-score", (("threshold", 0.0),)): [ScoreThreshold(column="clip_score", minimum=0.0)],
    ("laion-2b", ()): [ENGLISH, ScoreThreshold(column="clip_score", minimum=0.28)],
    ("laion-2b", (("language", ""),)): [ScoreThreshold(column="clip_score", minimum=0.28)],
    ("number-free", ()): [ScoreTopFraction(column="masked_clip_score", fraction=0.4)],
    ("density-pruning", ()): [
        TWINS,
        ScoreTopFraction(column="clip_score", fraction=0.5),
        ClusterPruner(
            embedding="image_embedding", k=100, keep_share=0.4, tau=0.1, quota="density", order="hard", balance=0.0,
            neighbours=20,
        ),
    ],
    ("no-embedded-text", ()): [
        ScoreThreshold(column="ocr_words", maximum=0),
        ScoreThreshold(column="clip_score", minimum=0.3, strict=True),
        ScoreThreshold(column="aesthetic", minimum=4.5, strict=True),
        TWINS,
    ],
    ("no-embedded-text", (("min_aesthetic", None), ("k", 7))): [
        ScoreThreshold(column="ocr_words", maximum=0),
        ScoreThreshold(column="clip_score", minimum=0.3, strict=True),
        SemanticDuplicates(embedding="image_embedding", k=7, eps=0.05),
    ],
    ("exact-duplicates", ()): [OnePerGroup(group="picture_group")],
    ("exact-duplicates", (("captions", True),)): [
        OnePerGroup(group="picture_group"),
        OnePerGroup(group="caption_group"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("named", "rules"), RULES.items(), ids=lambda value: value[0] if len(value) == 2 else "")
def test_a_preset_is_its_rules(named: tuple[str, tuple[tuple[str, object], ...]], rules: Sequence[KeepRule]) -> None:
    name, settings = named
    assert list(PRESETS[name](**dict(settings))) == rules


def test_the_image_based_filter(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.eye(3))
    *filters, clusters = PRESETS["datacomp-image-based"](targets=str(tmp_path / "t.npy"))
    assert filters == [
        ENGLISH,
        ScoreThreshold(column="words", minimum=2),
        ScoreThreshold(column="characters", minimum=6),
    ]
    assert isinstance(clusters, TargetClusters)
    assert (clusters.embedding, clusters.k, np.array_equal(clusters.targets, np.eye(3))) == (
        "image_embedding",
        100_000,
        True,
    )


def test_every_preset_is_written_out_here() -> None:
    assert {name for name, _ in RULES} | {"datacomp-image-based"} == set(PRESETS)
    with pytest.raises(UsageError, match="not both"):
        PRESETS["datacomp-clip-score"](fraction=0.3, threshold=0.2)
