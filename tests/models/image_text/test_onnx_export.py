"""ONNX files of both towers: onnxruntime against torch, for batches of sizes that were not exported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

from binderclip.compress import MagnitudeScore, PruneBudget, quantize_dynamic, remove, tower_groups
from binderclip.errors import MissingDependency, NotSupported, UsageError
from binderclip.models import ImageTextModel, OnnxTowers, export_onnx, load
from binderclip.models.image_text import onnx_export

TEXTS = ["a cat", "two dogs on a beach", "a red car"]


@pytest.fixture(autouse=True)
def traceable() -> Iterator[None]:
    """Without checks of shapes: the exporter traces with sizes that are no numbers."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


def pictures(model: ImageTextModel, count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(seed))


def features(towers: OnnxTowers, model: ImageTextModel, pixels: torch.Tensor, texts: list[str]) -> list[torch.Tensor]:
    """By onnxruntime."""
    ort: Any = pytest.importorskip("onnxruntime")
    made = []
    for path, name, batch in (
        (towers.image, "pixels", model.preprocess(pixels)), (towers.text, "ids", model.tokenize(texts).ids),
    ):  # fmt: skip
        session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        made.append(torch.from_numpy(session.run(["features"], {name: batch.numpy()})[0]))
    return made


def test_a_narrowed_model_gives_the_features_of_torch_for_any_batch(
    tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    model = load(str(tiny_clip(2)))
    groups = [*tower_groups(model.image_tower), *tower_groups(model.text_tower, side="text")]
    remove(model, groups, PruneBudget(amount=0.5).select(MagnitudeScore()(model, groups)))
    towers = export_onnx(model, tmp_path / "onnx", pictures(model, 2), TEXTS[:1])
    assert towers.checked == {"image": 2, "text": 1}
    assert max(towers.differences.values()) <= 1e-4
    onnx: Any = pytest.importorskip("onnx")
    for path in (towers.image, towers.text):
        file = onnx.load(str(path))
        onnx.checker.check_model(file)
        assert [one.version for one in file.opset_import if not one.domain] == [towers.opset]
    for count in (1, 3):
        pixels = pictures(model, count, seed=count)
        with torch.no_grad():
            expected = [model.encode_image(pixels), model.encode_text(TEXTS[:count])]
        for ours, other in zip(features(towers, model, pixels, TEXTS[:count]), expected, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_written_is_refused_before_a_file_is(
    tiny_clip: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "onnx"
    model = load(str(tiny_clip(1)))
    with pytest.raises(UsageError, match="pictures and texts"):
        export_onnx(model, out, pictures(model, 0), TEXTS)
    with pytest.raises(NotSupported, match="float32"):
        export_onnx(load(str(tiny_clip(1)), dtype="bfloat16"), out, pictures(model, 1), TEXTS)
    quantize_dynamic(model.backbone)
    with pytest.raises(NotSupported, match="int8"):
        export_onnx(model, out, pictures(model, 1), TEXTS)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependency, match=r"binderclip\[onnx\]"):
        export_onnx(model, out, pictures(model, 1), TEXTS)
    assert not out.exists()


def test_a_file_that_gives_other_features_is_not_left(
    tiny_clip: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(str(tiny_clip(1)))
    monkeypatch.setattr(onnx_export, "_export", lambda tower, batch, name, path: Path(path).write_bytes(b"."))
    for difference in (float("nan"), 0.1):
        monkeypatch.setattr(onnx_export, "_difference", lambda *_, value=difference: value)
        with pytest.raises(NotSupported, match="gives other features in onnxruntime"):
            export_onnx(model, tmp_path / "onnx", pictures(model, 1), TEXTS)
        assert not list((tmp_path / "onnx").iterdir())
