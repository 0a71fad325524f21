"""Released ControlNets: networks that steer a denoiser by a picture of edges, depth, poses or the like."""

from __future__ import annotations

from pathlib import Path

from binderclip.errors import CheckpointError, require
from binderclip.files import why_no_folder
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.denoisers.pipeline import read_diffusers_part
from binderclip.models.files.checkpoint import read_json_object

__all__ = ["load_controlnet"]

SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block", "down_block_types")
"""Settings in which a ControlNet is a copy of the first half of the network that it steers."""


def load_controlnet(denoiser: LatentDenoiser, folder: str | Path) -> LatentDenoiser:
    """The same network with a ControlNet, which acts once `conditioned_on` has given it a picture.

    Args:
        denoiser: of a pipeline of Stable Diffusion's layout, or of the network that the ControlNet was trained for.
        folder: of diffusers' layout, `config.json` and `diffusion_pytorch_model.safetensors`, such as
            `sd-controlnet-canny`; nothing is downloaded.

    Raises:
        CheckpointError: a folder that lacks a part, is of another class, has lost weights, or is for another network.
        MissingDependency: diffusers is not installed.

    Paper: Adding Conditional Control to Text-to-Image Diffusion Models (arXiv 2302.05543).
    """
    require("diffusers", "generate")
    from diffusers import ControlNetModel

    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"a ControlNet cannot be read: {why_no_folder(folder)}")
    kind = read_json_object(folder / "config.json").get("_class_name")
    if kind != "ControlNetModel":
        raise CheckpointError(f"{folder} holds a {kind}, not a ControlNetModel")
    controlnet = read_diffusers_part(ControlNetModel, folder)
    for name in SHARED:
        own, given = (_plain(part.config[name]) for part in (denoiser.unet, controlnet))
        if name == "in_channels":  # an inpainting network is steered by its latents alone
            own = denoiser.channels
        if own != given:
            raise CheckpointError(f"{folder} is for another network: its {name} is {given}, the denoiser's {own}")
    widths = controlnet.config.conditioning_embedding_out_channels
    if 2 ** (len(widths) - 1) != denoiser.factor:
        raise CheckpointError(
            f"{folder} makes pictures {2 ** (len(widths) - 1)} times smaller, the denoiser's autoencoder "
            f"{denoiser.factor} times"
        )
    device = next(denoiser.unet.parameters()).device
    return denoiser.with_parts(controlnet=controlnet.requires_grad_(False).eval().to(device))


def _plain(value: object) -> object:
    """Settings that a file holds as lists and a class as tuples, as lists."""
    return list(value) if isinstance(value, tuple) else value
