"""Objects removed by inpainting that is told of the background alone (CLIPAway)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import CheckpointError, UsageError
from binderclip.generate.denoisers.context import SamplingHook
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.edit.inpainting import check_inpainting_mask, inpaint
from binderclip.generate.guidance.classifier_free import ClassifierFreeGuidance
from binderclip.models.files.released import read_released
from binderclip.numeric import check_number, check_whole
from binderclip.vision import dilate

__all__ = ["CLIPAway", "EmbeddingProjection", "without_component"]

PAPER_SIDE = 512  # pixels of the side for which the mask is grown by 5 x 5 squares, five times


def without_component(
    embeddings: Float[Tensor, "B E"], directions: Float[Tensor, "B E"]
) -> Float[Tensor, "B E"]:  # fmt: skip
    """Each embedding minus its projection on its direction: b - (b . f) f / |f|^2. A direction of zero takes nothing.

    Args:
        embeddings: raw; their length matters to what they are given to.
        directions: of any length.
    """
    square = directions.square().sum(1, keepdim=True)
    along = (embeddings * directions).sum(1, keepdim=True)
    return embeddings - along / square.clamp(min=torch.finfo(square.dtype).tiny) * directions


class EmbeddingProjection(nn.Sequential):
    """From embeddings of an alpha-channel CLIP to those that an image-prompt adapter was trained on.

    Hidden layers of Linear, LayerNorm and GELU: the first half of width `width`, the others of `out_width`, then a
    linear layer. Trained so that a picture seen whole gets the adapter's own embedding.

    Args:
        width: of the given embeddings; Alpha-CLIP ViT-L/14 has 768.
        out_width: of those of the adapter; IP-Adapter's ViT-H/14 has 1024.
        hidden: layers.

    Paper: CLIPAway (arXiv 2406.09368), section 3.2.
    """

    def __init__(self, width: int = 768, out_width: int = 1024, hidden: int = 6) -> None:
        check_whole("hidden", hidden, least=1)
        layers: list[nn.Module] = []
        for number in range(hidden):
            before = width if number <= hidden // 2 else out_width
            after = width if number < hidden // 2 else out_width
            layers += [nn.Linear(before, after), nn.LayerNorm(after), nn.GELU()]
        super().__init__(*layers, nn.Linear(out_width, out_width))

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingProjection:
        """The released layer: a safetensors file with tables `0.weight`, `1.weight`, `3.weight`, ...

        Raises:
            CheckpointError: no such file, or other tables.
        """
        state = read_released(path)
        try:
            number = (len(state) // 2 - 1) // 2  # a hidden layer has two layers with weights and biases
            layer = cls(state["0.weight"].shape[1], state[f"{3 * number}.weight"].shape[0], number)
            layer.load_state_dict(state)
        except (KeyError, RuntimeError, UsageError) as error:
            raise CheckpointError(f"{path} is no projection layer of CLIPAway: {str(error).splitlines()[0]}") from error
        return layer.requires_grad_(False).eval()


class CLIPAway:
    """Removes objects: inpaints with an image prompt, the background's embedding without the object's direction.

    An inpainting network likes to paint the removed object again. The embedding of everything but the object still
    holds some of it (its shadow, what usually goes with it); what is parallel to the object's own embedding is taken
    out before it becomes the image prompt.

    Args:
        denoiser: an inpainting network with image attention.
        encode: raw embeddings of pictures (B, 3, H, W) of which an alpha channel (B, 1, H, W) says what is meant, such
            as `AlphaCLIP(...).encode_image`.
        projection: from these embeddings to those that the image attention takes; default none.
        guidance_scale: of classifier-free guidance against the image prompt of an embedding of zeros.
        image_scale: of image attention.
        dilation: pixels by which the mask grows on each side; default the paper's 10 at 512 px, at least 1.
        project: False leaves the background's embedding as it is.

    Raises:
        UsageError: a setting out of range.

    Paper: CLIPAway: Harmonizing Focused Embeddings for Removing Objects via Diffusion Models (arXiv 2406.09368).
    """

    def __init__(
        self,
        denoiser: LatentDenoiser,
        encode: Callable[[Tensor, Tensor], Tensor],
        *,
        projection: nn.Module | None = None,
        guidance_scale: float = 7.5,
        image_scale: float = 1.0,
        dilation: int | None = None,
        project: bool = True,
    ) -> None:
        check_number("guidance_scale", guidance_scale, least=0)
        check_number("image_scale", image_scale, least=0)
        if dilation is not None:
            check_whole("dilation", dilation, least=0)
        self.denoiser, self.encode = denoiser, encode
        self.projection = nn.Identity() if projection is None else projection
        self.guidance_scale, self.image_scale = guidance_scale, image_scale
        self.dilation, self.project = dilation, project

    @torch.no_grad()
    def embeddings(
        self, images: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B E"], Float[Tensor, "B E"]]:
        """Embeddings of object and background in the adapter's space, and the background's without the object's.

        Raises:
            UsageError: a mask of another size.
        """
        check_inpainting_mask(images, mask)
        alpha = (mask >= 0.5).to(images)
        raw = torch.cat([self.encode(images, alpha), self.encode(images, 1 - alpha)])
        object_, background = self.projection(raw).chunk(2)
        return object_, background, without_component(background, object_)  # projected after P, as the code does

    @torch.no_grad()
    def __call__(
        self,
        images: Float[Tensor, "B 3 H W"],
        mask: Float[Tensor, "B 1 H W"],
        *,
        text: str = "",
        hooks: Sequence[SamplingHook] = (),
        num_inference_steps: int = 50,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B 3 H W"]:
        """Pictures without the objects.

        Args:
            images: in [0, 1].
            mask: 1 on the object.
            text: what is said beside the image prompt.
            hooks: change the states, or follow them.
            num_inference_steps: steps.
            generator: of the noise; default torch's. Pictures are painted one by one, each with its own prompt.

        Raises:
            UsageError: a mask of another size, or sides that do not fit the network.
            NotSupported: a network without image attention.
        """
        _, background, rest = self.embeddings(images, mask)
        chosen = rest if self.project else background
        radius = max(1, round(10 * min(images.shape[-2:]) / PAPER_SIDE)) if self.dilation is None else self.dilation
        hole = dilate((mask >= 0.5).to(images), 2 * radius + 1)
        tokens = self.denoiser.image_tokens(chosen)
        zeros = self.projection(torch.zeros_like(self.encode(images[:1], hole[:1])))
        prompt = replace(self.denoiser.prompt(text), image_scale=self.image_scale)
        null = replace(
            self.denoiser.prompt(None), image_tokens=self.denoiser.image_tokens(zeros)[0], image_scale=self.image_scale
        )
        term = ClassifierFreeGuidance(self.guidance_scale, null)
        out = [
            inpaint(
                self.denoiser, image[None], patch[None], replace(prompt, image_tokens=own), terms=[term], hooks=hooks,
                num_inference_steps=num_inference_steps, generator=generator,
            )
            for image, patch, own in zip(images, hole, tokens, strict=True)
        ]  # fmt: skip
        return torch.cat(out)
