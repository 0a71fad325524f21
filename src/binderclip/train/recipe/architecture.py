"""The model that a recipe starts from: one that exists, or a new one described in the recipe."""

from __future__ import annotations

import copy
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from binderclip.errors import NotSupported, UsageError
from binderclip.models import ImageTextModel, build, load, upcycle
from binderclip.models.files.folders import folder_kind
from binderclip.settings import build_part
from binderclip.train.recipe.registry import MODELS, register
from binderclip.train.recipe.vocabulary import END_ID, PAD_ID, train_vocabulary

__all__ = ["build_model", "new_open_clip", "open_clip_config", "reopen"]


def build_model(model: str | dict[str, Any], *, seed: int, captions: Callable[[], Sequence[str]]) -> Any:
    """The model named or described by a recipe, in float32 on the CPU: an `ImageTextModel`, or what `reopen` says.

    Args:
        model: anything `load` takes, or a table with `arch`, a name of `train.MODELS`, and its settings.
        seed: of random weights.
        captions: gives the training captions, for a builder that learns a vocabulary.

    Raises:
        UsageError: an unknown name, or a description that cannot be built.
    """
    if isinstance(model, str):
        torch.manual_seed(seed)
        return reopen(model)
    settings = {key: value for key, value in model.items() if key != "arch"}
    part = {"name": model["arch"], **settings, "seed": seed, "captions": captions}
    try:
        return build_part(part, MODELS, "model")
    except (RuntimeError, LookupError, ArithmeticError, AssertionError, AttributeError, MemoryError) as error:
        # What open_clip and timm say to a size that they cannot build.
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"model: it cannot be built as described ({type(error).__name__}: {reason})") from error


def reopen(folder: str | Path, *, device: str | torch.device = "cpu") -> Any:
    """A model that `save` wrote, whatever room it is of: an image-text model, a vision tower, a promptable segmenter.

    Args:
        folder: a model folder or a run; anything else is a name for `load`.
        device: where it is put.

    Raises:
        UsageError, CheckpointError: as `load`.
    """
    kind = folder_kind(folder) or folder_kind(Path(folder) / "model")
    if kind == "promptable":
        from binderclip.segment.promptable import PromptModel

        return PromptModel.open(folder).to(device)
    if kind == "vision":
        from binderclip.models import load_vision

        return load_vision(folder, device=device)
    return load(folder, device=device)


@register(MODELS, "open_clip")
def new_open_clip(
    *,
    seed: int,
    captions: Callable[[], Sequence[str]],
    embed_dim: int = 256,
    vision: dict[str, Any],
    text: dict[str, Any],
    tokenizer: str = "captions",
    vocabulary: int = 4096,
    context: int = 16,
    logit_scale: float | None = None,
    logit_bias: float | None = None,
    preprocess: dict[str, Any] | None = None,
    final_norm: bool = True,
) -> ImageTextModel:
    """A new model from open_clip's parts, randomly initialised.

    Args:
        seed: of the weights.
        captions: gives the training captions.
        embed_dim: width of the shared space.
        vision: open_clip's `vision_cfg` (`image_size`, `layers`, `width`, `patch_size`, ... for a ViT; `layers =
            [2, 2, 2, 2]` for a ResNet; `timm_model_name` for a timm tower).
        text: open_clip's `text_cfg` (`width`, `heads`, `layers`).
        tokenizer: `captions` learns an own vocabulary from the training captions; `clip` is open_clip's byte pairs
            (49,408 pieces); otherwise a model or folder whose tokenizer is taken over, such as `small`.
        vocabulary: pieces of an own vocabulary.
        context: tokens of a caption, start and end included.
        logit_scale: initial logit scale (the factor); None is CLIP's 1/0.07. SigLIP starts at 10.
        logit_bias: initial logit bias for the sigmoid loss (SigLIP: -10); None for none.
        preprocess: open_clip's `preprocess_cfg` entries that differ from its defaults.
        final_norm: false leaves the normalisation before the projection out of both towers, as the paper of `euclip`
            does; open_clip's own transformers alone have it.
    """
    config = open_clip_config(
        vision=vision, text=text, embed_dim=embed_dim, context=context, logit_scale=logit_scale, logit_bias=logit_bias,
        final_norm=final_norm,
    )  # fmt: skip
    pixels = {"interpolation": "bicubic", "resize_mode": "longest", "fill_color": 255, **(preprocess or {})}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if tokenizer == "clip":
            torch.manual_seed(seed)
            return build(config, preprocess=pixels, name="new")
        end, pad = _own_tokenizer(tokenizer, folder, captions, vocabulary)
        pieces = _pieces(folder)
        config["text_cfg"] |= {
            "vocab_size": pieces,
            "hf_tokenizer_name": "binderclip",
            "tokenizer_kwargs": {"strip_sep_token": False, "clean": "whitespace"},
            "pool_type": "eos",
            "eos_id": end,
            "pad_id": pad,
        }
        torch.manual_seed(seed)
        return build(config, preprocess=pixels, tokenizer=folder, name="new")


