"""What `descriptions` does: take shipped sentences or have them written, and keep them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from binderclip.adapt import Descriptions, shipped_descriptions, write_descriptions
from binderclip.display import number_of
from binderclip.documents import read_problem
from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.labels import labels_text
from binderclip.tasks.events import Reported, Saved, emit
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.files.results import save_or_keep
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.descriptions.request import DescriptionsRequest


@dataclass(frozen=True)
class DescribedLabels(VerbResult):
    """The sentences of some labels.

    Attributes:
        descriptions: label -> sentences, and what each of them is about.
    """

    whole: ClassVar[bool] = True

    request: DescriptionsRequest
    descriptions: Descriptions

    @property
    def title(self) -> str:
        return f"{labels_text(self.request.labels)}: {self.descriptions.about}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a label; none where they are in a file."""
        classes = {} if self.request.out else self.descriptions.classes
        return ("label", *self.descriptions.attributes), [(name, *own) for name, own in classes.items()]

    def sentences(self) -> dict[str, Any]:
        """What is written to `request.out`, as `adapt.read_descriptions` takes it."""
        own = self.descriptions
        return {"about": own.about, "attributes": own.attributes, "classes": own.classes}

    def as_dict(self) -> dict[str, Any]:
        return {**self.sentences(), "request": self.request.as_document()}


def run(request: DescriptionsRequest) -> DescribedLabels:
    """Take a shipped set, or ask a service once for attributes and once a label; write the sentences.

    Raises:
        UsageError: the file would replace what is none of ours; no URL or model; a prompt without its sections.
        DataError: the prompt cannot be read.
        ServiceError: the service cannot be reached, refuses, or gives no answer that can be used.
    """
    target = None if request.out is None else writable_path(request.out)
    shipped = request.shipped
    described = DescribedLabels(request, _written(request) if shipped is None else shipped_descriptions()[shipped])
    if target is not None:
        save_or_keep(partial(write_json, described.sentences()), target)
        own = described.descriptions
        counts = f"{number_of(len(own.classes), 'label')}, {number_of(len(own.attributes), 'attribute')}"
        emit(Reported(f"wrote {target}: {counts}"))
        emit(Saved(target))
    return described


def _written(request: DescriptionsRequest) -> Descriptions:
    """What a language model writes."""
    return write_descriptions(
        request.labels, url=request.url, model=request.model, attributes=request.attributes, count=request.count,
        prompt=None if request.prompt is None else _text(Path(request.prompt)), timeout=request.timeout,
        progress=lambda label: emit(Reported(label)),
    )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"--prompt: there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompt: {path} cannot be read as text ({read_problem(error)})") from error
