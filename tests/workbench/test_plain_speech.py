"""What the page says to people who make the usual mistakes: words of the page, and no call, option or file of code."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

CODE = re.compile(r"(?<![\w-])--?[a-z][\w-]*|\b\w+\(|\.py\b|\w=\[|Traceback|\b[a-z]+_[a-z_]+\b")
"""An option, a call, a file of Python, a keyword argument, a name with underscores."""
NAMES = {"open_clip", "clip_dinoiser"}
"""Names as a user types or picks them."""
SAID = re.compile(r'class=\\?"status failed\\?"[^>]*>(.*?)<')


def failure(answer: str) -> str:
    """What a run's line of status says; empty where it did not fail."""
    return next((html.unescape(json.loads(f'"{said}"')) for said in SAID.findall(answer)), "")


@pytest.fixture
def picture(client: Any, png: bytes) -> dict[str, Any]:
    (path,) = json.loads(client.upload(("cat.png", png)).body)
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


@pytest.mark.parametrize(
    "button",
    ["Classify", "Search", "Segment", "Inspect", "Judge", "Attack", "Detect", "Show the evidence", "Colour the words",
     "Find edges", "Enhance", "Vectorise", "Edit", "Erase", "Foveate", "Generate", "Map", "Draw", "Translate",
     "Reconstruct", "Inpaint", "Learn the word"],
)  # fmt: skip
def test_a_press_with_nothing_chosen_is_answered_in_words_of_the_page(client: Any, button: str) -> None:
    said = failure(client.run(button))
    assert said
    assert not CODE.search(said), said


@pytest.mark.parametrize(
    ("button", "values"),
    [
        ("Classify", {"labels": "cat,,dog"}),
        ("Classify", {"labels": "cat, cat"}),
        ("Segment", {"labels": ""}),
        ("Segment", {"labels": "cat,,dog"}),
        ("Attack", {"labels": ""}),
        ("Attack", {"labels": "cat"}),
        ("Show the evidence", {"what": ""}),
        ("Show the evidence", {"what": "a cat", "methods": []}),
        ("Colour the words", {"caption": ""}),
        ("Enhance", {}),
        ("Edit", {"it": ""}),
        ("Find edges", {"method": "network"}),
        ("Foveate", {"where": "nowhere"}),
        ("Erase", {"points": "here"}),
    ],
)
def test_wrong_words_and_numbers_are_said_as_the_page_calls_them(
    client: Any, picture: dict[str, Any], button: str, values: dict[str, Any]
) -> None:
    one = button in ("Show the evidence", "Colour the words", "Edit", "Foveate", "Erase")
    said = failure(client.run(button, **{"picture" if one else "pictures": picture if one else [picture], **values}))
    assert said
    assert not CODE.search(said), said


@pytest.mark.parametrize(
    ("button", "values"),
    [
        ("Draw", {"what": ""}),
        ("Adapt", {"pictures": ""}),
        ("Adapt", {"pictures": "/nowhere"}),
        ("Train", {"other": "stage.lrr=1"}),
        ("Train", {"other": "stage.lr"}),
        ("Train", {"other": "model=/etc/passwd"}),
        ("Compress", {"data": ""}),
        ("Compress", {"data": "/nowhere"}),
        ("Draw", {"data": ""}),
        ("Interpolate", {"second": ""}),
        ("Interpolate", {"second": "no-such-model"}),
        ("Probe", {"pictures": ""}),
        ("Probe", {"pictures": "/nowhere"}),
    ],
)
def test_a_model_or_folder_that_is_missing_is_said_as_the_page_calls_it(
    client: Any, button: str, values: dict[str, Any]
) -> None:
    said = failure(client.run(button, **values))
    assert said
    assert {*CODE.findall(said)} <= NAMES, said


def test_no_text_of_any_tab_is_code(client: Any) -> None:
    """Labels, notes, placeholders, buttons and what stands where results will be, before anything is done."""
    config = json.loads(client.ask("GET", "/config").body)
    texts = []
    for part in config["components"]:
        kinds = ["label", "info", "placeholder", *(["value"] if part["type"] in ("html", "button") else [])]
        values = [part["props"].get(kind) for kind in kinds]
        texts += [value for value in values if isinstance(value, str)]
    plain = [html.unescape(re.sub(r"<style>.*?</style>|<[^>]+>", " ", text, flags=re.DOTALL)) for text in texts]
    assert {"Adapt", "Train", "Map", "Save COCO and PNG"} <= {*texts}
    # Papers are about code: their table names functions.
    about_code = [text for text in plain if "182 papers" in text or "from binderclip" in text]
    assert len(about_code) <= 2
    left = {text: found for text in plain if text not in about_code and (found := {*CODE.findall(text)} - NAMES)}
    assert left == {}


def test_what_stands_below_a_label_says_more_than_it_in_words_of_a_page(client: Any) -> None:
    """No help of a command line as it stands: `[default: ...]`, a beginning that is no word, the label once more."""
    config = json.loads(client.ask("GET", "/config").body)
    fields = {(part["props"].get("label") or "", part["props"].get("info") or "") for part in config["components"]}
    infos = {info: label for label, info in fields if info}
    assert len(infos) > 60
    assert [info for info in infos if "[" in info or info.endswith("..") or re.match(r"[a-z][A-Z]", info)] == []
    assert [label for info, label in infos.items() if info.lower() in label.lower()] == []
    # Short for something, which nobody has to know.
    assert {label for label, _ in fields} & {"Lr", "Sigma", "Alpha", "Topk", "Max side"} == set()


def test_no_method_is_offered_that_a_single_text_cannot_have(client: Any) -> None:
    """What optimises a mask keeps a probability."""
    from binderclip.explain import OPTIMISED

    config = json.loads(client.ask("GET", "/config").body)
    boxes = [part["props"] for part in config["components"] if part["type"] == "checkboxgroup"]
    (offered,) = ({value for _, value in each["choices"]} for each in boxes if each["label"] == "Methods, side by side")
    assert "gradcam" in offered
    assert not offered & OPTIMISED


def test_the_weakness_of_a_bundled_model_stands_beside_its_words(run_of: Any, photographs: Path) -> None:
    from binderclip.workbench.tabs import classify, explain, search

    files = [str(path) for path in sorted(photographs.iterdir())]
    pages = [
        classify.work(run_of(), files, None, "cat, rocket", ["whole"], [""], "simple", "(none)", []).values[1],
        search.work(run_of(), files, None, "a cat", None, 2, False).values[1],
        explain.work(run_of(), files[1], "a cat", ["saliency"]).values[1],
    ]
    for page in pages:
        assert "Small is weak on photographs" in page
        assert "everyday as Model for all tabs" in page
        assert "--model" not in page
