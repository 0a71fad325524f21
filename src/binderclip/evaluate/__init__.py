"""What a model can do: retrieval and zero-shot accuracy, groups, transfer, and learning task by task."""

"""What a model can do: retrieval, zero-shot accuracy, and what marks on the image change."""

from binderclip.evaluate.continual import ContinualMetrics, Task, run_stream
from binderclip.evaluate.groups import GroupAccuracy, worst_group_accuracy

"""What a model can do: retrieval, zero-shot accuracy, and accuracy against the number of examples."""

from binderclip.evaluate.learning import LearningCurve, LearningPoint, learning_set_curve
from binderclip.evaluate.model import Evaluation, evaluate_model, figures
from binderclip.evaluate.retrieval import retrieval, zero_shot_accuracy
from binderclip.evaluate.transfer import Binary, binary_scores, transfer_matrix

__all__ = [
    "Binary",
    "ContinualMetrics",
    "Evaluation",
    "GroupAccuracy",
    "LearningCurve",
    "LearningPoint",
    "PromptScore",
    "Task",
    "attention_in_region",
    "attention_mass",
    "binary_scores",
    "box_coverage",
    "evaluate_model",
    "figures",
    "learning_set_curve",
    "retrieval",
    "run_stream",
    "transfer_matrix",
    "visual_prompt_study",
    "worst_group_accuracy",
    "zero_shot_accuracy",
]
