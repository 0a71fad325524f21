"""A trained matcher as a folder: its network, and the backbone it was trained on by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from binderclip.errors import CheckpointError, UsageError
from binderclip.models import load, load_vision
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.folders import read_folder, write_folder
from binderclip.models.files.registry import bundled_folders
from binderclip.segment.few_shot.levels import CorrelationBackbone
from binderclip.segment.few_shot.matchers import HypercorrelationNet
from binderclip.segment.few_shot.segmenter import FewShotSegmenter

__all__ = ["load_few_shot", "save_few_shot"]

KIND = "few-shot"


def save_few_shot(
    segmenter: FewShotSegmenter, folder: str | Path, *, card: dict[str, Any] | None = None, dtype: str = "float32"
) -> Path:
    """Write a segmenter with a trained network into a folder that `load_few_shot` takes.

    Args:
        segmenter: such as `train_few_shot(...).segmenter`. Its backbone is stored by name alone.
        folder: is made where it is missing.
        card: what to say of it, as JSON.
        dtype: of the stored weights: "float32", "float16" or "int8".

    Raises:
        UsageError: its matcher has no weights.
    """
    net, backbone = segmenter.matcher, segmenter.backbone
    if not isinstance(net, HypercorrelationNet):
        raise UsageError(f"{type(net).__name__} has no weights to save; only a HypercorrelationNet has")
    config = {"net": net.settings, "backbone": {"model": backbone.name, "size": backbone.size}}
    return write_folder(folder, kind=KIND, config=config, state=net.state_dict(), card=card or {}, dtype=dtype)


def load_few_shot(
    source: str | Path, *, backbone: CorrelationBackbone | None = None, device: str | torch.device = "cpu"
) -> FewShotSegmenter:
    """Read a folder that `save_few_shot` wrote.

    Args:
        source: the folder.
        backbone: the one it was trained on, where it has no name that can be loaded.
        device: of both, where `backbone` is not given.

    Raises:
        UsageError: no such folder.
        CheckpointError: another kind of model, damaged weights, or a backbone with other levels.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise UsageError(f"there is no folder {str(source)!r} of a few-shot head")
    read = read_folder(folder, KIND)
    net = configured(lambda: HypercorrelationNet(**read.config["net"]), folder)
    guarded(lambda: net.load_state_dict(read.state), folder, "this version")
    if backbone is None:
        named = configured(
            lambda: (str(read.config["backbone"]["model"]), int(read.config["backbone"]["size"])), folder
        )
        backbone = open_backbone(*named, device=device)
    if list(backbone.counts) != net.settings["counts"]:
        raise CheckpointError(
            f"{folder} was trained on levels of {net.settings['counts']} maps, and {backbone.name} has "
            f"{list(backbone.counts)}"
        )
    return FewShotSegmenter(backbone, net.eval())


def open_backbone(name: str, size: int | None = None, *, device: str | torch.device = "cpu") -> CorrelationBackbone:
    """A pyramid of a model by its name: an image-text model's, or what `load_vision` opens."""
    image_text = name in bundled_folders() or name.startswith(("open_clip:", "hf:"))
    model = load(name, device=device) if image_text else load_vision(name, device=device)
    return CorrelationBackbone(model, size)
