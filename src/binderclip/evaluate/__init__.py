"""What a model can do: retrieval, zero-shot, groups, transfer, learning task by task; what marks change; geometry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.evaluate.dense.clicks import ClickFigures, click_figures
    from binderclip.evaluate.dense.last_attention import LastAttention, last_attention
    from binderclip.evaluate.dense.patch_affinity import PatchAffinity, patch_affinity
    from binderclip.evaluate.detectors import DetectorSanityCheck, GeneratorFigures, ProcessingFigures
    from binderclip.evaluate.geometry.interpolation import slerp, vslerp
    from binderclip.evaluate.geometry.measures import (
        alignment,
        conformity,
        conformity_estimate,
        effective_rank,
        linear_separability,
        modality_gap,
        threshold_separability,
        uniformity,
    )
    from binderclip.evaluate.geometry.mixed_search import MixedFigures, MixedModalityRetrieval
    from binderclip.evaluate.geometry.normality import NormalityReport, normality_report
    from binderclip.evaluate.geometry.released_whitening import load_whitening
    from binderclip.evaluate.geometry.report import (
        EmbeddingGeometry,
        GeometryReport,
        ModalityGeometry,
        ShiftLandscape,
        conformity_divergence,
    )
    from binderclip.evaluate.groups import GroupAccuracy, worst_group_accuracy
    from binderclip.evaluate.imbalance import ImbalanceReport, NeuralCollapse, imbalance_report, neural_collapse
    from binderclip.evaluate.learners.continual import ContinualMetrics, Task, run_stream
    from binderclip.evaluate.learners.learning import LearningCurve, LearningPoint, learning_set_curve
    from binderclip.evaluate.learners.transfer import Binary, binary_scores, transfer_matrix
    from binderclip.evaluate.misalignment import MisalignmentScore, clip_score, f_clipscore_dm, word_detection
    from binderclip.evaluate.model import Evaluation, evaluate_model, figures
    from binderclip.evaluate.probes.class_design import (
        ClassDesignProbe,
        IdentityProbe,
        LabelAssociationProbe,
        NearMissStressTest,
    )
    from binderclip.evaluate.probes.correspondence import PatchCorrespondence, patch_correspondence
    from binderclip.evaluate.probes.cues import WCSTML, CueAccuracies, cue_complexity, cue_preferences
    from binderclip.evaluate.probes.group_figures import GroupReport
    from binderclip.evaluate.probes.group_reports import group_report
    from binderclip.evaluate.probes.hallucination import HallucinationFigures, ObjectHallucination
    from binderclip.evaluate.probes.measures import mapped_accuracy
    from binderclip.evaluate.probes.objects import (
        ObjectClassificationProbe,
        ObjectRetrieval,
        ObjectRetrievalProbe,
        OrderSensitivity,
        OrderSensitivityProbe,
    )
    from binderclip.evaluate.probes.predictions import Predictions, predict, tabulate
    from binderclip.evaluate.probes.progress import (
        GroupDrop,
        effective_robustness,
        group_disparity,
        group_drop,
        limited_options,
        progress_gap,
        progress_rate,
    )
    from binderclip.evaluate.probes.robustness import (
        FactorRatio,
        OODDetection,
        RobustnessReport,
        RobustnessSuite,
        ShapeBias,
        expected_calibration_error,
        factor_error_ratio,
        negative_log_likelihood,
        ood_detection,
        ood_scores,
        shape_bias,
        table_temperature,
    )
    from binderclip.evaluate.probes.spurious import SpuriousPairs, linear_contrastive, spurious_pairs
    from binderclip.evaluate.probes.table import PredictionTable
    from binderclip.evaluate.retrieval_metrics import retrieval, zero_shot_accuracy
    from binderclip.evaluate.scaling.batch_size import (
        BatchSizeCurve,
        TrainedPairs,
        batch_size_generalization,
        normalized_contrastive_loss,
    )
    from binderclip.evaluate.scaling.frontier import best_at_budget, compute_frontier
    from binderclip.evaluate.scaling.power_law import (
        PowerLaw,
        ProbitLine,
        crossing,
        fit_power_law,
        probit_line,
        saturation,
    )
    from binderclip.evaluate.spectral import (
        CSG,
        CSGReduction,
        class_overlap_matrix,
        cumulative_spectral_gradient,
        reduce_dataset,
    )
    from binderclip.evaluate.text_spotting import TextSpottingBenchmark, TextSpottingFigures
    from binderclip.evaluate.visual_prompts import (
        PromptScore,
        attention_in_region,
        attention_mass,
        box_coverage,
        visual_prompt_study,
    )
    from binderclip.similarity.embeddings import EmbeddingSet
    from binderclip.similarity.transforms import (
        EmbeddingTransform,
        GapRemoval,
        MeanShift,
        Whitening,
        embedding_log_likelihood,
    )

__all__ = [
    "CSG",
    "WCSTML",
    "BatchSizeCurve",
    "Binary",
    "CSGReduction",
    "ClassDesignProbe",
    "ClickFigures",
    "ContinualMetrics",
    "CueAccuracies",
    "DetectorSanityCheck",
    "EmbeddingGeometry",
    "EmbeddingSet",
    "EmbeddingTransform",
    "Evaluation",
    "FactorRatio",
    "GapRemoval",
    "GeneratorFigures",
    "GeometryReport",
    "GroupAccuracy",
    "GroupDrop",
    "GroupReport",
    "HallucinationFigures",
    "IdentityProbe",
    "ImbalanceReport",
    "LabelAssociationProbe",
    "LastAttention",
    "LearningCurve",
    "LearningPoint",
    "MeanShift",
    "MisalignmentScore",
    "MixedFigures",
    "MixedModalityRetrieval",
    "ModalityGeometry",
    "NearMissStressTest",
    "NeuralCollapse",
    "NormalityReport",
    "OODDetection",
    "ObjectClassificationProbe",
    "ObjectHallucination",
    "ObjectRetrieval",
    "ObjectRetrievalProbe",
    "OrderSensitivity",
    "OrderSensitivityProbe",
    "PatchAffinity",
    "PatchCorrespondence",
    "PowerLaw",
    "PredictionTable",
    "Predictions",
    "ProbitLine",
    "ProcessingFigures",
    "PromptScore",
    "RobustnessReport",
    "RobustnessSuite",
    "ShapeBias",
    "ShiftLandscape",
    "SpuriousPairs",
    "Task",
    "TextSpottingBenchmark",
    "TextSpottingFigures",
    "TrainedPairs",
    "Whitening",
    "alignment",
    "attention_in_region",
    "attention_mass",
    "batch_size_generalization",
    "best_at_budget",
    "binary_scores",
    "box_coverage",
    "class_overlap_matrix",
    "click_figures",
    "clip_score",
    "compute_frontier",
    "conformity",
    "conformity_divergence",
    "conformity_estimate",
    "crossing",
    "cue_complexity",
    "cue_preferences",
    "cumulative_spectral_gradient",
    "effective_rank",
    "effective_robustness",
    "embedding_log_likelihood",
    "evaluate_model",
    "expected_calibration_error",
    "f_clipscore_dm",
    "factor_error_ratio",
    "figures",
    "fit_power_law",
    "group_disparity",
    "group_drop",
    "group_report",
    "imbalance_report",
    "last_attention",
    "learning_set_curve",
    "limited_options",
    "linear_contrastive",
    "linear_separability",
    "load_whitening",
    "mapped_accuracy",
    "modality_gap",
    "negative_log_likelihood",
    "neural_collapse",
    "normality_report",
    "normalized_contrastive_loss",
    "ood_detection",
    "ood_scores",
    "patch_affinity",
    "patch_correspondence",
    "predict",
    "probit_line",
    "progress_gap",
    "progress_rate",
    "reduce_dataset",
    "retrieval",
    "run_stream",
    "saturation",
    "shape_bias",
    "slerp",
    "spurious_pairs",
    "table_temperature",
    "tabulate",
    "threshold_separability",
    "transfer_matrix",
    "uniformity",
    "visual_prompt_study",
    "vslerp",
    "word_detection",
    "worst_group_accuracy",
    "zero_shot_accuracy",
]

lazy_exports(__name__)
