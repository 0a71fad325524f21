"""open_clip's models as `ImageTextModel`s: by architecture, from a folder, from a configuration."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.bundled import architectures as architectures  # registers the names
from binderclip.models.files import registry
from binderclip.models.files.checkpoint import check_weights_file, first_words, guarded
from binderclip.models.files.compact import compact_state, text_folder
from binderclip.models.files.devices import resolve_device, resolve_dtype
from binderclip.models.files.hub import cache_only_when_unreachable, reachable, why_not
from binderclip.models.image_text.backends import patch_embedding, trunk_size
from binderclip.models.image_text.folder import finish, read_model_folder, wrap
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.models.text.tokenize import (
    FileTokenizer,
    MissingTokenizer,
    OpenClipTokenizer,
    Tokenizer,
    TransformersTokenizer,
)
from binderclip.settings import brief

# Entries of `vision_cfg` that are ours, see `set_block_options`.
OWN_VISION = ("norm", "post_norm", "qkv_bias")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip's log lines (it reports progress on the root logger) out of the user's terminal."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        root.setLevel(level)


def build(
    model_cfg: Mapping[str, Any],
    *,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
    name: str = "new",
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "float32",
) -> ImageTextModel:
    """A randomly initialised model from an open_clip configuration, to be trained and saved.

    Args:
        model_cfg: `embed_dim`, `vision_cfg`, `text_cfg`, ... as in open_clip's model configurations. Some entries are
            ours, and open_clip alone cannot open a folder that has one: `alpha` = true gives the image tower an alpha
            channel (`add_alpha_channel`); `experts` is a table of the settings of
            `upcycle`; `final_norm` = false leaves the normalisation before the projection out of both towers, for
            geometries in which lengths mean something (arXiv 2409.13079); `norm`, `post_norm` and `qkv_bias` of
            `vision_cfg` change the blocks of the image tower (`set_block_options`; arXiv 2402.04252); `pruned` says how
            many blocks, heads, neurons and channels are left of a model that `compress` made smaller, `int8` which of
            its layers compute in int8 (on the CPU, without gradients).
        preprocess: how pictures become input, ours or an open_clip `preprocess_cfg`; its size is taken from the model.
        tokenizer: ready, or the folder that holds `tokenizer.json`; default what the configuration names.
        name: the name it goes by.
        device: where it is put.
        dtype: precision of the towers.

    Raises:
        UsageError: a configuration that open_clip cannot build.
    """
    where, precision = resolve_device(device), resolve_dtype(dtype)
    config = copy.deepcopy(dict(model_cfg))
    backbone = construct(config)
    if isinstance(backbone, open_clip.CoCa):
        projection = backbone.text_decoder.text_projection  # (width, out); open_clip leaves it as the memory was found
        torch.nn.init.normal_(projection, std=projection.shape[0] ** -0.5)
    if not isinstance(preprocess, Preprocess):
        preprocess = Preprocess.from_open_clip(preprocess or {})
    preprocess = preprocess.at(getattr(backbone.visual, "image_size", None))
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = tokenizer_of(config, None if tokenizer is None else Path(tokenizer), name)
    return finish(wrap(backbone, name, config, preprocess, tokenizer, {}), where, precision)


def construct(config: dict[str, Any]) -> Any:
    """open_clip's module for a configuration as `build` takes it, on torch's current default device.

    Args:
        config: `embed_dim`, `vision_cfg`, `text_cfg` and so on.

    Raises:
        UsageError: as `build`.
    """
    own = copy.deepcopy(config)
    for part in ("vision_cfg", "text_cfg"):
        if not isinstance(own.get(part), Mapping):
            raise UsageError(f"model_cfg needs {part}, a table of settings, not {brief(own.get(part))}")
    final_norm = own.pop("final_norm", True)
    if not isinstance(final_norm, bool):
        raise UsageError(f"model_cfg.final_norm must be true or false, not {brief(final_norm)}")
    experts, alpha, pruned = own.pop("experts", None), own.pop("alpha", False), own.pop("pruned", None)
    int8 = own.pop("int8", None)
    if not isinstance(alpha, bool):
        raise UsageError(f"model_cfg.alpha must be true or false, not {brief(alpha)}")
    vision: Mapping[str, Any] = own["vision_cfg"]
    options = {name: value for name, value in vision.items() if name in OWN_VISION}
    own["vision_cfg"] = {name: value for name, value in vision.items() if name not in OWN_VISION}
    custom = own.pop("custom_text", False) or "hf_model_name" in own.get("text_cfg", {})
    kind = open_clip.CoCa if "multimodal_cfg" in own else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        with quiet():
            backbone = kind(**own)
    except Exception as error:  # open_clip raises whatever a wrong value makes it stumble over
        raise UsageError(f"open_clip cannot build this model_cfg: {first_words(error)}") from error
    _check_image_size(backbone.visual)
    if options:
        from binderclip.models.layers.block_options import set_block_options

        set_block_options(backbone.visual, options)
    if not final_norm:
        _leave_out_final_norms(backbone)
    if alpha:
        from binderclip.models.layers.alpha import put_alpha

        put_alpha(backbone.visual)
    if experts is not None:
        if not isinstance(experts, Mapping):
            raise UsageError(f"model_cfg.experts must be a table of settings, not {brief(experts)}")
        from binderclip.models.layers.experts import upcycle_backbone

        upcycle_backbone(backbone, experts)
    if pruned is not None:
        from binderclip.models.layers.pruned import set_widths

        set_widths(backbone, pruned)
    if int8 is not None:
        from binderclip.models.layers.int8.attention import set_int8

        set_int8(backbone, int8)
    return backbone


def _check_image_size(visual: Any) -> None:
    """Compare the size that pictures get with those that timm's trunk takes, to which open_clip does not set it.

    Args:
        visual: the image tower.

    Raises:
        UsageError: the trunk takes another size, or multiples of its patch.
    """
    embed = patch_embedding(visual)
    if embed is None:
        return
    size, taken, patch = tuple(visual.image_size), trunk_size(visual), tuple(embed.patch_size)
    if taken is not None:
        fits, takes = size == taken, f"{taken[0]} x {taken[1]} pixels alone"
    else:
        whole = all(isinstance(side, int) and side > 0 for side in size) and len(size) == 2
        fits = whole and (embed.dynamic_img_pad or not any(side % cell for side, cell in zip(size, patch, strict=True)))
        takes = f"multiples of {patch[0]} x {patch[1]} pixels"
    if not fits:
        right = embed.img_size or patch
        given, right = (pair[0] if pair == pair[:1] * 2 else list(pair) for pair in (size, tuple(right)))
        raise UsageError(
            f"model_cfg.vision_cfg.image_size is {brief(given)}, but {visual.trunk.pretrained_cfg['architecture']} of "
            f"timm takes {takes}: {brief(right)} would be right"
        )


def _leave_out_final_norms(backbone: Any) -> None:
    """Replace the normalisation before each tower's projection by nothing.

    Raises:
        UsageError: a tower that is not open_clip's own transformer.
    """
    text = getattr(backbone, "text", backbone)
    for side, tower, name in (("vision", backbone.visual, "ln_post"), ("text", text, "ln_final")):
        if not isinstance(getattr(tower, name, None), torch.nn.Module):
            raise UsageError(
                f"model_cfg.final_norm = false: {type(tower).__name__} has no final normalisation of its own to leave "
                f"out; it works for open_clip's own {side} transformer"
            )
        setattr(tower, name, torch.nn.Identity())


# -- by architecture -----------------------------------------------------------------------------------------------


def from_architecture(arch: str, pretrained: str, name: str) -> ImageTextModel:
    """`open_clip:ARCH/PRETRAINED`.

    Args:
        arch: an architecture of open_clip.
        pretrained: a tag, a weight file, or "" / "none" for random weights.
        name: as the user wrote it.
    """
    config = open_clip.get_model_config(arch)
    if config is None:
        close = registry.close_names(arch, open_clip.list_models())
        meant = f"; did you mean {', '.join(close)}?" if close else ""
        raise UsageError(f"open_clip has no architecture {arch!r}{meant} (see list_models(pretrained=False))")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if pretrained in ("", "none"):
        source, card = None, {"summary": f"open_clip {arch}, randomly initialised", "weights": "random"}
    else:
        source, card = _weights(arch, pretrained, tags), {"weights": pretrained}
        card["summary"] = f"open_clip {arch}, {pretrained}"
    backbone = _create(arch, name, pretrained=source)
    if source is None:
        known = f"open_clip:{arch}/{tags[0]}" if tags else f"open_clip:{arch}/WEIGHT_FILE"
        warnings.warn(f"{name} is randomly initialised: its scores mean nothing ({known} loads weights)", stacklevel=4)
    preprocess = Preprocess.from_open_clip(backbone.visual.preprocess_cfg)
    return wrap(backbone, name, config, preprocess, tokenizer_of(config, None, name), card)


def _weights(arch: str, pretrained: str, tags: list[str]) -> str:
    """A tag, or the path of a weight file that was looked at."""
    if pretrained.lower().replace("-", "_") in {tag.lower() for tag in tags}:
        return pretrained
    # open_clip:ARCH/home/me/x.pt may also mean /home/me/x.pt.
    for path in (Path(pretrained), Path("/", pretrained)):
        if path.is_file():
            return str(path if path.suffix in (".npz", ".npy") else check_weights_file(path))
    if "/" in pretrained or Path(pretrained).suffix in (".pt", ".pth", ".bin", ".ckpt", ".safetensors"):
        raise CheckpointError(f"there is no weight file {pretrained}")
    close = registry.close_names(pretrained, tags)
    meant = f"; did you mean {', '.join(close)}?" if close else ""
    raise UsageError(
        f"{pretrained!r} is neither a tag of {arch} nor a file{meant} (tags: {', '.join(tags[:8]) or 'none'})"
    )


def _create(model: str, name: str, pretrained: str | None = None, **options: Any) -> Any:
    """open_clip's `create_model` with its many errors made short."""

    def create() -> Any:
        with quiet(), cache_only_when_unreachable():
            return open_clip.create_model(model, pretrained=pretrained, pretrained_text=False, **options)

    def reach() -> Any:
        try:
            return create()
        except OSError as error:
            raise _unavailable(name, error) from error
        except RuntimeError as error:
            if "download" in str(error).lower() or "HF Hub" in str(error):
                raise _unavailable(name, error) from error
            raise

    backbone = guarded(reach, pretrained or name, model)
    try:
        _check_image_size(backbone.visual)
    except UsageError as error:
        raise CheckpointError(f"{name}: {error}") from error
    return backbone


