"""A saved head predicts what it predicted, and files that are not ours are refused without being run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from sklearn.exceptions import NotFittedError

from binderclip.adapt import METHODS, GaussianHead, TipAdapter, load_head, save_head
from binderclip.errors import CheckpointError


def fitted(name: str) -> tuple[object, np.ndarray]:
    rng = np.random.default_rng(0)
    text = rng.normal(size=(3, 8))
    x = np.repeat(text, 4, axis=0) + 0.3 * rng.normal(size=(12, 8))
    prior = dict(zip(["ant", "bee", "cat"], text, strict=True))
    if name == "zero-shot":
        return METHODS[name](prior).fit(), x
    head = METHODS[name]() if name == "linear-probe" else METHODS[name](text_prior=prior)
    return head.fit(x, np.repeat(["ant", "bee", "cat"], 4)), x


@pytest.mark.parametrize("name", ["gda", "linear-probe", "tip-adapter", "zero-shot"])
def test_a_head_comes_back_from_disk(name: str, tmp_path: Path) -> None:
    head, x = fitted(name)
    save_head(head, tmp_path / "head", model="small", about={"accuracy": 0.5})
    again = load_head(tmp_path / "head")
    assert type(again) is type(head)
    np.testing.assert_array_equal(again.decision_function(x), head.decision_function(x))
    assert again.classes_.tolist() == ["ant", "bee", "cat"]
    assert (again.model_name_, again.about_) == ("small", {"accuracy": 0.5})
    assert {p.name for p in (tmp_path / "head").iterdir()} == {"head.json", "head.safetensors"}


def test_whole_numbers_as_classes_stay_numbers(tmp_path: Path) -> None:
    _, x = fitted("gda")
    head = GaussianHead().fit(x, np.repeat([3, 5, 9], 4))
    assert load_head(save_head(head, tmp_path / "h")).predict(x).tolist() == head.predict(x).tolist()


def test_training_data_is_not_saved(tmp_path: Path) -> None:
    head, _ = fitted("gda")
    save_head(head, tmp_path / "h")
    assert "_rows" not in load_file(tmp_path / "h" / "head.safetensors")


def test_what_is_not_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"there is no head\.json"):
        load_head(tmp_path)
    (tmp_path / "head.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a head of binderclip"):
        load_head(tmp_path)
    head, _ = fitted("tip-adapter")
    save_head(head, tmp_path)
    document = json.loads((tmp_path / "head.json").read_text())
    for change, words in [
        ({"format": "binderclip-head-99"}, "this version reads"),
        ({"module": "subprocess", "head": "Popen"}, "has no head 'Popen'"),
        ({"module": "binderclip.adapt.heads.base", "head": "np"}, "has no head 'np'"),
        ({"head": "TurboHead"}, "has no head 'TurboHead'"),
    ]:
        (tmp_path / "head.json").write_text(json.dumps({**document, **change}))
        with pytest.raises(CheckpointError, match=words):
            load_head(tmp_path)
    (tmp_path / "head.json").write_text(json.dumps(document))
    (tmp_path / "head.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="not a whole head"):
        load_head(tmp_path)


def test_an_unfitted_head_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        save_head(TipAdapter(), tmp_path)
