"""Latent-CLIP: an image-text model whose image tower reads an autoencoder's latents, and no pixels."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.fingerprints import of_tensors
from binderclip.models.files.folders import read_folder, write_folder
from binderclip.models.files.released import NameTable, Rename, copy_renamed
from binderclip.models.image_text.open_clip import build
from binderclip.models.text.tokenize import Tokenizer
from binderclip.numeric import check_number, check_whole

__all__ = ["LatentCLIP", "autoencoder_identity"]

KIND = "latent-clip"
HEAD = 64  # width of an attention head in all of open_clip's vision and text transformers of these sizes


def autoencoder_identity(autoencoder: nn.Module) -> str:
    """32 hexadecimal digits that change with an autoencoder's weights and their precision.

    Args:
        autoencoder: such as diffusers' `AutoencoderKL` or `AutoencoderTiny`.
    """
    return of_tensors(type(autoencoder).__name__, autoencoder.state_dict())


class LatentCLIP(nn.Module):
    """An image-text model over latents, so that what a generator makes is scored without being decoded.

    The image tower is open_clip's vision transformer whose patches have the latents' channels; the text tower is as
    ever. It is tied to one autoencoder, whose identity is kept with it. Latents are seen in the autoencoder's own
    units: those of a generator are divided by `scaling_factor`, and `shift_factor` is added.

    Args:
        model_cfg: as of `models.build`, a plain vision transformer; `image_size` of `vision_cfg` is the side of the
            latents, `patch_size` is in latent places (the paper's: 64 and 8, or 64 and 4).
        autoencoder: the module, or its `autoencoder_identity`, or a name of your own for it.
        in_channels: of the latents.
        scaling_factor: what generators multiply latents by: 0.13025 for SDXL, 0.18215 for Stable Diffusion 1 and 2.
        shift_factor: what they subtract before: 0 for these, 0.0609 for Stable Diffusion 3.
        mean, std: of each channel, to standardise latents by; default none. The released towers have none.
        tokenizer: as of `models.build`.
        name: the name it goes by.

    Raises:
        UsageError: a configuration that cannot be built or has another kind of tower, no identity, or numbers out of
            range.

    Paper: Controlling Latent Diffusion Using Latent CLIP (arXiv 2503.08455).

    Examples:
        >>> sizes = {"image_size": 16, "patch_size": 4, "width": 64, "layers": 1}
        >>> text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
        >>> model = LatentCLIP({"embed_dim": 32, "vision_cfg": sizes, "text_cfg": text}, "my autoencoder")
        >>> model.encode_latents(torch.randn(2, 4, 16, 16)).shape
        torch.Size([2, 32])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model_cfg: Mapping[str, Any],
        autoencoder: nn.Module | str,
        *,
        in_channels: int = 4,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        tokenizer: Tokenizer | str | Path | None = None,
        name: str = KIND,
    ) -> None:
        super().__init__()
        check_whole("in_channels", in_channels, least=1)
        check_number("scaling_factor", scaling_factor, above=0)
        check_number("shift_factor", shift_factor)
        identity = autoencoder if isinstance(autoencoder, str) else autoencoder_identity(autoencoder)
        if not identity.strip():
            raise UsageError("autoencoder must be the module, its identity or a name for it, not an empty text")
        offsets, scales = (
            [fallback] * in_channels if given is None else [float(value) for value in given]
            for given, fallback in ((mean, 0.0), (std, 1.0))
        )
        if len(offsets) != in_channels or len(scales) != in_channels or min(scales) <= 0:
            raise UsageError(f"mean and std must be {in_channels} numbers each, std above 0, got {mean} and {std}")
        self.model_cfg = copy.deepcopy(dict(model_cfg))
        self.autoencoder, self.in_channels = identity, in_channels
        self.scaling_factor, self.shift_factor = float(scaling_factor), float(shift_factor)
        self.model = build(model_cfg, tokenizer=tokenizer, name=name)
        visual = self.model.visual
        if not isinstance(visual, VisionTransformer):
            raise UsageError(
                "model_cfg.vision_cfg must be open_clip's own vision transformer, which cuts patches first"
            )
        width, cut = visual.conv1.out_channels, visual.conv1.kernel_size
        visual.conv1 = nn.Conv2d(in_channels, width, cut, cut, bias=False)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.tensor(offsets).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(scales).reshape(-1, 1, 1), persistent=False)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        height, width = self.model.visual.image_size  # type: ignore[union-attr,misc]
        return int(height), int(width)  # type: ignore[arg-type]

    def scale(self) -> Float[Tensor, ""]:
        """The factor on the similarities, differentiable."""
        return self.model.scale()

    def encode_latents(
        self, latents: Float[Tensor, "B C h w"], *, scaled: bool = True, normalize: bool = False
    ) -> Float[Tensor, "B E"]:
        """Features of latents; differentiable.

        Args:
            latents: as generators have them.
            scaled: False where they are in the autoencoder's own units, as it encodes pictures.
            normalize: rows of length one.

        Raises:
            UsageError: latents of another shape.
        """
        if latents.ndim != 4 or latents.shape[1:] != (self.in_channels, *self.latent_size):
            expected = (self.in_channels, *self.latent_size)
            raise UsageError(f"latents must be (B, {', '.join(map(str, expected))}), got {tuple(latents.shape)}")
        raw = latents / self.scaling_factor + self.shift_factor if scaled else latents
        features = self.model.encode_pixels((raw - self.mean) / self.std)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_image(
        self, images: Float[Tensor, "B 3 H W"], autoencoder: Any, *, normalize: bool = False
    ) -> Float[Tensor, "B E"]:
        """Features of pictures, by way of their latents (the mean where the autoencoder gives a distribution).

        Args:
            images: in [0, 1], of the side whose latents have `latent_size`.
            autoencoder: diffusers' one that this model belongs to.
            normalize: rows of length one.

        Raises:
            UsageError: another autoencoder, or pictures of another size.
        """
        self.check_autoencoder(autoencoder)
        encoded = autoencoder.encode(2 * images - 1)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return self.encode_latents(latents, scaled=False, normalize=normalize)

    def encode_text(self, texts: str | Sequence[str], *, normalize: bool = False) -> Float[Tensor, "Q E"]:
        """Features of texts, as of `ImageTextModel`."""
        return self.model.encode_text(texts, normalize=normalize)

    def check_autoencoder(self, autoencoder: nn.Module | str) -> None:
        """Refuse latents of another autoencoder than the one that this model was trained on.

        Args:
            autoencoder: the module, or its identity.

        Raises:
            UsageError: it is another.
        """
        identity = autoencoder if isinstance(autoencoder, str) else autoencoder_identity(autoencoder)
        if identity != self.autoencoder:
            raise UsageError(
                f"this model reads latents of the autoencoder {self.autoencoder}, not of {identity}: a Latent-CLIP is "
                "tied to one"
            )

    def save(self, folder: str | Path, *, card: Mapping[str, Any] | None = None, dtype: str = "float32") -> Path:
        """Write a folder that `open` reads.

        Args:
            folder: made where it is missing.
            card: what to say of it, as JSON.
            dtype: of the stored weights: "float32", "float16" or "int8".
        """
        config = {
            "model_cfg": self.model_cfg,
            "latents": {
                "autoencoder": self.autoencoder, "in_channels": self.in_channels,
                "scaling_factor": self.scaling_factor, "shift_factor": self.shift_factor,
                "mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist(),
            },
        }  # fmt: skip
        state = self.model.backbone.state_dict()
        return write_folder(folder, kind=KIND, config=config, state=state, card=card or {}, dtype=dtype)

    @classmethod
    def open(cls, folder: str | Path, *, tokenizer: Tokenizer | str | Path | None = None) -> LatentCLIP:
        """Read a folder that `save` wrote; in eval mode.

        Args:
            folder: it.
            tokenizer: as of `models.build`, where the configuration names one that is not on this machine.

        Raises:
            CheckpointError: no such folder, another kind of model, or damaged weights.
        """
        read = read_folder(folder, KIND)
        model = configured(
            lambda: cls(
                read.config["model_cfg"], tokenizer=tokenizer, name=Path(folder).name, **read.config["latents"]
            ),
            folder,
        )
        guarded(lambda: model.model.backbone.load_state_dict(read.state), folder, "its configuration")
        return model.eval()

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], autoencoder: nn.Module | str, *, scaling_factor: float = 0.13025
    ) -> LatentCLIP:
        """The model of weights under open_clip's names, such as those of the authors' checkpoint.

        Sizes are read from the shapes of the tensors, with heads 64 wide as in open_clip's models of these sizes. Files
        of open_clip's training are read by `models.files.released.read_released`, which runs nothing in them.

        Args:
            state: all tensors of the model.
            autoencoder: as of the class; the authors' is SDXL's.
            scaling_factor: as of the class; that of SDXL.

        Raises:
            CheckpointError: names and shapes of no such model.
        """
        sizes, channels = _sizes(state)
        source = "the state"
        model = configured(lambda: cls(sizes, autoencoder, in_channels=channels, scaling_factor=scaling_factor), source)
        table = NameTable("a Latent-CLIP of open_clip's names", [Rename(".*", r"\g<0>")])
        copy_renamed(model.model.backbone.state_dict(), state, table, source)
        return model.eval()


