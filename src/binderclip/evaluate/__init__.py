"""What a model can do: retrieval and zero-shot accuracy."""

from binderclip.evaluate.model import Evaluation, evaluate_model, figures
from binderclip.evaluate.retrieval import retrieval, zero_shot_accuracy

__all__ = ["Evaluation", "evaluate_model", "figures", "retrieval", "zero_shot_accuracy"]
