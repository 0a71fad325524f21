"""Whole forms: the controls of a request's fields, and the request of what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from binderclip.errors import BinderclipError
from binderclip.tasks.request import Request, label_of, option_of
from binderclip.workbench.fields import control
from binderclip.workbench.tab import Bench, Run

DEFAULT = re.compile(r" *\[default: (.*)\]$")
"""How the help of a command line says what holds where an option is left out."""
ELSEWHERE = frozenset({"device", "dtype", "batch_size", "report"})
"""Fields that no form shows: they belong to the whole workbench, or change nothing that a page shows."""


def data_control(bench: Bench, request: type[Request], sets: Sequence[str], about: str, **given: Any) -> Any:
    """Where the field `data` is chosen: a folder that the workbench was opened on, or a named set.

    Args:
        bench: with the folders.
        request: whose field it is.
        sets: that are offered; the others are taken as well.
        about: what has to be in a folder.
        given: what the page says otherwise.
    """
    offered = [*((str(folder), str(folder)) for folder in bench.below()), *((name, name) for name in sets)]
    info = f"{about}, in a folder that the workbench was opened on; or a named set"
    return control(
        request,
        "data",
        **{"choices": offered, "value": offered[0][1], "allow_custom_value": True, "info": info, **given},
    )


@dataclass(frozen=True)
class Form:
    """The controls of a request, which a page shows without knowing its fields.

    Attributes:
        request: whose fields they are. A file that is written is none of them, since a page has its own places.
        first: fields that are seen at once, in this order; all others are behind "More settings".
        without: fields that the page gives in another way.
        sets: named data that are offered.
        own: field -> what the page says otherwise, as `control` takes it.
    """

    request: type[Request]
    first: Sequence[str]
    without: Sequence[str] = ()
    sets: Sequence[str] = ()
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Fields in the order of their controls."""
        left_out = {*self.first, *self.without, *ELSEWHERE}
        fields = self.request.model_fields
        rest = [name for name in fields if name not in left_out and not option_of(fields[name]).output]
        return [*self.first, *rest]

    def build(self, bench: Bench) -> list[Any]:
        """Make the controls, in the order of `names`."""
        count = len(self.first)
        shown = [self._control(bench, name) for name in self.names[:count]]
        with gr.Accordion("More settings", open=False):
            return [*shown, *(self._control(bench, name) for name in self.names[count:])]

    def asked(self, run: Run, values: Sequence[Any], **given: Any) -> Any:
        """The request of what stands in the controls; where nothing stands it is as by default.

        Args:
            run: whose data may be read.
            values: of the controls, in the order of `names`.
            given: the other fields.

        Raises:
            UsageError: a value that is wrong, or data that this page may not read.
        """
        asked = {
            name: value.strip() if isinstance(value, str) else value
            for name, value in zip(self.names, values, strict=True)
        }
        asked = {name: value for name, value in asked.items() if value not in (None, "")}
        if "data" in self.names:
            asked["data"] = run.data(asked.get("data"))
        request: Any = self.request
        return request(**asked, **given, device=run.bench.models.device)

    @contextmanager
    def labelled(self) -> Iterator[None]:
        """In here an error calls a field as the page does, and not by its option."""
        try:
            yield
        except BinderclipError as error:
            raise type(error)(self._with_labels(str(error))) from error

    def _with_labels(self, text: str) -> str:
        if missing := re.fullmatch(rf"{re.escape(self.request.task)} needs (\w+)", text):
            return f"fill in {self._label(missing[1])}"
        # What the page gives in another way has a name there as well.
        for name in [*self.names, *(name for name in self.without if name in self.own)]:
            flag = option_of(self.request.model_fields[name]).flag(name)
            label = self._label(name)
            # The whole word: --template stands in --templates.
            text = re.sub(rf"{re.escape(flag)}(?![\w-])", label, text) if flag.startswith("--") else text
        return text

    def _label(self, name: str) -> str:
        """What the page calls a field."""
        return self.own.get(name, {}).get("label") or label_of(self.request, name)

    def _control(self, bench: Bench, name: str) -> Any:
        own = dict(self.own.get(name, {}))
        if name == "data":
            about = "a folder with one for each class (dogs, cats ...), or with captions beside the pictures"
            return data_control(bench, self.request, self.sets, about, **own)
        return control(self.request, name, **{"info": self._about(name, "choices" in own), **own})

    def _about(self, name: str, listed: bool) -> str | None:
        """The help of a field as the page says it below its label; None where it says no more than that.

        Args:
            listed: whether the page makes a list of it.
        """
        field = self.request.model_fields[name]
        option = option_of(field)
        text = self._with_labels(option.help.replace("`", "").removesuffix("."))
        is_list = listed or option.choices is not None or "Literal" in str(field.annotation)
        text = DEFAULT.sub(f"; {'not chosen' if is_list else 'empty'}: \\1", text)
        label = self._label(name)
        if text.lower() in label.lower():
            return None
        # A name or a unit begins as it is written.
        return text if text[1:2].isupper() else text[:1].lower() + text[1:]
