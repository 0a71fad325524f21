"""Controls of the page, made from the fields of a request."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

import annotated_types
import gradio as gr

from binderclip.tasks.request import Request, option_of


def control(request: type[Request], name: str, *, about: Mapping[str, str] = {}, **given: Any) -> Any:
    """The control of a field: a slider for a range, a list of its choices, a tick, else a line of text.

    Args:
        request: whose field it is.
        name: of the field.
        about: choice -> what the list calls it, where that is more than its name.
        given: what the page says otherwise, such as `value`, `label`, or `minimum` and `maximum` that suit a slider.
    """
    field = request.model_fields[name]
    option = option_of(field)
    default = None if request.required(name) else field.get_default(call_default_factory=True)
    shared: dict[str, Any] = {"label": option.label or name.replace("_", " ").capitalize(), "value": default, **given}
    bounds = {type(each): each for each in field.metadata}
    if "choices" in shared:
        return gr.Dropdown(**shared)
    if option.choices is not None:
        return gr.Dropdown(choices=[(about.get(each, each), each) for each in option.choices()], **shared)
    if bool in (field.annotation, *typing.get_args(field.annotation)):
        return gr.Checkbox(**shared)
    if annotated_types.Ge in bounds and annotated_types.Le in bounds:
        low, high = bounds[annotated_types.Ge].ge, bounds[annotated_types.Le].le
        return gr.Slider(shared.pop("minimum", low), shared.pop("maximum", high), **{"step": 1, **shared})
    return gr.Textbox(**{**shared, "value": "" if shared["value"] is None else option.write(shared["value"])})
