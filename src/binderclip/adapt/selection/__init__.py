"""Choosing the best head for labelled pictures: honest splits, cross-validation, one look at the test part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.adapt.selection.candidate_heads import Candidate, candidates
    from binderclip.adapt.selection.encoded import Encoded, encode_dataset
    from binderclip.adapt.selection.measures import (
        Interval,
        adaptive_calibration_error,
        mcnemar,
        mean_interval,
        proportion_interval,
        selection_optimism,
    )
    from binderclip.adapt.selection.multi_label import LabelScore, LabelSelection, label_sets, select_labels
    from binderclip.adapt.selection.result import Examined, MethodScore, Selection
    from binderclip.adapt.selection.select import select_head
    from binderclip.adapt.selection.splits import DataSplit, near_duplicates, split_parts
    from binderclip.similarity.temperature import fit_temperature

__all__ = [
    "Candidate",
    "DataSplit",
    "Encoded",
    "Examined",
    "Interval",
    "LabelScore",
    "LabelSelection",
    "MethodScore",
    "Selection",
    "adaptive_calibration_error",
    "candidates",
    "encode_dataset",
    "fit_temperature",
    "label_sets",
    "mcnemar",
    "mean_interval",
    "near_duplicates",
    "proportion_interval",
    "select_head",
    "select_labels",
    "selection_optimism",
    "split_parts",
]

lazy_exports(__name__)
