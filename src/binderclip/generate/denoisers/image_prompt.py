"""Image attention for a network that has none: released IP-Adapter weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from binderclip.errors import CheckpointError, require
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.models.files.released import read_released

__all__ = ["load_ip_adapter"]


def load_ip_adapter(denoiser: LatentDenoiser, path: str | Path) -> LatentDenoiser:
    """The same network with the image attention of an IP-Adapter file, such as `ip-adapter_sd15.safetensors` or `.bin`.

    The tables are `image_proj` (`proj`, `norm`) and `ip_adapter` (`N.to_k_ip.weight`, `N.to_v_ip.weight`, N odd, in
    diffusers' order of attention processors). Forms with other projections (plus, full, FaceID) are refused.

    Args:
        denoiser: whose network's attention is of the widths in the file.
        path: the file; nothing in it is run.

    Raises:
        CheckpointError: no such file, tables of another form, or widths that differ.

    Paper: IP-Adapter: Text Compatible Image Prompt Adapter for Text-to-Image Diffusion Models (arXiv 2308.06721).
    """
    require("diffusers", "generate")
    from diffusers.models.embeddings import ImageProjection

    projection, weights = _tables(path)
    width = denoiser.unet.config.cross_attention_dim
    tokens, embed_dim = projection["proj.weight"].shape[0] // width, projection["proj.weight"].shape[1]
    if projection["norm.weight"].shape != (width,) or projection["proj.weight"].shape[0] % width:
        raise CheckpointError(
            f"{path} makes tokens of {len(projection['norm.weight'])}, the network attends to {width}"
        )
    image = ImageProjection(image_embed_dim=embed_dim, cross_attention_dim=width, num_image_text_embeds=tokens)
    image.load_state_dict({key.replace("proj.", "image_embeds."): value for key, value in projection.items()})
    adapted = LatentDenoiser(
        denoiser.unet, denoiser.autoencoder, denoiser.text, denoiser.schedule, prediction=denoiser.prediction,
        image_projection=image,
    )  # fmt: skip
    layers = nn.ModuleList(adapted.unet.attn_processors.values())
    own = {key: value.shape for key, value in layers.state_dict().items()}
    # the file names a layer's only matrix to_k_ip.weight, diffusers' processors hold a list of them
    named = {key.replace("_ip.weight", "_ip.0.weight"): value for key, value in weights.items()}
    if own != {key: value.shape for key, value in named.items()}:
        differing = sorted(set(own) ^ set(named)) or sorted(key for key in own if own[key] != named[key].shape)
        raise CheckpointError(
            f"{path} does not fit the network's attention: {len(differing)} differ, first {differing[0]}"
        )
    layers.load_state_dict(named)
    return adapted.with_parts(controlnet=denoiser.controlnet).requires_grad_(False).eval()


def _tables(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tables `image_proj` and `ip_adapter`: entries of a .bin file, prefixes of a safetensors file."""
    names = ("image_proj", "ip_adapter")
    if Path(path).suffix == ".safetensors":
        state = read_released(path)
        tables = [
            {key.removeprefix(f"{name}."): state[key] for key in state if key.startswith(f"{name}.")} for name in names
        ]
    else:
        tables = [read_released(path, name) for name in names]
    if set(tables[0]) != {"proj.weight", "proj.bias", "norm.weight", "norm.bias"} or not tables[1]:
        needed = "image_proj.proj, image_proj.norm and ip_adapter.*"
        raise CheckpointError(f"{path} is no plain IP-Adapter: it needs {needed}")
    return tables[0], tables[1]
