"""Explanations that are optimised: the smallest part of a picture's representation that keeps the class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.engine.observed import Observer
from binderclip.explain.engine.placement import input_box, whole
from binderclip.explain.engine.targets import Score, is_image_text, probability, resolve
from binderclip.numeric import check_number
from binderclip.settings import check_choice
from binderclip.vision import PixelTransform, Representation

Noise = Literal["uniform", "gaussian", "zeros"]
# Noisy coefficients held at once: 128 MB in float32, of which a step needs about four times.
HELD = 2**25


@dataclass(frozen=True, kw_only=True)
class MaskAttribution(Attribution):
    """An attribution that also shows what is left of the picture.

    Its maps are the energy of the explanation at each pixel (for pixel masks the mask).

    Attributes:
        explanation: (B, 3, h, w) in [0, 1], the picture synthesised from the masked coefficients.
        images: (B, 3, h, w) what it is a part of: the images, for a model with an input size as its input shows them.
        mask: (B, ...) in [0, 1], in the shape of the representation's coefficients.
        representation: of which the mask is.
        losses: (steps, B) each: `distortion`, `sparsity`, `spatial`, `variation`, without their factors.
    """

    explanation: Tensor
    images: Tensor
    mask: Tensor
    representation: Representation
    losses: dict[str, Tensor]


@dataclass(frozen=True)
class MaskExplanation:
    """A mask on coefficients that keeps a class's probability while most of the picture is replaced by noise.

    Minimises, for each image, `mean (t - p)^2 + sparsity mean|m| + spatial mean|S(m s)| + variation TV(m)` by projected
    Adam from m = 1. `s` are the coefficients, one mask shared by the colours; p is the class's softmax probability for
    the picture `S(m s + (1 - m) n)`, clipped to [0, 1], with noise n of each band's own mean and spread.

    Args:
        representation: of the picture, in which the mask lives.
        sparsity: factor lambda_1 of the mean mask.
        spatial: factor lambda_2 of the explanation's mean grey level.
        variation: factor of the mean squared difference between neighbours in the mask.
        steps: of Adam.
        lr: of Adam.
        samples: of noise for each image in a step, fresh in every step and seen by the model in one batch.
        noise: `uniform` within a standard deviation of the band's mean, `gaussian`, or `zeros`.
        colour_noise: a draw for each colour, with the statistics of all three; default one, with those of their mean.
        aim: t; `maximise` is 1, `keep` the probability of the clean image.
        legacy_clamp: clip coefficients, not the picture, to [0, 1], as the released code of ShearletX does. It takes
            away all negative ones; it also costs a synthesis for every colour of every sample.
        batch: most noisy pictures in one forward, as long as one image's samples fit.
        seed: of the noise, which is the same for every image of a batch.

    Raises:
        UsageError: a setting out of range; when called, a target that is no probability, or a picture that the
            representation cannot take.

    Examples:
        >>> found = MaskExplanation(ShearletTransform(3))(model.predictor(["cat", "dog"]), images)  # doctest: +SKIP
        >>> found.explanation.shape  # doctest: +SKIP
        torch.Size([8, 3, 128, 128])

    Paper: Explaining Image Classifiers with Multiscale Directional Image Representation (arXiv 2211.12857).
    """

    representation: Representation
    sparsity: float = 1.0
    spatial: float = 0.0
    variation: float = 0.0
    steps: int = 300
    lr: float = 0.1
    samples: int = 16
    noise: Noise = "uniform"
    colour_noise: bool = False
    aim: Literal["maximise", "keep"] = "maximise"
    legacy_clamp: bool = False
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sparsity", "spatial", "variation"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("steps", "samples", "batch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        check_number("lr", self.lr, above=0)
        check_choice("noise", self.noise, ("uniform", "gaussian", "zeros"))
        check_choice("aim", self.aim, ("maximise", "keep"))

    def __call__(self, model: Any, images: Any, target: Any = None) -> MaskAttribution:
        """Explain images.

        Args:
            model: a `Predictor`, a module from images to logits, or an `ImageTextModel`.
            images: one image or several of one size.
            target: for a classifier a class, one for each image, or None for the predicted one; for an image-text
                model `targets.probability(text, others=[...])`; or any target whose score is within [0, 1].
        """
        observer = Observer(model)
        given = observer.images(images)
        if given.shape[1] != 3:
            raise UsageError(f"a mask explanation needs three colours, not images of {tuple(given.shape)}")
        shown = given if observer.preprocess is None else observer.preprocess.fit(given)
        size, seen = (given.shape[-2], given.shape[-1]), (shown.shape[-2], shown.shape[-1])
        box = whole(size) if observer.preprocess is None else input_box(observer.preprocess, size)
        with observer.ready():
            clean = observer.run(shown, []).outputs.detach()
            score = chance(model, target, clean)
            value = score(clean).detach()
            aim = torch.ones_like(value) if self.aim == "maximise" else value
            parts = []
            for rows in torch.arange(len(shown), device=shown.device).split(self._together(seen)):

                def chances(outputs: Tensor, rows: Tensor = rows) -> Float[Tensor, "n b"]:
                    # Targets score whole batches: the other images stand in with their clean outputs.
                    many = outputs.unflatten(0, (-1, len(rows)))
                    return torch.stack([score(clean.index_copy(0, rows, part))[rows] for part in many])

                parts.append(self._optimise(observer, shown[rows], chances, aim[rows]))
        mask = torch.cat([part for part, _ in parts])
        losses = {name: torch.cat([history_of[name] for _, history_of in parts], dim=1) for name in parts[0][1]}
        coefficients = self.representation.analysis(shown)
        explanation = self.representation.synthesis(mask[:, None] * coefficients, seen).clamp(0, 1)
        pixels = isinstance(self.representation, PixelTransform)
        return MaskAttribution(
            layers=(mask if pixels else explanation.square().sum(dim=1),),
            boxes=(box,),
            size=size,
            value=value,
            method=type(self).__name__.lower(),
            finish="relu",
            explanation=explanation,
            images=shown,
            mask=mask,
            representation=self.representation,
            losses=losses,
        )

    def _together(self, size: tuple[int, int]) -> int:
        """How many images are optimised side by side."""
        held = sum(self.representation.bands(size)) * self.samples
        held *= 3 if self.colour_noise or self.legacy_clamp else 1
        return max(1, min(self.batch // self.samples, HELD // held))

    def _optimise(
        self, observer: Observer, images: Tensor, chances: Callable[[Tensor], Tensor], aim: Float[Tensor, "b"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The masks of some images, and their losses (steps, b)."""
        size = (images.shape[-2], images.shape[-1])
        coefficients = self.representation.analysis(images)
        mean, spread = self.statistics(coefficients, size)
        mask = torch.ones_like(coefficients[:, 0], requires_grad=True)
        if self.variation and mask.ndim < 3:
            raise UsageError("variation needs a mask with rows and columns; this representation's has none")
        optimizer = torch.optim.Adam([mask], lr=self.lr)
        generator = torch.Generator(images.device).manual_seed(self.seed)
        history: dict[str, list[Tensor]] = {name: [] for name in ("distortion", "sparsity", "spatial", "variation")}
        for _ in range(self.steps):
            noise = self._draw(coefficients, generator)
            noisy, kept = self._mixed(mask, coefficients, mean, spread, noise, size)
            seen = observer.run(noisy.detach().flatten(0, 1), [])
            distortion = (aim - chances(seen.outputs)).square() / self.samples
            (gradient,) = seen.grads(distortion.flatten(), ["input"])
            now = {
                "distortion": distortion.detach().sum(dim=0),
                "sparsity": mask.abs().flatten(1).mean(dim=1),
                "spatial": kept.mean(dim=1).clamp(0, 1).flatten(1).mean(dim=1),
                "variation": _variation(mask) if self.variation else torch.zeros_like(aim),
            }
            penalty = sum(getattr(self, name) * now[name].sum() for name in ("sparsity", "spatial", "variation"))
            optimizer.zero_grad()
            torch.autograd.backward(
                [torch.as_tensor(penalty), noisy], [None, gradient.permute(0, 3, 1, 2).reshape(noisy.shape)]
            )
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
            for name, loss in now.items():
                history[name].append(loss.detach())
        return mask.detach(), {name: torch.stack(values) for name, values in history.items()}

    def _mixed(
        self,
        mask: Tensor,
        coefficients: Float[Tensor, "b 3 ..."],
        mean: Float[Tensor, "b ..."],
        spread: Float[Tensor, "b ..."],
        noise: Float[Tensor, "n 1 c ..."],
        size: tuple[int, int],
    ) -> tuple[Float[Tensor, "n b 3 H W"], Float[Tensor, "b 3 H W"]]:
        """Pictures whose masked coefficients are noise, and what is left without it, unclipped.

        The synthesis is linear: what does not depend on the sample or on the colour is synthesised once, 4 + n pictures
        an image instead of 3 + 3n.
        """
        rest = 1 - mask
        synthesis = self.representation.synthesis
        masked = mask[:, None] * coefficients
        if self.legacy_clamp:
            mixed = masked + (rest * mean)[:, None] + (rest * spread)[:, None] * noise
            return synthesis(mixed.clamp(0, 1), size), synthesis(masked, size)
        still = synthesis(torch.cat([masked, (rest * mean)[:, None]], dim=1), size)
        kept, level = still[:, :3], still[:, 3:]
        moving = synthesis((rest * spread)[:, None] * noise, size)
        return (kept + level + moving).clamp(0, 1), kept

    def statistics(
        self, coefficients: Float[Tensor, "B 3 ..."], size: tuple[int, int]
    ) -> tuple[Float[Tensor, "B ..."], Float[Tensor, "B ..."]]:
        """Mean and standard deviation of the noise for each image and band, spread over the band's coefficients.

        Args:
            coefficients: of the three colours.
            size: (H, W) of the pictures.
        """
        shape, counts = coefficients.shape[2:], list(self.representation.bands(size))
        if not self.colour_noise:
            coefficients = coefficients.mean(dim=1, keepdim=True)
        pieces = coefficients.flatten(2).split(counts, dim=2)
        repeats = torch.tensor(counts, device=coefficients.device)
        means = torch.stack([piece.mean(dim=(1, 2)) for piece in pieces], dim=1)
        spreads = torch.stack([piece.std(dim=(1, 2), correction=0) for piece in pieces], dim=1)
        mean, spread = (maps.repeat_interleave(repeats, dim=1).unflatten(1, shape) for maps in (means, spreads))
        return (mean * 0, spread * 0) if self.noise == "zeros" else (mean, spread)

    def _draw(self, coefficients: Tensor, generator: torch.Generator) -> Float[Tensor, "n 1 c ..."]:
        """Noise of mean 0, within [-1, 1] or of variance 1, for all images of the batch."""
        shape = (self.samples, 1, 3 if self.colour_noise else 1, *coefficients.shape[2:])
        options: Any = {"generator": generator, "device": coefficients.device, "dtype": coefficients.dtype}
        if self.noise == "gaussian":
            return torch.randn(shape, **options)
        return torch.rand(shape, **options).mul_(2).sub_(1)


def chance(model: Any, target: Any, outputs: Float[Tensor, "B K"]) -> Score:
    """What a mask has to keep: a probability.

    Raises:
        UsageError: a single text for an image-text model, whose cosine is no probability.
    """
    if hasattr(target, "bind") or callable(target):
        return resolve(model, target, outputs)
    if is_image_text(model):
        raise UsageError(
            "a mask keeps a probability, and a single text has none: explain a class of a head or a classifier, or in "
            "code targets.probability(text, others=[...])"
        )
    return resolve(model, probability(target), outputs)


def _variation(mask: Float[Tensor, "b *k H W"]) -> Float[Tensor, "b"]:
    """Sum of squared differences between neighbours, divided by the mask's size."""
    down = (mask[..., 1:, :] - mask[..., :-1, :]).square().flatten(1).sum(dim=1)
    across = (mask[..., 1:] - mask[..., :-1]).square().flatten(1).sum(dim=1)
    return (down + across) / mask[0].numel()