def _sizes(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    """open_clip's configuration of a state, and the channels of its patches.

    Raises:
        CheckpointError: a tensor that tells a size is missing.
    """
    needed = ("visual.conv1.weight", "visual.positional_embedding", "visual.proj", "token_embedding.weight",
              "positional_embedding")  # fmt: skip
    if missing := [name for name in needed if name not in state]:
        raise CheckpointError(f"the state is no Latent-CLIP of open_clip's names: it has no {missing[0]}")
    patches, places, projection, words, positions = (state[name] for name in needed)
    if patches.ndim != 4 or places.ndim != 2 or projection.ndim != 2 or words.ndim != 2 or positions.ndim != 2:
        raise CheckpointError(f"the state is no Latent-CLIP of open_clip's names: {needed[0]} {tuple(patches.shape)}")
    side = round((len(places) - 1) ** 0.5)  # one place is the class token's

    def depth(prefix: str) -> int:
        pattern = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
        return 1 + max((int(match[1]) for name in state if (match := pattern.match(name))), default=-1)

    vision = {
        "image_size": side * patches.shape[-1], "patch_size": patches.shape[-1], "width": patches.shape[0],
        "layers": depth("visual."), "head_width": min(HEAD, patches.shape[0]),
    }  # fmt: skip
    text = {
        "context_length": len(positions), "vocab_size": len(words), "width": words.shape[1],
        "heads": max(1, words.shape[1] // HEAD), "layers": depth(""),
    }  # fmt: skip
    return {"embed_dim": projection.shape[1], "vision_cfg": vision, "text_cfg": text}, patches.shape[1]
