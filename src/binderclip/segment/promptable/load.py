"""`load_promptable(name)`: the one door to every promptable segmenter."""

from __future__ import annotations

from pathlib import Path

import torch

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.devices import resolve_device
from binderclip.models.files.folders import bundled_of, folder_kind
from binderclip.models.files.registry import close_names
from binderclip.segment.promptable.hf import HfSegmenter, load_hf_promptable
from binderclip.segment.promptable.small import PromptModel

__all__ = ["load_promptable"]


def load_promptable(name: str | Path = "small-sam", *, device: str | torch.device = "cpu") -> PromptModel | HfSegmenter:
    """Load a promptable segmenter.

    Args:
        name: one of

            - the bundled `small-sam`;
            - `hf:REPO_OR_FOLDER`: a SAM, SAM 2 or SAM 3 of transformers (`hf:facebook/sam-vit-base`,
              `hf:facebook/sam2.1-hiera-tiny`; downloaded once; safetensors alone are read);
            - a folder that transformers saved one of these to, a run folder of `binderclip train`, or the model folder
              in it.
        device: `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises:
        UsageError: an unknown name or device.
        NotSupported: a device that is not here, or another kind of model.
        CheckpointError: weights that are missing or damaged.
        MissingDependency: `hf:` without transformers.
    """
    where, text = resolve_device(device), str(name)
    bundled = bundled_of("promptable")
    if text.startswith("hf:"):
        segmenter = load_hf_promptable(text.removeprefix("hf:"), text)
        segmenter.model.to(where)
        return segmenter
    if text in bundled:
        return PromptModel.open(bundled[text], name=text).to(where)
    path = Path(text)
    if path.is_dir():
        if folder_kind(path) is None and folder_kind(path / "model") is None:
            if not (path / "config.json").is_file():
                raise CheckpointError(f"{text} is not a folder of a promptable segmenter: it has no config.json")
            segmenter = load_hf_promptable(text, text)
            segmenter.model.to(where)
            return segmenter
        return PromptModel.open(path).to(where)
    close = close_names(text, list(bundled))
    meant = f"did you mean {', '.join(close)}? " if close else ""
    raise UsageError(
        f"there is no promptable segmenter or folder {text!r}: {meant}bundled: {', '.join(bundled) or 'none'}; others "
        "are hf:REPO_OR_FOLDER (SAM, SAM 2 and SAM 3 of transformers) or a folder"
    )
