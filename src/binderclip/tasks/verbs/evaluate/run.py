"""What `evaluate` does: measure, and write the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from binderclip.data import held_out_split, load_data
from binderclip.display import number_of
from binderclip.evaluate import Evaluation, evaluate_model
from binderclip.models import resolve_templates
from binderclip.tasks.arguments.transform import TransformChoice, fitted, parse_transform
from binderclip.tasks.events import Saved, batches, emit, skip, start
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.files.results import save_or_keep
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.models import encoder
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.evaluate.request import EvaluateRequest


@dataclass(frozen=True)
class Evaluated(VerbResult):
    """The figures of a model on a data set.

    Attributes:
        evaluation: the figures.
        split: of the data that was measured on, or None for all.
        transform: what embeddings were mapped by first, or None.
        class_names: whether the captions are names of classes.
    """

    whole: ClassVar[bool] = True

    request: EvaluateRequest
    evaluation: Evaluation
    split: str | None
    transform: TransformChoice | None
    class_names: bool

    @property
    def title(self) -> str:
        """Which model on which data."""
        split = f", split {self.split}" if self.split else ""
        first = f", {self.transform.name} first" if self.transform else ""
        count = number_of(self.evaluation.count, "picture")
        return f"{self.request.model} on {self.request.data}{split}{first}: {count}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a figure with what it means."""
        return ("measure", "value", "which is"), explained_rows(self.evaluation.figures, class_names=self.class_names)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and `request.out`."""
        document: dict[str, Any] = {"model": self.request.model, "data": self.request.data, "split": self.split}
        document |= self.evaluation.as_dict()
        if self.transform:
            document["transform"] = {"name": self.transform.name, "fitted_on": self.transform.data}
        return {**document, "request": self.request.as_document()}


def run(request: EvaluateRequest) -> Evaluated:
    """Measure a model on a data set.

    Raises:
        UsageError: an unknown set, template or transform, or a result that would replace what is none of ours.
        DataError: no picture can be read.
    """
    out = writable_path(request.out) if request.out else None
    templates, choice = resolve_templates(request.templates), parse_transform(request.transform)
    split = held_out_split(request.data) if request.split is None else request.split
    samples = load_data(request.data, split=None if split == "all" else split, allow_pipe=request.allow_pipe)
    start("loading the model")
    model = encoder(request.model, device=request.device, dtype=request.dtype)
    if choice:
        model = model.with_transform(fitted(model, choice, batch_size=request.batch_size))
    step = batches("picture")
    # How many a stream of shards has is not known before its end.
    total = len(samples) if hasattr(samples, "__len__") else None
    total = total if total is None or request.limit is None else min(total, request.limit)
    evaluation = evaluate_model(
        model, samples, templates=templates, batch_size=request.batch_size, limit=request.limit,
        progress=lambda done: start(f"picture {done}") if total is None else step(done, total),
    )  # fmt: skip
    skip(evaluation.skipped)
    result = Evaluated(request, evaluation, split, choice, _are_class_names(samples))
    if out is not None:
        save_or_keep(partial(write_json, result.as_dict()), out)
        emit(Saved(out))
    return result


def explained_rows(figures: Mapping[str, float], *, class_names: bool) -> list[tuple[str, str, str]]:
    """(measure, value, what it means) of every figure.

    Args:
        figures: name -> value, as `evaluate_model` gives them.
        class_names: whether the captions are names of classes: then the accuracy comes first.
    """
    names = sorted(figures, key=lambda name: name.startswith("zero_shot/") != class_names)
    return [(_title(name), _value(name, figures[name]), _meaning(name, class_names)) for name in names]


def _title(name: str) -> str:
    return name.replace("zero_shot/", "zero-shot ").replace("/", " ").replace("top5", "top-5").replace("_", " ")


def _value(name: str, value: float) -> str:
    return f"{value:.0f}" if name.endswith("count") else f"{value:.1f}" if name.endswith("rank") else f"{value:.3f}"


def _meaning(name: str, class_names: bool) -> str:
    kind, _, measure = name.rpartition("/")
    text = "class name" if class_names else "caption"
    asked, answer = ("pictures", text) if kind == "image_to_text" else (f"{text}s", "picture")
    if measure.startswith("R@"):
        k = measure.removeprefix("R@")
        among = "is the most similar" if k == "1" else f"is among the {k} most similar"
        return f"share of {asked} whose own {answer} {among}"
    if measure.endswith("rank"):
        return f"place of the own {answer} in the ranking, {measure.split('_')[0]} over {asked}"
    return {
        "accuracy": "share of pictures whose most similar class is the right one (top-1)",
        "top5": "share of pictures whose right class is among the five most similar",
        "mean_class_accuracy": "the accuracy of each class, averaged over classes",
        "majority": "what always answering the commonest class would get",
        "count": "pictures that have a class" if kind == "zero_shot" else "pictures and captions that were compared",
    }.get(measure, "")


def _are_class_names(samples: Any) -> bool:
    """Whether captions say no more than the class, as those of folders named after classes; of a stream not known."""
    captions = {str(caption) for caption in getattr(samples, "captions", ())}
    names = {name for each in samples.classes for name in (str(each), str(each).replace("_", " "))}
    return bool(captions) and captions <= names
