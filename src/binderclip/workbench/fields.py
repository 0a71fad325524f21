"""Controls of the page, made from the fields of a request."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, Literal

import annotated_types
import gradio as gr

from binderclip.tasks.request import Request, label_of, option_of

UNSET = "(by default)"
"""What a list calls no value."""
LONG = 1000
"""Most steps of a slider, unless the page gives it an end; a number of a longer range is typed."""


def control(request: type[Request], name: str, *, about: Mapping[str, str] = {}, **given: Any) -> Any:
    """The control of a field: a slider or number for a range, a list of its choices, a tick, else a line of text.

    Args:
        request: whose field it is.
        name: of the field.
        about: choice -> what the list calls it, where that is more than its name.
        given: what the page says otherwise, such as `value`, `label`, or `minimum` and `maximum` that suit a slider.
    """
    field = request.model_fields[name]
    option = option_of(field)
    default = None if request.required(name) else field.get_default(call_default_factory=True)
    shared: dict[str, Any] = {"label": label_of(request, name), "value": default, **given}
    if "choices" in shared:
        return gr.Dropdown(**shared)
    if option.choices is not None:
        return gr.Dropdown(choices=[(about.get(each, each), each) for each in option.choices()], **shared)
    types = (field.annotation, *typing.get_args(field.annotation))
    if values := [value for each in types if typing.get_origin(each) is Literal for value in typing.get_args(each)]:
        unset = [(UNSET, "")] if type(None) in types else []
        shared["value"] = "" if shared["value"] is None else shared["value"]
        return gr.Dropdown(choices=[*unset, *((about.get(each, str(each)), each) for each in values)], **shared)
    if bool in types:
        return gr.Checkbox(**shared)
    bounds = {type(each): each for each in field.metadata}
    # What may be left empty is typed: a number of Gradio's that is empty is 0.
    if annotated_types.Ge in bounds and annotated_types.Le in bounds and shared["value"] is not None:
        low, high = bounds[annotated_types.Ge].ge, bounds[annotated_types.Le].le
        if (int in types and high - low <= LONG) or {"step", "maximum"} & given.keys():
            return gr.Slider(shared.pop("minimum", low), shared.pop("maximum", high), **{"step": 1, **shared})
        # Without bounds of its own: what is outside is refused by the request, in words.
        return gr.Number(precision=0 if int in types else None, **shared)
    shared = {name: value for name, value in shared.items() if name not in ("minimum", "maximum", "step")}
    return gr.Textbox(**{**shared, "value": "" if shared["value"] is None else option.write(shared["value"])})
