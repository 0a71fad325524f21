"""Each way to edit: from the latents of one picture to those of its edit."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.generate import (
    LUSD,
    AbsGradSAM,
    AttentionRefine,
    AttentionReplace,
    AttentionStore,
    ClassifierFreeGuidance,
    LocalBlend,
    PromptEmbeddingInversion,
    PromptPair,
    ScoreDistillation,
    ViMAEdit,
    attention_edit_mask,
    edit_pair,
    invert,
    sample,
)
from binderclip.generate.denoisers.distillation import DistillationStep, distill_score
from binderclip.generate.denoisers.prompts import ImageTextPromptEncoder
from binderclip.tasks.events import Counted, Previewed, emit
from binderclip.tasks.models import image_text_model
from binderclip.tasks.sampling import JUDGES, StepProgress, counted_forwards, noise_generator, picture_of
from binderclip.tasks.verbs.edit.request import EditRequest

if TYPE_CHECKING:
    from binderclip.generate import LatentDenoiser

INNER_STEPS = 10
"""Most updates of a step of StyleDiffusion's inversion, a tenth of the paper's: seconds on a processor."""
RATE = 0.05
"""Of delta denoising, the published one."""


@dataclass(frozen=True)
class PictureToEdit:
    """One picture on its way.

    Attributes:
        request: how. denoiser: by what.
        pixels: the picture at the model's side, in [0, 1]. latents: of it.
    """

    request: EditRequest
    denoiser: LatentDenoiser
    pixels: Float[Tensor, "1 3 s s"]
    latents: Float[Tensor, "1 C h w"]

    @property
    def steps(self) -> int:
        return self.request.steps_taken

    def progress(self, part: slice = slice(None), steps: int | None = None) -> StepProgress:
        """A hook that counts steps and shows some rows of the clean pictures."""
        return StepProgress(steps or self.steps, lambda x0: self.denoiser.decode(x0[part]), "editing: step")

    def draws(self) -> torch.Generator:
        """The generator of the seed."""
        return noise_generator(self.request.seed)


Edit = tuple[Float[Tensor, "1 C h w"], Float[Tensor, "1 C h w"] | None]
"""Latents of the edit, and of the picture as it came back from its inversion; None where none was made."""
EDIT: slice = slice(1, None)
"""The second half of picture and edit side by side."""


def delta_denoising(picture: PictureToEdit) -> Edit:
    """DDS: four pictures a forward, one forward a step."""
    asked = picture.request
    direction = ScoreDistillation(asked.target, asked.source, guidance_scale=asked.guidance)

    def followed(step: DistillationStep) -> Tensor:
        _say(picture, step)
        return direction(step)

    edited = distill_score(
        picture.denoiser, picture.latents, followed, num_steps=picture.steps, learning_rate=RATE,
        generator=picture.draws(),
    )  # fmt: skip
    return edited, None


def localized_distillation(picture: PictureToEdit) -> Edit:
    """LUSD: two pictures a forward, one forward a draw; the mask is from attention to the new words."""
    asked, store = picture.request, AttentionStore()
    tokens = picture.denoiser.text.positions(asked.target, asked.words[1]) if asked.words[1] else []

    def mask(step: DistillationStep) -> Tensor:
        _say(picture, step)
        return attention_mask(store, asked.target, tokens, picture.latents) if tokens else torch.ones(1, 1, 1, 1)

    method = LUSD(asked.target, asked.source, mask=mask)
    edited = method.edit(
        picture.denoiser.controlled(store), picture.latents, num_steps=picture.steps, generator=picture.draws()
    )  # fmt: skip
    return edited, None


def attention_mask(
    store: AttentionStore, condition: Hashable, tokens: list[int], latents: Float[Tensor, "1 C h w"]
) -> Float[Tensor, "1 1 h w"]:
    """Where words look in the last forward, by the coarsest grid of attention to words and to the picture."""
    size = int(latents.shape[-2]), int(latents.shape[-1])
    layers: dict[str, list[Tensor]] = {}
    for kind in ("text", "self"):
        grid = min(site.size for (each, _), site in store.sites.items() if each == kind)
        layers[kind] = [
            store.maps[key][site.rows(condition, len(store.maps[key]))]
            for key, site in store.sites.items()
            if key[0] == kind and site.size == grid
        ]
    return attention_edit_mask(layers["text"], layers["self"], tokens, size)


def prompt_to_prompt(picture: PictureToEdit) -> Edit:
    """Inversion, then picture and edit side by side: a forward a step each way."""
    asked, denoiser = picture.request, picture.denoiser
    with counted_forwards(denoiser, picture.steps, "inverting: step"):
        states = invert(denoiser, picture.latents, asked.source, num_inference_steps=picture.steps)
    swap = len(asked.source.split()) == len(asked.target.split())
    kind = AttentionReplace if swap else AttentionRefine
    controls: list[Any] = [kind(denoiser.text, asked.source, asked.target)]
    old, new = asked.places
    if old and new:
        controls.append(LocalBlend(denoiser.text, asked.source, asked.target, old, new))
    pictures, edits = edit_pair(
        denoiser, states[-1], PromptPair(asked.source, asked.target), controls=controls,
        hooks=[picture.progress(EDIT)], guidance_scale=asked.guidance, source_guidance_scale=1.0,
        num_inference_steps=picture.steps,
    )  # fmt: skip
    return edits, pictures


def style_diffusion(picture: PictureToEdit) -> Edit:
    """Inversion into the values of the prompt, then the edit with the picture's attention and values."""
    asked, denoiser = picture.request, picture.denoiser
    inversion = PromptEmbeddingInversion(
        guidance_scale=asked.guidance, num_inference_steps=picture.steps, inner_steps=INNER_STEPS, seed=asked.seed
    )
    judge = image_text_model(JUDGES[0], device=asked.device)
    with torch.no_grad():
        tower = judge.image_tower
        patches = tower.run(tower.embed(judge.preprocess(picture.pixels.to(judge.device)))).patches
        features = (patches if tower.norm_last else tower.norm(patches))[0].to(picture.latents)
    # a forward a step of the inversion; of each step one without a text, its updates, and one more
    total = 3 * picture.steps + sum(inversion.updates())
    with counted_forwards(denoiser, total, "inverting: forward"):
        inverted = inversion.fit(denoiser, picture.latents, asked.source, features)
    pictures, edits = inverted.edit(denoiser, asked.target, hooks=[picture.progress(EDIT)])
    return edits, pictures


