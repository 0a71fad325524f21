"""The two towers of a model as ONNX files, checked against torch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError, require
from binderclip.files import make_folder, write_whole
from binderclip.models.checks import refuse_bare_module
from binderclip.models.files.checkpoint import first_words
from binderclip.models.layers.int8.layers import int8_layers

if TYPE_CHECKING:
    from binderclip.models.image_text.model import ImageTextModel

__all__ = ["OPSET", "OnnxTowers", "check_onnx_packages", "export_onnx"]

OPSET = 18
"""Of the files; the one that torch's exporter writes without converting."""
TOLERANCE = 1e-4
"""Largest difference of features in onnxruntime and in torch, as a part of the largest feature."""
FILES = {"image": ("image.onnx", "pixels"), "text": ("text.onnx", "ids")}
"""Tower -> its file, and the name of its input."""


@dataclass(frozen=True)
class OnnxTowers:
    """Two files, and how far they are from the model.

    Attributes:
        image, text: the files.
        opset: their operator set.
        differences: tower -> largest difference of features in onnxruntime and in torch, as a part of the largest one.
        checked: tower -> pictures or texts that were compared.
    """

    image: Path
    text: Path
    opset: int
    differences: dict[str, float]
    checked: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "image": self.image, "text": self.text, "opset": self.opset, "differences": self.differences,
            "checked": self.checked,
        }  # fmt: skip


class _Tower(nn.Module):
    """One side of a backbone of open_clip's face, as a module of its own."""

    def __init__(self, backbone: Any, side: str) -> None:
        super().__init__()
        self.backbone, self.side = backbone, side

    def forward(self, inputs: Tensor) -> Tensor:
        encode = self.backbone.encode_image if self.side == "image" else self.backbone.encode_text
        return encode(inputs, normalize=False)


def check_onnx_packages() -> None:
    """Refuse before any work where the packages of the exporter are missing.

    Raises:
        MissingDependency: names the extra.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "onnx")


def export_onnx(
    model: ImageTextModel, folder: str | Path, pixels: Float[Tensor, "N 3 H W"], texts: Sequence[str]
) -> OnnxTowers:
    """Write `image.onnx` and `text.onnx` by torch's exporter, and compare them with the model in onnxruntime.

    `image.onnx` takes normalised `pixels` (B, 3, H, W), `text.onnx` token `ids` (B, L) in int64, both for any B; they
    give `features` (B, E) in float32, not normalised.

    Args:
        model: of open_clip's kind, in float32.
        folder: made where it does not exist; files of these names are replaced.
        pixels: pictures in [0, 1] that both are compared on. texts: the same.

    Raises:
        MissingDependency: onnx, onnxscript or onnxruntime is not installed (the extra `onnx`).
        UsageError: no picture or no text.
        NotSupported: a model of another kind or precision, or that computes in int8; one that the exporter cannot
            write, or that gives other features in onnxruntime.
        OutputError: a file cannot be written.
    """
    refuse_bare_module(model, "export_onnx")
    check_onnx_packages()
    if not len(pixels) or not texts:
        raise UsageError("give pictures and texts, which the files are compared with the model on")
    if model.kind != "open_clip" or model.dtype != torch.float32 or int8_layers(model.backbone):
        raise NotSupported(f"{model.name}: ONNX files are written of open_clip's models in float32, and not in int8")
    folder = make_folder(Path(folder))
    with torch.no_grad():
        inputs = {"image": model.preprocess(pixels).cpu(), "text": model.tokenize(list(texts)).ids.cpu()}
    backbone = copy.deepcopy(model.backbone).cpu().eval()
    differences = {}
    for side, batch in inputs.items():
        tower, (file, name) = _Tower(backbone, side).eval(), FILES[side]
        write_whole(folder / file, partial(_export, tower, batch, name))
        differences[side] = _difference(tower, batch, name, folder / file)
        if not differences[side] <= TOLERANCE:
            (folder / file).unlink()
            raise NotSupported(
                f"the {side} tower of {model.name} gives other features in onnxruntime than in torch: they differ by "
                f"{differences[side]:.1e} of the largest, and {TOLERANCE:.0e} is allowed"
            )
    checked = {side: len(batch) for side, batch in inputs.items()}
    return OnnxTowers(folder / FILES["image"][0], folder / FILES["text"][0], OPSET, differences, checked)


def _export(tower: _Tower, batch: Tensor, name: str, path: Path) -> None:
    """Write one tower, for batches of any size."""
    # A batch of one would be taken for a size that never changes.
    example = torch.cat([batch[:1], batch[-1:]])
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own parts
            torch.onnx.export(
                tower, (example,), str(path), input_names=[name], output_names=["features"], opset_version=OPSET,
                dynamo=True, external_data=False, verbose=False,
                dynamic_shapes={"inputs": {0: torch.export.Dim("batch")}},
            )  # fmt: skip
    except OSError:
        raise
    except Exception as error:  # whatever of torch's stack stumbles over a layer
        raise NotSupported(f"torch's exporter cannot write the {tower.side} tower: {first_words(error)}") from error


def _difference(tower: _Tower, batch: Tensor, name: str, path: Path) -> float:
    """Largest difference of features, as a part of the largest one."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    features = torch.from_numpy(session.run(["features"], {name: batch.numpy()})[0])
    with torch.no_grad():
        expected = tower(batch)
    return float((features - expected).abs().max() / expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny))
