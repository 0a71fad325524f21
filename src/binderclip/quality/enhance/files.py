"""Enhancers by name, and files of what one of them has learned: safetensors with settings and figures in the header."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError, UsageError
from binderclip.files import write_whole
from binderclip.models.checks import refuse_bare_module
from binderclip.models.files.devices import resolve_device
from binderclip.models.image_text.model import ImageTextModel
from binderclip.quality.enhance.backlit import BacklitEnhancer
from binderclip.quality.enhance.clip_lit import CLIPLIT
from binderclip.quality.enhance.illumination import IlluminationNet
from binderclip.quality.enhance.light_prompts import LatentPromptGuidance, LightWords
from binderclip.quality.enhance.rave import RAVE
from binderclip.quality.score.prompt_quality import loaded
from binderclip.quality.weights import tensors_of

FORMAT = "binderclip enhancer 1"


def _latent(
    model: str | ImageTextModel, *, seed: int = 0, device: str | torch.device = "cpu", **options: Any
) -> CLIPLIT:
    own = loaded(model, device)
    with torch.no_grad():
        scale = float(own.scale())
    return CLIPLIT(own, guidance=LatentPromptGuidance(own.embed_dim, scale=scale, seed=seed), seed=seed, **options)


def _words(model: str | ImageTextModel, *, device: str | torch.device = "cpu", **options: Any) -> CLIPLIT:
    own = loaded(model, device)
    return CLIPLIT(own, guidance=LightWords(own), **options)


ENHANCERS: dict[str, Callable[..., BacklitEnhancer]] = {
    "rave": RAVE,
    "clip-lit": CLIPLIT,
    "clip-lit-latent": _latent,
    "words": _words,
}
"""Trainers of enhancers by name: by the difference of means, learned prompts, learned vectors, and two texts."""


def create_enhancer(name: str, model: str | ImageTextModel = "small", **settings: Any) -> BacklitEnhancer:
    """Make the trainer of an enhancer by its name: `create_enhancer("rave", "small")`.

    Args:
        name: one of `ENHANCERS`.
        model: that guides it.
        settings: of `BacklitEnhancer`.

    Raises:
        UsageError: an unknown name, or settings that it does not take.
    """
    refuse_bare_module(model, "create_enhancer")
    if name not in ENHANCERS:
        raise UsageError(f"enhancer {name!r} is unknown: one of {', '.join(ENHANCERS)}")
    try:
        return ENHANCERS[name](model, **settings)
    except TypeError as error:
        raise UsageError(f"enhancer {name!r}: {error}") from error


def save_enhancer(network: IlluminationNet, path: str | Path, card: Mapping[str, Any] | None = None) -> Path:
    """Write an illumination network; the model that guided its training is not needed to use it.

    Args:
        network: as trained.
        path: of the file, `.safetensors` by habit.
        card: plain values to keep with it, such as what it was trained on.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.torch import save_file

    settings = {name: getattr(network, name) for name in ("width", "level", "std", "most", "edges")}
    about = {"format": FORMAT, "settings": json.dumps(settings), "card": json.dumps(dict(card or {}))}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in network.state_dict().items()}
    return write_whole(path, lambda draft: save_file(tensors, draft, about))


def load_enhancer(path: str | Path, *, device: str | torch.device = "cpu") -> tuple[IlluminationNet, dict[str, Any]]:
    """Open an enhancer's file; nothing in it is run.

    Args:
        path: of `save_enhancer`, or a `.pth` file of CLIP-LIT's authors (`IlluminationNet.from_released`).
        device: where it runs.

    Returns:
        The network, and its card, which is empty for a file of others.

    Raises:
        CheckpointError: the file cannot be read, is no enhancer's, or holds numbers that are not finite.
        UsageError, NotSupported: no such device.
    """
    where = resolve_device(device)
    if Path(path).suffix in (".pth", ".pt"):
        return IlluminationNet.from_released(path).to(where), {}
    tensors, about = tensors_of(path, "an enhancer")
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no file of an enhancer: `binderclip enhance --dark A --bright B` writes those"
        )
    try:
        settings, card = parse_json(about["settings"]), parse_json(about["card"])
        network = IlluminationNet(**settings)
        network.load_state_dict(tensors)
    except (KeyError, ValueError, TypeError, RuntimeError, UsageError) as error:
        raise CheckpointError(f"{path} cannot be read as an enhancer: {str(error).splitlines()[0]}") from error
    return network.to(where).eval(), card
