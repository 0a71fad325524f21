"""Denoisers by path: folders of diffusers' text-to-image pipelines, and folders of our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binderclip.errors import CheckpointError, NotSupported, UsageError, require
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.denoisers.prompts import ImageTextPromptEncoder, TransformersPromptEncoder
from binderclip.generate.denoisers.schedule import NoiseSchedule
from binderclip.models import load
from binderclip.models.files.checkpoint import check_weights_finite, first_words, read_json_object
from binderclip.models.files.folders import bundled_of, folder_kind, read_folder, write_folder

__all__ = ["load_denoiser", "read_diffusers_part", "save_denoiser"]

KIND = "diffusion"
BUNDLED = "small-diffusion"
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
TOKENIZER = ("tokenizer.json",), ("vocab.json", "merges.txt")
"""Files of a tokenizer, one form or the other; transformers makes an empty one where they are missing."""
NEWER = "text_encoder_2"  # pipelines of two text encoders condition on more than the states of one


def load_denoiser(source: str | Path = BUNDLED, *, device: str | torch.device = "cpu") -> LatentDenoiser:
    """Read a denoiser, in eval mode and frozen.

    Args:
        source: `small-diffusion`, the bundled one of 64 px; the folder of a diffusers pipeline of Stable Diffusion's
            layout (1.x, 2.x, their inpainting forms and fine-tuned copies); or one that `save_denoiser` wrote. Nothing
            is downloaded, and weights are read from safetensors files alone.
        device: where it runs.

    Raises:
        UsageError: no such name or folder.
        CheckpointError: a folder that lacks parts or has damaged ones.
        NotSupported: a pipeline of another layout.
        MissingDependency: diffusers is not installed.
    """
    require("diffusers", "generate")
    bundled = bundled_of(KIND)
    folder = bundled.get(str(source), Path(source))
    if folder_kind(folder) == KIND or folder_kind(folder / "model") == KIND:
        denoiser = _read_own(folder)
    elif (folder / "model_index.json").is_file():
        denoiser = _read_pipeline(folder)
    elif not folder.exists():
        raise UsageError(
            f"there is no denoiser or folder {str(source)!r}; bundled: {', '.join(bundled) or 'none'}; or name the "
            "folder of a diffusers pipeline"
        )
    else:
        raise CheckpointError(f"{folder} is no folder of a diffusion pipeline: it has no model_index.json")
    return denoiser.requires_grad_(False).eval().to(device)


def save_denoiser(
    denoiser: LatentDenoiser, folder: str | Path, *, card: Mapping[str, Any], text_model: str, dtype: str = "int8"
) -> Path:
    """Write a denoiser whose prompts a contrastive model encodes; `load_denoiser` reads it.

    Args:
        denoiser: with an `ImageTextPromptEncoder`.
        folder: made where it does not exist.
        card: recipe, data and figures.
        text_model: name of the contrastive model, which is not stored.
        dtype: of the weights on disk, see `models.files.folders.write_folder`.

    Raises:
        NotSupported: prompts encoded by another kind of model, another autoencoder than `AutoencoderTiny`, or another
            schedule than Stable Diffusion's: a diffusers pipeline is what holds those.
        OutputError: it cannot be written.
    """
    if not isinstance(denoiser.text, ImageTextPromptEncoder):
        raise NotSupported("only a denoiser whose prompts a contrastive model encodes can be written")
    if type(denoiser.autoencoder).__name__ != "AutoencoderTiny":
        raise NotSupported(f"an {type(denoiser.autoencoder).__name__} cannot be written, only an AutoencoderTiny")
    table = NoiseSchedule.scaled_linear().alphas_cumprod
    if not torch.equal(denoiser.schedule.alphas_cumprod, table):
        raise NotSupported(
            "only a denoiser of Stable Diffusion's schedule, NoiseSchedule.scaled_linear(), can be written"
        )
    image = denoiser.image_projection
    config = {
        "text_model": text_model,
        "prediction": denoiser.prediction,
        "unet": _plain(denoiser.unet.config),
        "autoencoder": _plain(denoiser.autoencoder.config, leave_out=("block_out_channels",)),  # AutoencoderTiny's own
        "image_projection": None if image is None else _projection_config(image),
    }
    parts = {"unet": denoiser.unet, "autoencoder": denoiser.autoencoder, "image_projection": image}
    state: dict[str, Tensor] = {}
    for name, part in parts.items():
        state |= {} if part is None else {f"{name}.{key}": value for key, value in part.state_dict().items()}
    return write_folder(folder, kind=KIND, config=config, state=state, card=card, dtype=dtype)


def _read_own(folder: Path) -> LatentDenoiser:
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from diffusers.models.embeddings import ImageProjection

    content = read_folder(folder, KIND)
    config = content.config
    try:
        unet = UNet2DConditionModel.from_config(config["unet"])
        autoencoder = AutoencoderTiny.from_config(config["autoencoder"])
        projection = None if config["image_projection"] is None else ImageProjection(**config["image_projection"])
        text = ImageTextPromptEncoder(load(config["text_model"]))
        denoiser = LatentDenoiser(
            unet, autoencoder, text, NoiseSchedule.scaled_linear(), prediction=config["prediction"],
            image_projection=projection,
        )  # fmt: skip
        for name in ("unet", "autoencoder", "image_projection"):
            part, prefix = getattr(denoiser, name), f"{name}."
            if part is not None:
                own = {
                    key.removeprefix(prefix): value for key, value in content.state.items() if key.startswith(prefix)
                }
                part.load_state_dict(own)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} does not hold what its configuration says: {first_words(error)}") from error
    return denoiser


def _read_pipeline(folder: Path) -> LatentDenoiser:
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from safetensors import SafetensorError

    transformers: Any = require("transformers", "hf")
    index = read_json_object(folder / "model_index.json")
    if index.get(NEWER):
        raise NotSupported(f"{folder} has two text encoders (Stable Diffusion XL); pipelines of one are supported")
    missing = [part for part in PARTS if not (folder / part).is_dir()] or _missing_tokenizer(folder / "tokenizer")
    if missing:
        raise CheckpointError(f"{folder} lacks {', '.join(missing)}: was its download interrupted?")
    kinds = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    kind = index["vae"][1] if isinstance(index.get("vae"), list) else "AutoencoderKL"
    if kind not in kinds:
        raise NotSupported(f"{folder}: an autoencoder of class {kind}; supported: {', '.join(kinds)}")
    local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    restore = _silence()
    try:
        unet = _whole(UNet2DConditionModel, folder / "unet", local)
        autoencoder = _whole(kinds[kind], folder / "vae", local)
        encoder = _whole(transformers.CLIPTextModel, folder / "text_encoder", local)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be read: {first_words(error)}") from error
    finally:
        restore()
    for part in (unet, autoencoder, encoder):
        check_weights_finite(part.state_dict(), folder)
    scheduler = read_json_object(folder / "scheduler" / "scheduler_config.json")
    return LatentDenoiser(
        unet.float(), autoencoder.float(), TransformersPromptEncoder(tokenizer, encoder.float()),
        NoiseSchedule.from_diffusers(folder / "scheduler"), prediction=scheduler.get("prediction_type", "epsilon"),
    )  # fmt: skip


def read_diffusers_part(kind: Any, folder: Path) -> Any:
    """A diffusers network of a folder, in float32; nothing is downloaded, and weights are read from safetensors alone.

    Args:
        kind: its class.
        folder: with `config.json` and the weights.

    Raises:
        CheckpointError: a file that is damaged or lacks weights.
    """
    from safetensors import SafetensorError

    restore = _silence()
    try:
        part = _whole(kind, folder, {"local_files_only": True, "use_safetensors": True})
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be read: {first_words(error)}") from error
    finally:
        restore()
    check_weights_finite(part.state_dict(), folder)
    return part.float()


def _whole(kind: Any, folder: Path, local: Mapping[str, Any]) -> Any:
    """A part of a pipeline; keys that its file lacks would be random weights, so they are refused."""
    part, info = kind.from_pretrained(str(folder), output_loading_info=True, **local)
    if info["missing_keys"] or info["mismatched_keys"]:
        absent = sorted(str(key) for key in (*info["missing_keys"], *info["mismatched_keys"]))
        raise CheckpointError(f"{folder}: {len(absent)} weights are missing or of another shape, the first {absent[0]}")
    return part


def _missing_tokenizer(folder: Path) -> list[str]:
    """Files that a tokenizer needs and the folder does not have."""
    forms = [[name for name in form if not (folder / name).is_file()] for form in TOKENIZER]
    whole, parts = forms
    absent = [] if not (whole and parts) else parts if len(parts) == 1 else whole
    if not (folder / "tokenizer_config.json").is_file():  # which says how long a prompt is and what fills it up
        absent.append("tokenizer_config.json")
    return [f"tokenizer/{name}" for name in absent]


def _silence() -> Callable[[], None]:
    """Switch off the progress bars of transformers, and both packages' reports of what a file lacks, which we say.

    Returns:
        What switches them on again.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging

    levels = logging.get_verbosity(), diffusers_logging.get_verbosity()
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)

    def restore() -> None:
        logging.set_verbosity(levels[0])
        diffusers_logging.set_verbosity(levels[1])
        if bar:
            logging.enable_progress_bar()

    return restore


def _plain(config: Mapping[str, Any], leave_out: Sequence[str] = ()) -> dict[str, Any]:
    return {key: value for key, value in dict(config).items() if not key.startswith("_") and key not in leave_out}


def _projection_config(projection: Any) -> dict[str, int]:
    width = projection.norm.normalized_shape[0]
    return {
        "image_embed_dim": projection.image_embeds.in_features,
        "cross_attention_dim": width,
        "num_image_text_embeds": projection.image_embeds.out_features // width,
    }