def _unavailable(name: str, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{name}: its files are not on this machine and could not be downloaded ({why_not(error)}). Where there is a "
        "network, load it once and copy the Hugging Face cache ($HF_HOME), or give a weight file: open_clip:ARCH/FILE"
    )


def from_hub(model: str, name: str) -> ImageTextModel:
    """`open_clip:hf-hub:ORG/REPO`."""
    backbone = _create(model, name, require_pretrained=True)
    config = open_clip.get_model_config(model)
    preprocess = Preprocess.from_open_clip(backbone.visual.preprocess_cfg)
    return wrap(backbone, name, config, preprocess, tokenizer_of(config, None, name, hub=model), {"weights": model})


# -- from a folder -------------------------------------------------------------------------------------------------


def from_folder(folder: Path, name: str) -> ImageTextModel:
    """A folder in open_clip's `local-dir:` format.

    Raises:
        CheckpointError: a missing or damaged configuration or weight file.
    """
    own = read_model_folder(folder)
    backbone = _construct_for(own.model_cfg, folder)
    guarded(lambda: _load_weights(backbone, own.weights, own.compact), own.weights, f"the configuration in {folder}")
    return own.wrapped(backbone, name, lambda: tokenizer_of(own.model_cfg, text_folder(folder, own.compact), name))


