"""Choosing the best head for labelled pictures: honest splits, cross-validation, one look at the test part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.adapt.selection.candidate_heads import Candidate as Candidate
    from binderclip.adapt.selection.candidate_heads import candidates as candidates
    from binderclip.adapt.selection.encoded import Encoded as Encoded
    from binderclip.adapt.selection.encoded import encode_dataset as encode_dataset
    from binderclip.adapt.selection.measures import Interval as Interval
    from binderclip.adapt.selection.measures import adaptive_calibration_error as adaptive_calibration_error
    from binderclip.adapt.selection.measures import mcnemar as mcnemar
    from binderclip.adapt.selection.measures import mean_interval as mean_interval
    from binderclip.adapt.selection.measures import proportion_interval as proportion_interval
    from binderclip.adapt.selection.measures import selection_optimism as selection_optimism
    from binderclip.adapt.selection.multi_label import LabelScore as LabelScore
    from binderclip.adapt.selection.multi_label import LabelSelection as LabelSelection
    from binderclip.adapt.selection.multi_label import label_sets as label_sets
    from binderclip.adapt.selection.multi_label import select_labels as select_labels
    from binderclip.adapt.selection.result import Examined as Examined
    from binderclip.adapt.selection.result import MethodScore as MethodScore
    from binderclip.adapt.selection.result import Selection as Selection
    from binderclip.adapt.selection.select import select_head as select_head
    from binderclip.adapt.selection.splits import DataSplit as DataSplit
    from binderclip.adapt.selection.splits import near_duplicates as near_duplicates
    from binderclip.adapt.selection.splits import split_parts as split_parts
    from binderclip.similarity.temperature import fit_temperature as fit_temperature

lazy_exports(__name__)
