"""A text-conditioned diffusion network over latents: diffusers' networks behind the house's denoiser."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import NotSupported, UsageError
from binderclip.generate.denoisers.attention import AttentionControl, ControlledAttention
from binderclip.generate.denoisers.denoiser import Denoiser
from binderclip.generate.denoisers.prompts import Prompt, PromptEncoder
from binderclip.generate.denoisers.schedule import NoiseSchedule, PredictionKind
from binderclip.numeric import check_number

__all__ = ["LatentDenoiser"]

REMEMBERED = 64  # prompts whose states are kept


class LatentDenoiser(Denoiser):
    """Predicts noise in latents of pictures, of a prompt, of image tokens, and of what is known of the picture.

    Conditions are a text, None (the empty text) or a `Prompt`. A network with nine input channels is an inpainting
    network of Stable Diffusion's layout (latents, mask, masked latents); it generates freely until `inpainting` says
    what is known.

    Args:
        unet: diffusers' `UNet2DConditionModel`. Its attention processors are replaced by `ControlledAttention`.
        autoencoder: diffusers' `AutoencoderTiny` or `AutoencoderKL`.
        text: turns prompts into states.
        schedule: what the times mean.
        prediction: what the network predicts.
        image_projection: turns a CLIP image embedding (B, E) into image tokens (B, N, D); None for a network
            without image attention.

    Raises:
        UsageError: states of another width than the network's attention has, or another number of channels.
    """

    def __init__(
        self,
        unet: Any,
        autoencoder: Any,
        text: PromptEncoder,
        schedule: NoiseSchedule | None = None,
        *,
        prediction: PredictionKind = "epsilon",
        image_projection: nn.Module | None = None,
    ) -> None:
        super().__init__(schedule)
        self.channels = int(autoencoder.config.latent_channels)
        self.inpaints = unet.config.in_channels == 2 * self.channels + 1
        if not self.inpaints and unet.config.in_channels != self.channels:
            raise UsageError(
                f"the network reads {unet.config.in_channels} channels: {self.channels} or {2 * self.channels + 1} fit "
                f"an autoencoder of {self.channels}"
            )
        if unet.config.cross_attention_dim != text.width:
            raise UsageError(f"the network attends to states of {unet.config.cross_attention_dim}, not {text.width}")
        self.unet, self.autoencoder, self.text, self.prediction = unet, autoencoder, text, prediction
        self.image_projection = image_projection
        self.control: AttentionControl | None = None
        self.known: Float[Tensor, "B C h w"] | None = None
        self.mask: Float[Tensor, "B 1 h w"] | None = None
        self.controlnet: nn.Module | None = None
        self.control_images: Float[Tensor, "B 3 H W"] | None = None
        self.conditioning_scale = 1.0
        self._prompts: dict[str, Prompt] = {}
        self._grey: dict[tuple[int, ...], Tensor] = {}
        self._replace_processors()

    # --- pictures and latents -----------------------------------------------------------------------------------------

    @property
    def factor(self) -> int:
        """Pixels a latent place is wide."""
        config = self.autoencoder.config
        levels = getattr(config, "encoder_block_out_channels", None) or config.block_out_channels
        return 2 ** (len(levels) - 1)

    @property
    def side(self) -> int:
        """The side of pictures that the network was trained on, in pixels."""
        return int(self.unet.config.sample_size) * self.factor

    @property
    def multiple(self) -> int:
        """Pixels of which the sides of pictures are multiples, as the network halves them."""
        return self.factor * int(2 ** (len(self.unet.config.block_out_channels) - 1))

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Latents of pictures in [0, 1], scaled to about unit variance; differentiable.

        Raises:
            UsageError: sides that are no multiples of the autoencoder's factor.
        """
        if images.shape[-2] % self.factor or images.shape[-1] % self.factor:
            raise UsageError(f"sides must be multiples of {self.factor} px, got {tuple(images.shape[-2:])}")
        encoded = self.autoencoder.encode(2 * images - 1)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return (latents - self._shift) * self.autoencoder.config.scaling_factor

    def decode(self, latents: Float[Tensor, "B C h w"]) -> Float[Tensor, "B 3 H W"]:
        """Pictures of latents, clamped to [0, 1]; differentiable inside."""
        scaled = latents / self.autoencoder.config.scaling_factor + self._shift
        return (self.autoencoder.decode(scaled).sample / 2 + 0.5).clamp(0, 1)

    def noise(
        self, count: int, size: tuple[int, int] | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "count C h w"]:
        """Standard normal latents.

        Args:
            count: how many.
            size: (height, width) of the pictures in pixels; default the side that the network was trained on.
            generator: default torch's.

        Raises:
            UsageError: a size that is no multiple of what the network halves.
        """
        height, width = (self.side, self.side) if size is None else size
        if height % self.multiple or width % self.multiple or min(height, width) < self.multiple:
            raise UsageError(f"size must be multiples of {self.multiple} px, got {height} x {width}")
        shape = (count, self.channels, height // self.factor, width // self.factor)
        return torch.randn(shape, generator=generator).to(next(self.unet.parameters()))

    # --- conditions ---------------------------------------------------------------------------------------------------

    def prompt(self, condition: Hashable) -> Prompt:
        """The prompt of a text, of None (the empty text), or itself; states of recent texts are remembered.

        Raises:
            UsageError: anything else.
        """
        if isinstance(condition, Prompt):
            return condition
        if condition is not None and not isinstance(condition, str):
            raise UsageError(f"a condition must be a text, a Prompt or None, got {type(condition).__name__}")
        text = condition or ""
        if text not in self._prompts:
            with torch.no_grad():
                states = self.text.states([text])[0]
            if len(self._prompts) >= REMEMBERED:
                self._prompts.pop(next(iter(self._prompts)))
            self._prompts[text] = Prompt(text, states, states)
        return self._prompts[text]

    def image_tokens(self, embeddings: Float[Tensor, "B E"]) -> Float[Tensor, "B N D"]:
        """Tokens of raw CLIP image embeddings, for `Prompt.image_tokens`.

        Raises:
            NotSupported: the network has no image attention.
        """
        if self.image_projection is None:
            raise NotSupported("this network has no image attention: load_ip_adapter gives it some")
        return self.image_projection(embeddings)

    def inpainting(self, images: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]) -> LatentDenoiser:
        """The same network, told what is known: everything where the mask is below one half.

        Args:
            images: pictures in [0, 1].
            mask: 1 where new content belongs.

        Raises:
            NotSupported: the network has no inpainting channels.
            UsageError: a mask of another size.
        """
        if not self.inpaints:
            raise NotSupported(f"inpainting needs {2 * self.channels + 1} input channels, this network has fewer")
        if mask.shape != (len(images), 1, *images.shape[-2:]):
            raise UsageError(
                f"mask has shape {tuple(mask.shape)}, the pictures need {(len(images), 1, *images.shape[-2:])}"
            )
        binary = (mask >= 0.5).to(images)
        bound = self._view()
        with torch.no_grad():
            bound.known = self.encode(images * (1 - binary) + 0.5 * binary)  # grey, 0 in the autoencoder's range
        # a latent place is new where any of its pixels is, which is what nearest sampling misses for thin masks
        bound.mask = functional.max_pool2d(binary, self.factor)
        return bound

    def conditioned_on(self, images: Float[Tensor, "B 3 H W"], *, scale: float = 1.0) -> LatentDenoiser:
        """The same network, steered by pictures of what its ControlNet reads: edges, depth, poses.

        Args:
            images: control images in [0, 1] of the size of the pictures that are drawn, one for each or one for all.
            scale: how much the ControlNet counts, in [0, 2]; 0 leaves it out.

        Raises:
            NotSupported: the network has no ControlNet.
            UsageError: no such pictures, or a scale out of range.
        """
        if self.controlnet is None:
            raise NotSupported("this network has no ControlNet: load_controlnet gives it one")
        check_number("scale", scale, least=0, most=2)
        if images.ndim != 4 or images.shape[1] != 3 or any(side % self.factor for side in images.shape[-2:]):
            raise UsageError(
                f"control images must be (B, 3, H, W), multiples of {self.factor} px, not {tuple(images.shape)}"
            )
        bound = self._view()
        bound.control_images, bound.conditioning_scale = images, float(scale)
        return bound

    def with_parts(
        self, *, unet: Any = None, text: PromptEncoder | None = None, controlnet: nn.Module | None = None
    ) -> LatentDenoiser:
        """The same denoiser with another network or another encoder of prompts; all other parts are shared.

        Args:
            unet: of the same configuration, its attention processors among it; default its own.
            text: of the same width; default its own.
            controlnet: diffusers' `ControlNetModel` for the network (`load_controlnet`); default its own, if any.
        """
        other = self._view()
        other._modules = dict(self._modules)  # a shallow copy shares the table of parts
        other._prompts, other._grey = {}, {}
        other.unet = self.unet if unet is None else unet
        other.text = self.text if text is None else text
        other.controlnet = self.controlnet if controlnet is None else controlnet
        return other

    def controlled(self, control: AttentionControl | None) -> LatentDenoiser:
        """The same network, with its attention probabilities open to a control."""
        bound = self._view()
        bound.control = control
        return bound

    def forward(
        self, x: Float[Tensor, "R C h w"], t: Int[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R C h w"]:
        prompts = [self.prompt(condition) for condition in conditions]
        if len(x) % len(prompts):
            raise UsageError(f"{len(x)} rows are no {len(prompts)} blocks of equal length")
        each = len(x) // len(prompts)
        keys = torch.stack([prompt.keys for prompt in prompts]).repeat_interleave(each, 0)
        arguments: dict[str, Any] = {"conditions": tuple(conditions), "latent_size": tuple(x.shape[-2:])}
        if any(prompt.values is not prompt.keys for prompt in prompts):
            arguments["values"] = torch.stack([prompt.values for prompt in prompts]).repeat_interleave(each, 0)
        if self.control is not None:
            arguments["control"] = self.control
        arguments |= self._image_arguments(prompts, each)
        state = x
        if self.inpaints:
            known, mask = self._known(x)
            state = torch.cat([x, mask, known], 1)
        output = self.unet(state, t, keys, cross_attention_kwargs=arguments, **self._residuals(x, t, keys)).sample
        return self.schedule.to_epsilon(output, x, t, self.prediction)

    # --- parts --------------------------------------------------------------------------------------------------------

    @property
    def _shift(self) -> float:
        return getattr(self.autoencoder.config, "shift_factor", None) or 0.0

    def _apply(self, *arguments: Any, **settings: Any) -> Any:
        """Moves to another device or precision, from where remembered states of prompts are made anew."""
        self._prompts.clear()
        self._grey.clear()
        return super()._apply(*arguments, **settings)

    def _view(self) -> LatentDenoiser:
        """A shallow copy: the same networks, other attributes."""
        return copy.copy(self)

    def _image_arguments(self, prompts: list[Prompt], each: int) -> dict[str, Tensor]:
        tokens = [prompt.image_tokens for prompt in prompts]
        given = next((token for token in tokens if token is not None), None)
        if given is None:
            return {}
        # without tokens the attention has a scale of zero, so that one batched forward serves all prompts
        scale = [0.0 if prompt.image_tokens is None else prompt.image_scale for prompt in prompts]
        stacked = torch.stack([torch.zeros_like(given) if token is None else token for token in tokens])
        return {
            "image_tokens": stacked.repeat_interleave(each, 0),
            "image_scale": torch.tensor(scale, device=given.device, dtype=given.dtype)
            .repeat_interleave(each)[:, None, None],
        }  # fmt: skip

    def _residuals(self, x: Tensor, t: Tensor, keys: Tensor) -> dict[str, Any]:
        """What the ControlNet adds to the states of the network's first half and middle; nothing without a picture."""
        if self.controlnet is None or self.control_images is None or self.conditioning_scale == 0:
            return {}
        size = tuple(side * self.factor for side in x.shape[-2:])
        images = self.control_images
        if len(x) % len(images) or tuple(images.shape[-2:]) != size:
            raise UsageError(f"latents of shape {tuple(x.shape)} do not fit control images of {tuple(images.shape)}")
        images = images.to(x).repeat(len(x) // len(images), 1, 1, 1)
        down, middle = self.controlnet(
            x, t, keys, controlnet_cond=images, conditioning_scale=self.conditioning_scale, return_dict=False
        )  # fmt: skip
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    def _known(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.known is None or self.mask is None:
            size = tuple(x.shape[-2:])
            if size not in self._grey:
                with torch.no_grad():
                    grey = torch.full((1, 3, *(side * self.factor for side in size)), 0.5).to(x)
                    self._grey[size] = self.encode(grey)
            return self._grey[size].to(x).expand(len(x), -1, -1, -1), x.new_ones(len(x), 1, *size)
        if len(x) % len(self.known) or self.known.shape[-2:] != x.shape[-2:]:
            raise UsageError(f"latents of shape {tuple(x.shape)} do not fit pictures of {tuple(self.known.shape)}")
        times = len(x) // len(self.known)
        return self.known.repeat(times, 1, 1, 1), self.mask.repeat(times, 1, 1, 1)

    def _replace_processors(self) -> None:
        processors, layer = {}, 0
        modules = dict(self.unet.named_modules())
        order = ("down_blocks", "mid_block", "up_blocks")  # of the forward pass, not of the modules
        for name in sorted(self.unet.attn_processors, key=lambda name: order.index(name.split(".")[0])):
            attention = modules[name.removesuffix(".processor")]
            text = not name.endswith("attn1.processor")
            image = self.image_projection is not None and text
            width = self.unet.config.cross_attention_dim
            processors[name] = ControlledAttention(
                "text" if text else "self", layer, image_width=width if image else None, width=attention.inner_dim
            )  # fmt: skip
            layer += text  # self- and cross-attention of one block share its number
        self.unet.set_attn_processor(processors)
