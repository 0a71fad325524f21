"""What a model can do: retrieval and zero-shot accuracy, groups, transfer, and learning task by task."""

from binderclip.evaluate.continual import ContinualMetrics, Task, run_stream
from binderclip.evaluate.groups import GroupAccuracy, worst_group_accuracy
from binderclip.evaluate.model import Evaluation, evaluate_model, figures
from binderclip.evaluate.retrieval import retrieval, zero_shot_accuracy
from binderclip.evaluate.transfer import Binary, binary_scores, transfer_matrix

__all__ = [
    "Binary",
    "ContinualMetrics",
    "Evaluation",
    "GroupAccuracy",
    "Task",
    "binary_scores",
    "evaluate_model",
    "figures",
    "retrieval",
    "run_stream",
    "transfer_matrix",
    "worst_group_accuracy",
    "zero_shot_accuracy",
]
