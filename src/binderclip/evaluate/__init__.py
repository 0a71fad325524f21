"""What a model can do: retrieval and zero-shot accuracy."""

from binderclip.evaluate.retrieval import retrieval, zero_shot_accuracy

__all__ = ["retrieval", "zero_shot_accuracy"]
