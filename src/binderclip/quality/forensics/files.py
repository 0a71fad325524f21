"""Detectors by name, and files of what one of them has learned: safetensors with settings and figures beside."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError, UsageError
from binderclip.files import write_whole
from binderclip.models.checks import refuse_bare_module
from binderclip.models.files.devices import resolve_device
from binderclip.models.files.registry import BUNDLED
from binderclip.quality.forensics.aide import AIDE
from binderclip.quality.forensics.deeclip import DeeCLIP
from binderclip.quality.forensics.detector import Detector, PictureEncoder
from binderclip.quality.forensics.linear import LinearDetector
from binderclip.quality.forensics.noise import NoiseDetector
from binderclip.quality.forensics.panoptic import PanopticPatchDetector
from binderclip.quality.weights import tensors_of

DETECTORS: dict[str, Callable[..., Detector]] = {
    "linear": LinearDetector,
    "panoptic": PanopticPatchDetector,
    "aide": AIDE,
    "deeclip": DeeCLIP,
    "noise": NoiseDetector,
}
"""Detectors by name."""
BUNDLED_DETECTORS = {"small-detector": BUNDLED / "small-detector" / "detector.safetensors"}
"""Files inside the package, by name."""
FORMAT = "binderclip detector 1"
_OF_ADAPTERS = re.compile(r"\.parametrizations\.\w+\.\d+\.")
_ORIGINAL = re.compile(r"\.parametrizations\.(\w+)\.original$")


def create_detector(name: str, model: PictureEncoder | str = "small", **settings: Any) -> Detector:
    """Make an untrained detector by its name: `create_detector("aide", "small")`.

    Args:
        name: one of `DETECTORS`.
        model: that it looks through, a name or an opened one; "noise" looks through none.
        settings: of the detector.

    Raises:
        UsageError: an unknown name, or settings that the detector does not take.
    """
    refuse_bare_module(model, "create_detector")
    if name not in DETECTORS:
        raise UsageError(f"detector {name!r} is unknown: one of {', '.join(DETECTORS)}")
    try:
        return DETECTORS[name](model, **settings)
    except TypeError as error:
        raise UsageError(f"detector {name!r}: {error}") from error


def tower_hash(detector: Detector) -> str:
    """Sixteen hexadecimal digits of the image tower's weights, whatever adapters are on it; empty without a model."""
    if not detector.model_name:
        return ""
    digest = hashlib.sha256()
    state = detector.model.image_tower.module.state_dict()
    plain = {_ORIGINAL.sub(r".\1", name): value for name, value in state.items() if not _OF_ADAPTERS.search(name)}
    for name in sorted(plain):
        digest.update(name.encode())
        digest.update(plain[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save_detector(
    detector: Detector, path: str | Path, card: Mapping[str, Any] | None = None, *,
    dtype: torch.dtype = torch.float32,
) -> Path:  # fmt: skip
    """Write what a detector has learned, with its settings and the name and hash of the model that it looks through.

    Args:
        detector: one of `DETECTORS`.
        path: of the file, `.safetensors` by habit.
        card: plain values to keep with it, such as what it was trained on.
        dtype: of its numbers in the file; they are read as float32.

    Raises:
        UsageError: a detector of another class.
        OutputError: it cannot be written.
    """
    from safetensors.torch import save_file

    name = next((name for name, kind in DETECTORS.items() if type(detector) is kind), None)
    if name is None:
        raise UsageError(f"{type(detector).__name__} is none of the detectors that files hold: {', '.join(DETECTORS)}")
    about = {
        "format": FORMAT, "method": name, "model": detector.model_name, "tower": tower_hash(detector),
        "settings": json.dumps(detector.settings), "card": json.dumps(dict(card or {})),
    }  # fmt: skip
    tensors = {
        key: value.detach().cpu().to(dtype if value.is_floating_point() else value.dtype).contiguous().clone()
        for key, value in detector.state_dict().items()
    }
    return write_whole(path, lambda draft: save_file(tensors, draft, about))


def load_detector(path: str | Path, *, device: str | torch.device = "cpu") -> tuple[Detector, dict[str, Any]]:
    """Open a detector's file; nothing in it is run.

    Args:
        path: of `save_detector`, or the name of a bundled one: `small-detector`, which knows copies of photographs by
            small autoencoders and no more.
        device: where it runs.

    Returns:
        The detector in evaluation mode, and its card.

    Raises:
        CheckpointError: the file cannot be read, is no detector's, holds numbers that are not finite, or its model has
            other weights here.
        UsageError, NotSupported: no such device.
    """
    where = resolve_device(device)
    path = BUNDLED_DETECTORS.get(str(path), path)
    tensors, about = tensors_of(path, "a detector")
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no file of a detector: `binderclip detect --train` writes those")
    try:
        settings, card = parse_json(about["settings"]), parse_json(about["card"])
        detector = create_detector(about["method"], about["model"], **settings)
        if about["tower"] != tower_hash(detector):
            raise CheckpointError(
                f"{path} was trained on a model {about['model']!r} with other weights than those here"
            )
        detector.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError, UsageError) as error:
        raise CheckpointError(f"{path} cannot be read as a detector: {str(error).splitlines()[0]}") from error
    return detector.to(where).eval(), card