def open_clip_config(
    *,
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    embed_dim: int = 256,
    context: int = 16,
    logit_scale: float | None = None,
    logit_bias: float | None = None,
    final_norm: bool = True,
    tokenizer: str = "clip",
    vocabulary: int = 4096,
    **other: Any,
) -> dict[str, Any]:
    """open_clip's configuration of a new model; arguments as in `new_open_clip`.

    With `captions` as the tokenizer it has as many pieces as the vocabulary may have; otherwise open_clip's, which are
    more than any other's here.
    """
    config: dict[str, Any] = {"embed_dim": embed_dim, "vision_cfg": dict(vision), "custom_text": True}
    if not final_norm:
        config["final_norm"] = False
    if logit_scale is not None:
        config["init_logit_scale"] = math.log(logit_scale)
    if logit_bias is not None:
        config["init_logit_bias"] = logit_bias
    config["text_cfg"] = {"width": embed_dim, "heads": 4, "layers": 4, **text, "context_length": context}
    if tokenizer == "captions":
        config["text_cfg"]["vocab_size"] = vocabulary
    return config


@register(MODELS, "upcycled")
def upcycled_model(
    *,
    seed: int,
    captions: Callable[[], Sequence[str]],
    base: str = "small",
    experts: int = 8,
    top_k: int = 2,
    every: int = 2,
    towers: list[str] | None = None,
    capacity: float = 2.0,
    router_std: float = 0.02,
) -> ImageTextModel:
    """A trained model with experts in the place of MLPs, see `models.upcycle`.

    Args:
        seed: of the routers.
        captions: not used.
        base: anything `load` takes.
        experts, top_k, every, capacity, router_std: of `models.upcycle`.
        towers: "image", "text" or both (the default).
    """
    return upcycle(
        load(base),
        experts=experts,
        top_k=top_k,
        every=every,
        towers=towers or ("image", "text"),
        capacity=capacity,
        router_std=router_std,
        seed=seed,
    )


@register(MODELS, "new-image-tower")
def with_new_image_tower(
    *,
    seed: int,
    captions: Callable[[], Sequence[str]],
    base: str,
    vision: dict[str, Any],
    embed_dim: int | None = None,
) -> ImageTextModel:
    """A trained model with a new image tower in the place of its own: texts, logit scale and tokenizer stay.

    So a larger CLIP begins with the text tower of a smaller one (EVA-CLIP-18B, arXiv 2402.04252).

    Args:
        seed: of the new weights.
        captions: not used.
        base: anything of open_clip, or a bundled model.
        vision: open_clip's `vision_cfg` of the new tower; `norm`, `post_norm` and `qkv_bias` as in `models.build`.
        embed_dim: width of the shared space; another than the base's makes the text projection new too.
    """
    known = load(base)
    if known.kind != "open_clip" or "model_cfg" not in known.config:
        raise NotSupported(f"new-image-tower takes models of open_clip, and {base} is one of {known.kind}")
    config = copy.deepcopy(dict(known.config["model_cfg"]))
    if made := [name for name in ("experts", "alpha") if config.get(name)]:
        raise NotSupported(f"new-image-tower: {base} has an entry {made[0]!r} of its own; start from a plain model")
    width = config["embed_dim"] if embed_dim is None else embed_dim
    if "hf_model_name" in config["text_cfg"]:
        config["text_cfg"]["hf_model_pretrained"] = False
    torch.manual_seed(seed)
    new = build(
        {**config, "vision_cfg": dict(vision), "embed_dim": width}, preprocess=known.preprocess,
        tokenizer=known.tokenizer, name="new",
    )  # fmt: skip
    own = new.backbone.state_dict()
    kept = {name: value for name, value in known.backbone.state_dict().items() if not name.startswith("visual.")}
    fitting = {name: value for name, value in kept.items() if own[name].shape == value.shape}
    if width == config["embed_dim"] and len(fitting) < len(kept):
        raise UsageError(f"new-image-tower: the text tower of {base} does not fit its own configuration")
    new.backbone.load_state_dict({**own, **fitting})
    new.history.append(f"new image tower beside the texts of {base}")
    return new


def _own_tokenizer(tokenizer: str, folder: Path, captions: Callable[[], Sequence[str]], size: int) -> tuple[int, int]:
    """Put tokenizer files into `folder`; ids of the end and padding tokens."""
    if tokenizer == "captions":
        train_vocabulary(captions(), folder, size=size)
        return END_ID, PAD_ID
    other = load(tokenizer).tokenizer
    other.save(folder)
    if not (folder / "tokenizer.json").is_file() or other.end_id is None:
        shutil.rmtree(folder)
        raise UsageError(f"model: the tokenizer of {tokenizer!r} cannot be taken over; use 'captions' or 'clip'")
    return other.end_id, int(getattr(other, "pad_id", 0))


def _pieces(folder: Path) -> int:
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
