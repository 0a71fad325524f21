"""The model that a recipe starts from, without its weights: what costs and memory are counted on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from binderclip.models import ImageTextModel, upcycle
from binderclip.models.image_text.open_clip import construct, tokenizer_of
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.models.text.tokenize import MissingTokenizer, Tokenizer
from binderclip.train.recipe.architecture import open_clip_config, reopen
from binderclip.train.recipe.passes import Uncounted
from binderclip.train.recipe.registry import BARE, register

__all__ = ["bare_image_text", "bare_model", "towers_of", "without_weights"]


def bare_model(described: str | dict[str, Any]) -> Any:
    """A model by name, or as a recipe describes a new one, on the `meta` device; `Uncounted` where it is not known.

    No weights are fetched for `open_clip:ARCH/PRETRAINED`, none at all for `hf:`.

    Args:
        described: the recipe's entry `model`.

    Raises:
        UsageError, CheckpointError: a model that is not there.
    """
    if isinstance(described, str):
        if described.startswith("hf:"):
            return Uncounted(f"the structure of {described} is not known before it is fetched")
        config = _open_clip_config(described)
        return without_weights(reopen(described)) if config is None else bare_image_text(config, described)
    settings = {key: value for key, value in described.items() if key != "arch"}
    if described["arch"] not in BARE:
        return Uncounted(f"models of arch {described['arch']!r} are known only once they are built")
    with torch.random.fork_rng(devices=[]):
        made = BARE[described["arch"]](**settings)
    return made if isinstance(made, Uncounted) else without_weights(made)


def towers_of(model: Any) -> Any:
    """The backbone of an open_clip model; None for others."""
    backbone: Any = getattr(model, "backbone", None)
    return backbone if hasattr(backbone, "encode_text") and hasattr(backbone, "visual") else None


def without_weights(model: Any) -> Any:
    """A copy with the same structure on the `meta` device, which takes no memory."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(model, memo)


def bare_image_text(config: Mapping[str, Any], name: str = "new", *, tokenizer: Tokenizer | None = None) -> Any:
    """A model of open_clip's configuration on the `meta` device.

    Args:
        config: as `models.build` takes it.
        name: it goes by.
        tokenizer: default open_clip's own; where the configuration names another one, texts cannot be cut into tokens.
    """
    with torch.device("meta"):
        backbone = construct(dict(config))
    if tokenizer is None:
        text = config["text_cfg"]
        foreign = text.get("hf_tokenizer_name")
        reason = f"{name} cuts texts by {foreign}, which is fetched with the model"
        length = int(text.get("context_length", 77))
        tokenizer = MissingTokenizer(length, reason) if foreign else tokenizer_of(config, None, name)
    pixels = Preprocess.from_open_clip({}).at(getattr(backbone.visual, "image_size", None))
    return ImageTextModel(
        backbone, kind="open_clip", name=name, preprocess=pixels, tokenizer=tokenizer,
        config={"model_cfg": dict(config)}, embed_dim=int(config["embed_dim"]),
    )  # fmt: skip


@register(BARE, "open_clip")
def _new_open_clip(**settings: Any) -> Any:
    """As `new_open_clip` builds it; the vocabulary of one that is learned from captions is as large as it may be."""
    options = {"tokenizer": "captions"} | settings
    config = open_clip_config(**options)
    length = int(config["text_cfg"]["context_length"])
    missing = MissingTokenizer(length, "the vocabulary of a new model is made of its training captions")
    return bare_image_text(config, tokenizer=None if options["tokenizer"] == "clip" else missing)


@register(BARE, "upcycled")
def _upcycled(*, base: str = "small", **settings: Any) -> Any:
    known = bare_model(base)
    return known if isinstance(known, Uncounted) else upcycle(known, **settings)


@register(BARE, "new-image-tower")
def _with_new_image_tower(*, base: str, vision: dict[str, Any], embed_dim: int | None = None) -> Any:
    known = bare_model(base)
    if isinstance(known, Uncounted):
        return known
    config = copy.deepcopy(dict(known.config["model_cfg"]))
    config |= {"vision_cfg": dict(vision), "embed_dim": config["embed_dim"] if embed_dim is None else embed_dim}
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    return bare_image_text(config, tokenizer=known.tokenizer)


def _open_clip_config(name: str) -> dict[str, Any] | None:
    """The architecture of `open_clip:ARCH/PRETRAINED`, for which no weights are fetched; None for other models."""
    if not name.startswith("open_clip:"):
        return None
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(name.removeprefix("open_clip:").split("/")[0])
    whole = config is not None and "hf_model_name" not in config.get("text_cfg", {})  # whose tower is a download
    return config if whole else None
