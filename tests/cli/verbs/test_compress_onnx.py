"""`binderclip compress --onnx`: files beside the model that onnxruntime opens, or a word before any work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from binderclip.models import load

Command = Callable[..., Any]
DIGITS = ("--data", "digits", "--split", "all", "--limit", 8)


@pytest.fixture(autouse=True)
def traceable() -> Iterator[None]:
    """Without checks of shapes: the exporter traces with sizes that are no numbers."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def test_the_files_are_those_of_the_saved_model(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    ort: Any = pytest.importorskip("onnxruntime")
    out = tmp_path / "smaller"
    done = command("compress", tiny_clip(2), *DIGITS, "--bits", 4, "--onnx", "--out", out, "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert document["onnx"]["opset"] == 18
    assert max(document["onnx"]["differences"].values()) <= 1e-4
    assert document["onnx"]["checked"] == {"image": 4, "text": 8}
    onnx_files = sum((out / name).stat().st_size for name in ("image.onnx", "text.onnx"))
    assert document["after"]["megabytes"] * 1e6 == pytest.approx(
        sum(path.stat().st_size for path in out.iterdir()) - onnx_files
    )
    model = load(str(out))
    ids = model.tokenize(["two dogs", "a cat", "the sea"]).ids
    session = ort.InferenceSession(str(out / "text.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"ids": ids.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(found), model.encode_text(["two dogs", "a cat", "the sea"]), rtol=1e-4, atol=1e-5
        )


def test_what_cannot_be_is_said_before_any_work(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("compress", tiny_clip(2), *DIGITS, "--onnx", "--out", tmp_path / "made")
    done = command(*common, "--bits", 8)
    assert done.code == 2
    assert "--onnx does not go with --bits 8" in " ".join(done.err.split())
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = command(*common)
    assert done.code == 1
    assert "binderclip[onnx]" in " ".join(done.err.split())
    assert not (tmp_path / "made").exists()
