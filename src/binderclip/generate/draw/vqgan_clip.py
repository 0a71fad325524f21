"""Pictures of prompts from the codes of a vector-quantised autoencoder, by gradients and without training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.draw.objectives import ImageObjective, PromptDistance, clip_prompt
from binderclip.generate.draw.optimisation import ImageOptimisation, OptimisedImage, WeightedObjective
from binderclip.generate.draw.transforms import ImageTransform, RandomCutouts
from binderclip.generate.draw.vq_autoencoder import load_vq_autoencoder
from binderclip.generate.draw.vq_latent import VQLatent
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.numeric import check_number, check_whole

__all__ = ["WeightedPrompt", "vqgan_clip"]


@dataclass(frozen=True)
class WeightedPrompt:
    """What a picture should look like, or, with a negative weight, should not.

    Args:
        target: a text, a picture (3, H, W) in [0, 1], or features (E,) or (T, E).
        weight: of its distance.
        stop: distance below which a view gives no gradient.

    Raises:
        UsageError: a weight that is not finite, or stop NaN or infinite upwards.

    Examples:
        >>> WeightedPrompt.parse("a lighthouse | fog:-0.5")[1]
        WeightedPrompt(target='fog', weight=-0.5, stop=-inf)
    """

    target: str | Tensor
    weight: float = 1.0
    stop: float = -math.inf

    def __post_init__(self) -> None:
        check_number("weight", self.weight)
        check_number("stop", self.stop, below=math.inf, infinite=True)

    @classmethod
    def parse(cls, text: str) -> list[WeightedPrompt]:
        """Prompts in the released code's syntax: `text:weight:stop`, both optional, between `|`.

        Raises:
            UsageError: an empty prompt, or a weight or stop that is no number.
        """
        prompts = []
        for part in text.split("|"):
            target, *numbers = part.strip().rsplit(":", 2)
            try:
                values = [float(number) for number in numbers]
            except ValueError:
                raise UsageError(
                    f"prompt {part.strip()!r} must be text:weight:stop with numbers; give a WeightedPrompt where "
                    "the text itself has a colon"
                ) from None
            if not target.strip():
                raise UsageError(f"prompts {text!r} hold an empty one")
            prompts.append(cls(target.strip(), *values))
        return prompts


def vqgan_clip(
    model: ImageTextModel,
    autoencoder: nn.Module | VQLatent | str | Path,
    prompts: str | Sequence[str | WeightedPrompt],
    *,
    initial: Float[Tensor, "3 H W"] | Float[Tensor, "B 3 H W"] | None = None,
    steps: int = 500,
    size: tuple[int, int] | None = None,
    transforms: ImageTransform | None = None,
    latent_weight: float = 0.0,
    lr: float = 0.1,
    callbacks: Sequence[Any] = (),
    seed: int = 0,
) -> OptimisedImage:
    """Make or edit a picture so that random cut-outs of it match prompts, by moving the codes of an autoencoder.

    Each step of Adam lowers the sum over prompts of `weight * mean over cut-outs of angle^2 / 2`, the angle between a
    cut-out's features and the prompt's. The autoencoder keeps the picture natural, the cut-outs keep it from fooling
    the model.

    Args:
        model: guides.
        autoencoder: as `VQLatent` takes it; or "small-vq", the bundled one, or a folder of `save_vq_autoencoder`; or a
            picture to go on with, which is changed (`initial`, `size` and `lr` are then not used).
        prompts: texts, each `text:weight:stop` and several between `|` (`WeightedPrompt.parse`), or weighted texts,
            pictures, whose cut-outs count, or features.
        initial: a picture in [0, 1] to edit; default random codes.
        steps: of Adam.
        size: (H, W) in pixels without `initial`; default the model's input.
        transforms: makes the views; default `RandomCutouts(32)` at the model's input size.
        latent_weight: r of the term `r mean(z^2) / (2 (2 i + 1))` in step i = 0, 1, ...
        lr: of the latent.
        callbacks: as `fit` takes them; one whose `after_step` gives True ends the run, and leaves the picture so far.
        seed: of the codes and of the views.

    Returns:
        The picture; `param` is the `VQLatent`. In `history`, `prompts` is the weighted sum of distances.

    Raises:
        UsageError: no prompt, no autoencoder, or a setting out of range.

    Paper: VQGAN-CLIP: Open Domain Image Generation and Editing with Natural Language Guidance (arXiv 2204.08583).
    """
    refuse_bare_module(model, "vqgan_clip")
    check_whole("steps", steps, least=0)
    check_whole("seed", seed)
    check_number("latent_weight", latent_weight, least=0)
    if transforms is None:
        transforms = RandomCutouts(32, min(model.preprocess.size))
    weighted = _weighted(prompts)
    if isinstance(autoencoder, (str, Path)):
        autoencoder = load_vq_autoencoder(autoencoder).to(model.device)
    if isinstance(autoencoder, VQLatent):
        param = autoencoder
    elif initial is not None:
        param = VQLatent.encoded(autoencoder, initial, lr=lr)
    else:
        param = VQLatent.random(autoencoder, size or model.preprocess.size, seed=seed, lr=lr)
    generator = torch.Generator().manual_seed(seed)
    distances = [
        clip_prompt(model, _target(model, one.target, transforms, generator), weight=one.weight, stop=one.stop)
        for one in weighted
    ]
    objectives: dict[str, ImageObjective | WeightedObjective] = {"prompts": _PromptSum(distances)}
    if latent_weight:
        objectives["latent"] = WeightedObjective(
            # i = progress * steps, and the picture itself plays no part
            lambda _: param.latent.square().mean(),
            lambda progress: latent_weight / (2 * (2 * round(progress * steps) + 1)),
            transformed=False,
        )
    return ImageOptimisation(param, objectives, transforms=transforms, callbacks=callbacks, seed=seed).run(steps)


class _PromptSum:
    """The sum of distances from several prompts; views are encoded once for all."""

    def __init__(self, distances: Sequence[PromptDistance]) -> None:
        self.distances = distances
        self.networks = distances[0].networks

    def __call__(self, images: Float[Tensor, "N 3 h w"]) -> Float[Tensor, ""]:
        features = self.distances[0].features(images)
        return torch.stack([distance.of_features(features) for distance in self.distances]).sum()


def _weighted(prompts: str | Sequence[str | WeightedPrompt]) -> list[WeightedPrompt]:
    rows: list[WeightedPrompt] = []
    for prompt in [prompts] if isinstance(prompts, str) else prompts:
        rows += WeightedPrompt.parse(prompt) if isinstance(prompt, str) else [prompt]
    if not rows:
        raise UsageError("prompts is empty: give at least one")
    return rows


@torch.no_grad()
def _target(
    model: ImageTextModel, target: str | Tensor, transforms: ImageTransform, generator: torch.Generator
) -> str | Tensor:
    """Features of the cut-outs of a picture, one row each; texts and features as they are."""
    if isinstance(target, Tensor) and target.ndim == 3:
        if target.shape[0] != 3 or not bool(((target >= 0) & (target <= 1)).all()):
            raise UsageError(f"a picture as a prompt must be (3, H, W) in [0, 1], got {tuple(target.shape)}")
        return model.encode_image(transforms(target[None].to(model.device), generator))
    return target