def _load_weights(backbone: Any, weights: Path, compact: Mapping[str, Any]) -> None:
    if compact:
        backbone.load_state_dict(compact_state(weights.parent, weights, compact), strict=True)
        return
    with quiet():
        open_clip.load_checkpoint(backbone, str(weights), strict=True, weights_only=True)


def _construct_for(model_cfg: dict[str, Any], folder: Path) -> Any:
    own = copy.deepcopy(model_cfg)
    # The folder holds all weights: nothing is fetched for the towers by themselves.
    own.get("vision_cfg", {}).pop("timm_model_pretrained", None)
    if "hf_model_name" in own.get("text_cfg", {}):
        own["text_cfg"]["hf_model_pretrained"] = False
    try:
        return construct(own)
    except UsageError as error:
        raise CheckpointError(f"{folder / registry.CONFIG}: {error}") from error


# -- tokenizers ----------------------------------------------------------------------------------------------------


def tokenizer_of(model_cfg: Mapping[str, Any], folder: Path | None, name: str, hub: str | None = None) -> Tokenizer:
    """The tokenizer of an open_clip configuration; where its files are not at hand, one that says so when used.

    Args:
        model_cfg: the configuration.
        folder: where a model folder keeps its tokenizer, if it does.
        name: the model's name, for messages.
        hub: `hf-hub:ORG/REPO`, where the configuration came from there.
    """
    text = model_cfg.get("text_cfg", {})
    length = int(text.get("context_length", 77))
    options = dict(text.get("tokenizer_kwargs") or {})
    source = text.get("hf_tokenizer_name")
    if not source:
        return OpenClipTokenizer(SimpleTokenizer(context_length=length, **options), length)
    mode = text.get("tokenizer_mode")
    clean, strip = options.get("clean", "whitespace"), bool(options.get("strip_sep_token", False))
    if folder is not None and (folder / "tokenizer.json").is_file() and not mode:
        return FileTokenizer(folder, length, clean=get_clean_fn(clean), strip_separator=strip)

    def make(**where: Any) -> HFTokenizer:
        return HFTokenizer(str(folder or source), context_length=length, tokenizer_mode=mode, **options, **where)

    # What is in the cache needs no network, and no waiting for one that is not there.
    reasons: list[str] = []
    attempts: list[Callable[[], HFTokenizer]] = [lambda: make(local_files_only=True)]
    if folder is None and reachable():
        attempts.append(make)
    for attempt in attempts:
        try:
            wrapper = attempt()
            return TransformersTokenizer(wrapper.tokenizer, length, wrapper)
        except ImportError:
            reasons.append('transformers is not installed (pip install "binderclip[hf]")')
        except (OSError, ValueError, TypeError, KeyError) as error:
            reasons.append(why_not(error))
    return MissingTokenizer(
        length,
        f"{name} can encode images but not texts: its tokenizer {source!r} is not on this machine ({reasons[-1]}). "
        "Where there is a network, load the model once and copy the Hugging Face cache ($HF_HOME)",
    )
