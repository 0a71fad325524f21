"""Forms: every field of a request has a control, and mistakes name it as the page does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from binderclip.errors import UsageError
from binderclip.tasks.fields import Device
from binderclip.tasks.request import Option, Request

pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

import gradio as gr

from binderclip.workbench.forms import ELSEWHERE, Form
from binderclip.workbench.tabs import compress, interpolate, landscape

TABS = [compress, interpolate, landscape]
BENCH: Any = SimpleNamespace(below=list)


class ExampleRequest(Request):
    """Of every kind of field."""

    task: ClassVar[str] = "example"

    out: Annotated[str, Option("What is written.", output=True)]
    rate: Annotated[float, Field(ge=1e-9, le=1), Option("A rate.")] = 5e-4
    shots: Annotated[int, Field(ge=1, le=16), Option("Pictures a class.")] = 4
    most: Annotated[int, Field(ge=4, le=10**6), Option("Pictures.")] = 256
    bits: Annotated[Literal[8, 4] | None, Option("Of a weight [default: all].")] = None
    target: Annotated[float | None, Field(ge=0.01, le=0.99), Option("A fraction [default: with --bits none].")] = None
    onnx: Annotated[bool, Option("Also write a file for `onnxruntime`.")] = False
    sentence: Annotated[str, Option("Around a class name.", label="Sentence around a name")] = "{}"
    device: Device = "cpu"


FORM = Form(ExampleRequest, first=("shots",), own={"target": {"step": 0.01}})


@pytest.fixture
def run(run_of: Any) -> Any:
    return run_of()


def controls(form: Form) -> list[Any]:
    with gr.Blocks():
        return form.build(BENCH)


def test_a_field_gets_the_control_that_suits_it() -> None:
    kinds = {name: type(each) for name, each in zip(FORM.names, controls(FORM), strict=True)}
    assert kinds == {
        "shots": gr.Slider, "rate": gr.Number, "most": gr.Number, "bits": gr.Dropdown, "target": gr.Textbox,
        "onnx": gr.Checkbox, "sentence": gr.Textbox,
    }  # fmt: skip
    bits = controls(FORM)[FORM.names.index("bits")]
    assert [value for _, value in bits.choices] == ["", 8, 4]
    assert bits.info == "of a weight; not chosen: all"
    assert controls(FORM)[FORM.names.index("target")].info == "a fraction; empty: with Bits none"


def test_what_stands_in_the_controls_is_the_request(run: Any) -> None:
    values = [each.value for each in controls(FORM)]
    assert FORM.asked(run, values, out="here") == ExampleRequest(out="here")
    changed = FORM.asked(run, [7.0, 0.1, None, 8, "0.5", True, " a {} "], out="here")
    assert changed == ExampleRequest(out="here", shots=7, rate=0.1, bits=8, target=0.5, onnx=True, sentence="a {}")


def test_what_is_missing_is_asked_for_by_its_label(run: Any) -> None:
    from binderclip.workbench.tabs.make.edit import FORM as EDIT

    with pytest.raises(UsageError, match=r"^fill in The picture shows$"), EDIT.labelled():
        EDIT.asked(run, [each.value for each in controls(EDIT)], images=["cat.png"], out="here")


def test_a_mistake_names_the_field_as_the_page_does(run: Any) -> None:
    with pytest.raises(UsageError, match=r"^Rate 2: input should be less than or equal to 1$"), FORM.labelled():
        FORM.asked(run, [7, 2, None, 8, "", True, ""], out="here")
    with pytest.raises(UsageError, match="the Sentence around a name is too long, and Most"), FORM.labelled():
        raise UsageError("the --sentence is too long, and --most")


@pytest.mark.parametrize("tab", TABS)
def test_every_field_of_the_verb_is_on_the_page(tab: Any) -> None:
    fields = tab.FORM.request.model_fields
    assert set(tab.FORM.names) | {*tab.FORM.without, *ELSEWHERE, "out", "save"} >= set(fields)
    assert len(set(tab.FORM.names)) == len(tab.FORM.names) == len(controls(tab.FORM))


@pytest.mark.parametrize("tab", TABS)
def test_a_form_that_nobody_touched_asks_what_the_verb_asks_by_default(tab: Any, run: Any) -> None:
    given = dict.fromkeys(tab.FORM.without, "small") | {"out": "here"}
    asked = tab.FORM.asked(run, [each.value for each in controls(tab.FORM)], **given)
    assert asked == tab.FORM.request(**given, data=tab.FORM.sets[0])
