"""The networks for people from TensorFlow Lite's files: orders of weights by hand, sparse tensors, what is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.errors import DataError, MissingDependency
from binderclip.models.people.graph import OperationGraph
from binderclip.train.bundled import people
from binderclip.train.bundled.people import read_graph, write_people


def run(own: dict[str, Any], kernel: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One operation on a picture (height, width, channels), as TensorFlow has it."""
    state = people._weights(0, own, [kernel, bias])
    graph = OperationGraph([{**own, "inputs": [0], "output": 1}], [1], state)
    (made,) = graph(torch.from_numpy(x).permute(2, 0, 1)[None])
    return made[0].permute(1, 2, 0).numpy()


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_convolution_is_tensorflows(draw: np.random.Generator, depthwise: bool) -> None:
    x, bias = draw.normal(size=(5, 6, 3)).astype(np.float32), draw.normal(size=3).astype(np.float32)
    kernel = draw.normal(size=(1 if depthwise else 3, 2, 3, 3)).astype(np.float32)  # (out or 1, height, width, in)
    expected = np.empty((4, 4, 3), np.float32)
    for row in range(4):
        for column in range(4):
            window = x[row : row + 2, column : column + 3]
            for out in range(3):
                product = window[..., out] * kernel[0, ..., out] if depthwise else window * kernel[out]
                expected[row, column, out] = product.sum() + bias[out]
    own = {"operation": "conv", "stride": 1, "depthwise": depthwise, "same": False, "relu": False}
    np.testing.assert_allclose(run(own, kernel, bias, x), expected, atol=1e-5)
    np.testing.assert_allclose(run({**own, "relu": True}, kernel, bias, x), np.maximum(expected, 0), atol=1e-5)


def test_a_transposed_convolution_fills_blocks_of_two(draw: np.random.Generator) -> None:
    x = draw.normal(size=(2, 3, 4)).astype(np.float32)
    kernel, bias = draw.normal(size=(1, 2, 2, 4)).astype(np.float32), np.array([0.5], np.float32)
    expected = np.empty((4, 6, 1), np.float32)
    for row in range(4):
        for column in range(6):
            expected[row, column, 0] = x[row // 2, column // 2] @ kernel[0, row % 2, column % 2] + 0.5
    np.testing.assert_allclose(run({"operation": "transposed"}, kernel, bias, x), expected, atol=1e-5)


class Rows(SimpleNamespace):
    """One axis of a sparse tensor, whose indices are kept as tflite keeps them: a table of bytes."""

    def Format(self) -> int:
        return int(hasattr(self, "starts"))

    ArraySegmentsType = ArrayIndicesType = lambda self: 3

    def ArraySegments(self) -> Any:
        return SimpleNamespace(Bytes=self.starts, Pos=0)

    def ArrayIndices(self) -> Any:
        return SimpleNamespace(Bytes=self.columns, Pos=0)


class Vector:
    def Init(self, data: list[int], place: int) -> None:
        self.data = data

    def ValuesAsNumpy(self) -> np.ndarray:
        return np.array(self.data, np.uint8)


def file_of(values: np.ndarray, shape: tuple[int, ...], kind: int, axes: list[Rows] | None) -> Any:
    """What stands for a file with one tensor."""
    sparsity = axes and SimpleNamespace(DimMetadata=lambda n: axes[n], DimMetadataLength=lambda: len(axes))
    tensor = SimpleNamespace(
        Type=lambda: kind, Buffer=lambda: 0, ShapeAsNumpy=lambda: np.array(shape), Sparsity=lambda: sparsity
    )
    buffer = SimpleNamespace(DataAsNumpy=lambda: np.frombuffer(values.tobytes(), np.uint8))
    return SimpleNamespace(Subgraphs=lambda n: SimpleNamespace(Tensors=lambda n: tensor), Buffers=lambda n: buffer)


def test_a_sparse_tensor_is_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = SimpleNamespace(Int32Vector=Vector, Uint16Vector=Vector, Uint8Vector=Vector)
    monkeypatch.setitem(sys.modules, "tflite", vectors)
    last = Rows(starts=[0, 2, 2, 3], columns=[0, 3, 1])  # the second row is empty
    file = file_of(np.array([1, 2, 3], np.float16), (3, 1, 4), 1, [Rows(), Rows(), last])
    assert people._constant(file, 0).tolist() == [[[1, 0, 0, 2]], [[0, 0, 0, 0]], [[0, 3, 0, 0]]]
    with pytest.raises(DataError, match="sparse along other axes"):
        people._constant(file_of(np.zeros(3, np.float16), (3, 1, 4), 1, [last, Rows(), Rows()]), 0)


def test_a_plain_tensor_has_its_type_and_shape() -> None:
    values = np.arange(6, dtype=np.float32)
    assert people._constant(file_of(values, (2, 3), 0, None), 0).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(DataError, match="a tensor of type 9: float32, float16 and int32"):
        people._constant(file_of(values, (2, 3), 9, None), 0)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install --no-deps mediapipe"):
        write_people(tmp_path / "people")
    assert not (tmp_path / "people").exists()
    monkeypatch.setitem(sys.modules, "tflite", None)
    with pytest.raises(MissingDependency, match="pip install tflite"):
        read_graph(b"")