def vision_guided(picture: PictureToEdit) -> Edit:
    """ViMAEdit: no inversion, one forward a step; with the direction of images where the network reads images."""
    asked, denoiser = picture.request, picture.denoiser
    old, new = asked.places
    method = ViMAEdit(
        asked.source, asked.target, old or None if new else None, new or None if old else None,
        guidance_scale=asked.guidance,
    )  # fmt: skip
    embeddings = None
    if denoiser.image_projection is not None and isinstance(denoiser.text, ImageTextPromptEncoder):
        model = denoiser.text.model
        with torch.no_grad():
            image = model.encode_image(picture.pixels)[0]
            embeddings = (image, *model.encode_text([asked.source, asked.target]))
    edited = method.edit(
        denoiser, picture.latents, embeddings=embeddings, num_inference_steps=picture.steps,
        hooks=[picture.progress(EDIT)], generator=picture.draws(),
    )  # fmt: skip
    return edited, None


def gradient_mask(picture: PictureToEdit) -> Edit:
    """Abs-Grad-SAM: the target is sampled, and outside of its new words the picture stays."""
    asked, denoiser, draws = picture.request, picture.denoiser, picture.draws()
    noise = denoiser.noise(1, generator=draws)
    # the same noise as at the released code's steps 14, 27 and 37 of 50
    places = sorted({int(picture.steps * part) for part in (0.28, 0.54, 0.74)})
    hook = AbsGradSAM(picture.latents, asked.words[1], steps=places, pooled=min(8, noise.shape[-1]), generator=draws)
    edited = sample(
        denoiser, noise, asked.target, terms=[ClassifierFreeGuidance(asked.guidance)],
        hooks=[picture.progress(), hook], num_inference_steps=picture.steps,
    )  # fmt: skip
    return edited, None


def noised_and_drawn(picture: PictureToEdit) -> Edit:
    """SDEdit: the picture with a part of the noise on, sampled as the target from there."""
    asked, denoiser = picture.request, picture.denoiser
    taken = max(1, round(picture.steps * asked.strength))
    first = picture.steps - taken
    noise = denoiser.noise(1, generator=picture.draws())
    t = int(denoiser.schedule.timesteps(picture.steps)[first])
    edited = sample(
        denoiser, denoiser.schedule.add_noise(picture.latents, noise, t), asked.target,
        terms=[ClassifierFreeGuidance(asked.guidance)], hooks=[picture.progress(steps=taken)],
        num_inference_steps=picture.steps, first_step=first,
    )  # fmt: skip
    return edited, None


def _say(picture: PictureToEdit, step: DistillationStep) -> None:
    emit(Counted(step.i + 1, step.n, "editing: step", begun=True))
    emit(Previewed(lambda: [picture_of(pixels) for pixels in picture.denoiser.decode(step.image)]))


EDITORS: dict[str, Callable[[PictureToEdit], Edit]] = {
    "dds": delta_denoising,
    "lusd": localized_distillation,
    "prompt-to-prompt": prompt_to_prompt,
    "stylediffusion": style_diffusion,
    "vimaedit": vision_guided,
    "abs-grad-sam": gradient_mask,
    "strength": noised_and_drawn,
}
"""By the name of the method."""
