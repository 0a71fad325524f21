"""The rules by name, as recipes and the command line call them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from binderclip.curate.engine.rule import KeepRule
from binderclip.curate.rules.balance import MetadataBalancer
from binderclip.curate.rules.combine import AnyOf, NoneOf
from binderclip.curate.rules.density import ClusterPruner
from binderclip.curate.rules.duplicates import SemanticDuplicates, TargetClusters
from binderclip.curate.rules.groups import CapPerGroup, Membership, OnePerGroup, TailTrimming
from binderclip.curate.rules.ranks import MeanRankTopFraction
from binderclip.curate.rules.scores import ScoreThreshold, ScoreTopFraction
from binderclip.documents import parse_json, read_problem
from binderclip.errors import UsageError


def metaclip(
    *,
    concepts: str | Sequence[str],
    t: float | None = None,
    tail: float | None = None,
    target: int | None = None,
    lower: bool = False,
) -> MetadataBalancer:
    """`MetadataBalancer`, whose concepts may be a file.

    Args:
        concepts: a list, or the path of a text file with one a line or of a JSON list (MetaCLIP's `metadata.json`).
        t, tail, target, lower: of `MetadataBalancer`.

    Raises:
        UsageError: no such file, or no list of texts in it; whatever `MetadataBalancer` refuses.
    """
    entries = read_concepts(concepts) if isinstance(concepts, str) else list(concepts)
    return MetadataBalancer(concepts=entries, t=t, tail=tail, target=target, lower=lower)


def read_concepts(path: str) -> list[str]:
    """The concepts of a file, each once and with single blanks: a JSON list, or one a line.

    Raises:
        UsageError: no such file, not UTF-8, or no list of texts.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        document = parse_json(text) if path.endswith(".json") else text.splitlines()
    except (OSError, ValueError) as error:
        raise UsageError(f"concepts: {path} cannot be read as a list ({read_problem(error)})") from error
    if not isinstance(document, list) or not all(isinstance(entry, str) for entry in document):
        raise UsageError(f"concepts: {path} is no list of texts")
    # Concepts are looked for between blanks: one with a blank of its own at an end would be found nowhere.
    return list(dict.fromkeys(entry for raw in document if (entry := " ".join(raw.split()))))


METHODS: dict[str, Callable[..., KeepRule]] = {
    "threshold": ScoreThreshold,
    "top-fraction": ScoreTopFraction,
    "mean-rank": MeanRankTopFraction,
    "membership": Membership,
    "cap-per-group": CapPerGroup,
    "one-per-group": OnePerGroup,
    "tail-trimming": TailTrimming,
    "metaclip": metaclip,
    "semantic-duplicates": SemanticDuplicates,
    "cluster-pruning": ClusterPruner,
    "target-clusters": TargetClusters,
    "any-of": AnyOf,
    "none-of": NoneOf,
}

SUMMARIES: dict[str, str] = {
    "threshold": "a score between bounds",
    "top-fraction": "the best fraction of the pool by a score",
    "mean-rank": "the best fraction by the mean rank in several scores",
    "membership": "a value that is one of a list",
    "cap-per-group": "at most so many samples of each group",
    "one-per-group": "one sample of each group, such as equal pictures",
    "tail-trimming": "the rarest groups cut to a few samples (p095)",
    "metaclip": "balance over concepts that captions name (p150)",
    "semantic-duplicates": "one of pictures that are nearly alike (SemDeDup)",
    "cluster-pruning": "quotas of clusters by their complexity (p103)",
    "target-clusters": "clusters that target pictures fall into (DataComp)",
    "any-of": "kept by any of several rules",
    "none-of": "kept by none of several rules",
}
