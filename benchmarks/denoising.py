"""Sampling with guidance beside diffusers' stock pipeline, methods on one inversion, and attention that is recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Row, compare
from binderclip.generate import (
    AttentionRefine,
    AttentionReplace,
    AttentionReweight,
    AttentionStore,
    ClassifierFreeGuidance,
    LatentDenoiser,
    LocalBlend,
    NoiseSchedule,
    PromptPair,
    edit_pair,
    invert,
    load_denoiser,
    sample,
)

SCALE = 4.0
SOURCE, TARGET = "a red apple", "a green apple"


def run(*, steps: int = 50, repeats: int = 5) -> list[Row]:
    """The bundled network of 64 px, whose first convolution reads the four channels of latents alone.

    Args:
        steps: of sampling and of inversion.
        repeats: pairs of runs.
    """
    denoiser = text_to_image()
    rows = [_stock(denoiser, count, steps, repeats) for count in (1, 4)]
    return [*rows, _recorded(denoiser, steps, repeats), _one_inversion(denoiser, steps, max(1, repeats // 2))]


def text_to_image() -> LatentDenoiser:
    """`small-diffusion` without its inpainting channels, which the stock text-to-image pipeline cannot feed."""
    from diffusers import UNet2DConditionModel

    whole = load_denoiser()
    unet = UNet2DConditionModel.from_config({**dict(whole.unet.config), "in_channels": whole.channels})
    weights = {name: weight for name, weight in whole.unet.state_dict().items() if "processor" not in name}
    weights["conv_in.weight"] = weights["conv_in.weight"][:, : whole.channels]
    unet.load_state_dict(weights)
    schedule = NoiseSchedule.scaled_linear(steps_offset=1)  # the stock pipeline insists
    denoiser = LatentDenoiser(unet, whole.autoencoder, whole.text, schedule, prediction=whole.prediction)
    return denoiser.requires_grad_(False).eval()


def stock_pipeline(denoiser: LatentDenoiser) -> Any:
    """diffusers' text-to-image pipeline of the same network, which is given states of prompts."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.models.attention_processor import AttnProcessor2_0

    unet = copy.deepcopy(denoiser.unet)
    unet.set_attn_processor(AttnProcessor2_0())
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=True,
        steps_offset=1, prediction_type=denoiser.prediction,
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=denoiser.autoencoder, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _stock(denoiser: LatentDenoiser, count: int, steps: int, repeats: int) -> Row:
    pipeline = stock_pipeline(denoiser)
    noise = denoiser.noise(count, generator=torch.Generator().manual_seed(0))
    states, null = (denoiser.prompt(text).keys[None].repeat(count, 1, 1) for text in (SOURCE, ""))

    def ours() -> Tensor:
        return sample(denoiser, noise, SOURCE, terms=[ClassifierFreeGuidance(SCALE)], num_inference_steps=steps)

    def peer() -> Tensor:
        return pipeline(
            prompt_embeds=states, negative_prompt_embeds=null, latents=noise, num_inference_steps=steps,
            guidance_scale=SCALE, height=denoiser.side, width=denoiser.side, output_type="latent",
        ).images  # fmt: skip

    torch.testing.assert_close(ours(), peer(), rtol=1e-3, atol=1e-3)
    return compare(
        f"{steps} DDIM steps with guidance, {count} of {denoiser.side} px", ours, peer, repeats=repeats,
        unit="s", fastest=True,
        goal="at least 1.1x", target=1.1, peer_name="diffusers' StableDiffusionPipeline",
        note="both predict both branches in one batch by torch's fused attention, without a graph",
    )  # fmt: skip


def _recorded(denoiser: LatentDenoiser, steps: int, repeats: int) -> Row:
    noise = denoiser.noise(1, generator=torch.Generator().manual_seed(0))

    def drawn(network: LatentDenoiser) -> Tensor:
        return sample(network, noise, SOURCE, terms=[ClassifierFreeGuidance(SCALE)], num_inference_steps=steps)

    recorded = denoiser.controlled(AttentionStore())
    torch.testing.assert_close(drawn(recorded), drawn(denoiser), rtol=1e-3, atol=1e-3)
    return compare(
        f"attention maps of all blocks recorded, {steps} steps", lambda: drawn(recorded), lambda: drawn(denoiser),
        repeats=repeats, unit="s", fastest=True, speedup=False, goal="at most 1.15x", target=1.15,
        peer_name="the same, nothing recorded",
        note="maps are written out, which the fused kernel of the peer never does",
    )  # fmt: skip


def _one_inversion(denoiser: LatentDenoiser, steps: int, repeats: int) -> Row:
    """Prompt-to-prompt's controls on the noise of one picture."""
    picture = sample(
        denoiser, denoiser.noise(1, generator=torch.Generator().manual_seed(0)), SOURCE,
        terms=[ClassifierFreeGuidance(SCALE)], num_inference_steps=steps,
    )  # fmt: skip
    text, pair = denoiser.text, PromptPair(SOURCE, TARGET)
    methods: list[Callable[[], Sequence[Any]]] = [
        lambda: [AttentionReplace(text, SOURCE, TARGET)],
        lambda: [AttentionRefine(text, SOURCE, TARGET)],
        lambda: [AttentionReweight(text, TARGET, {"green": 2.0})],
        lambda: [AttentionReplace(text, SOURCE, TARGET), LocalBlend(text, SOURCE, TARGET, "apple", "apple")],
    ]

    def inverted() -> Tensor:
        return invert(denoiser, picture, SOURCE, num_inference_steps=steps)[-1]

    def edited(noise: Tensor, method: Callable[[], Sequence[Any]]) -> Tensor:
        return edit_pair(
            denoiser, noise, pair, controls=method(), guidance_scale=SCALE, source_guidance_scale=1.0,
            num_inference_steps=steps,
        )[1]  # fmt: skip

    def ours() -> list[Tensor]:
        noise = inverted()
        return [edited(noise, method) for method in methods]

    calls = 0

    def count(*arguments: Any) -> None:
        nonlocal calls
        calls += 1

    handle = denoiser.unet.register_forward_hook(count)
    ours()
    handle.remove()
    result = compare(
        f"{len(methods)} edits of one picture, {steps} steps each", ours,
        lambda: [edited(inverted(), method) for method in methods], repeats=repeats, warmup=0, unit="s", fastest=True,
        goal="forwards of one inversion and of the edits", peer_name="an inversion for each of them",
        note=f"{calls} forwards: {steps} of the inversion, of one row, and {steps} of each edit, of four",
    )  # fmt: skip
    return replace(result, met=calls == steps * (1 + len(methods)))
