"""Pictures from a model's embeddings alone: the weights of an implicit image move until its embedding is the target."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.draw.optimisation import ImageOptimisation, OptimisedImage
from binderclip.generate.draw.parametrisation import Parametrisation
from binderclip.generate.draw.transforms import warp_homography
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.numeric import check_number, check_whole
from binderclip.similarity.procrustes import procrustes_align

__all__ = ["CLIPInversion", "ColourShear", "InversionTarget", "MeanEmbeddingDistance"]


class InversionTarget(NamedTuple):
    """What a picture's embedding is moved to.

    Attributes:
        embedding: of unit length: the prompt's, rotated to where pictures are.
        blend: of unit length: the mean of similar real pictures' embeddings, by the similarity of their captions.
        neighbours: numbers of the bank's pairs that made both, the most similar first.
    """

    embedding: Float[Tensor, "E"]
    blend: Float[Tensor, "E"]
    neighbours: list[int]


class MeanEmbeddingDistance:
    """One less the cosine of the views' mean embedding with targets, weighted: an objective of `ImageOptimisation`.

    Embeddings are averaged and not their distances, so views may disagree as long as their mean is right.

    Args:
        model: embeds; its weights do not change.
        targets: rows of unit length.
        weights: of each target.
    """

    def __init__(self, model: ImageTextModel, targets: Float[Tensor, "T E"], weights: Sequence[float]) -> None:
        refuse_bare_module(model, "MeanEmbeddingDistance")
        self.model, self.targets = model, targets
        self.weights = targets.new_tensor(list(weights))
        self.networks = (model,)

    def embedding(self, images: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "E"]:
        """The mean of the views' unit embeddings, of unit length."""
        return F.normalize(F.normalize(self.model.encode_image(images), dim=-1).mean(0), dim=0)

    def __call__(self, images: Float[Tensor, "N 3 h w"]) -> Float[Tensor, ""]:
        """The weighted sum over targets."""
        return (self.weights * (1 - self.targets @ self.embedding(images))).sum()


@dataclass(frozen=True)
class ColourShear:
    """Random views of a picture: colours, size and shear.

    Args:
        count: views of each picture.
        colour: contrast and brightness of each channel change by up to this, in [0, 1].
        scale: (least, most) of a view's side, in the picture's; beyond 1 the border is `fill`.
        shear: x moves by up to this times y, and y by up to this times x.
        fill: value beyond the picture: 1, white.

    Raises:
        UsageError: a setting out of range.

    Paper: Implicit Inversion turns CLIP into a Decoder (arXiv 2505.23161); the ranges are ours.

    Examples:
        >>> views = ColourShear(4)(torch.rand(1, 3, 16, 16), torch.Generator().manual_seed(0))
        >>> views.shape, bool((views >= 0).all() and (views <= 1).all())
        (torch.Size([4, 3, 16, 16]), True)
    """

    count: int = 16
    colour: float = 0.1
    scale: tuple[float, float] = (0.8, 1.1)
    shear: float = 0.2
    fill: float = 1.0

    def __post_init__(self) -> None:
        check_whole("count", self.count, least=1)
        for name in ("colour", "shear", "fill"):
            check_number(name, getattr(self, name), least=0, most=1)
        check_number("scale", self.scale[0], above=0, most=10)
        check_number("scale", self.scale[1], least=self.scale[0], most=10)

    def __call__(self, images: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "N 3 H W"]:
        """The views, N = B * count; those of picture b are rows b, B + b, ..."""
        n = len(images) * self.count
        u = torch.rand(n, 3, generator=generator)
        signed = 2 * torch.rand(n, 2, 3, 1, 1, generator=generator) - 1
        size = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0]
        slant = self.shear * (2 * u[:, 1:] - 1)
        matrix = torch.eye(3).repeat(n, 1, 1)
        matrix[:, 0, 0] = matrix[:, 1, 1] = size
        matrix[:, 0, 1], matrix[:, 1, 0] = size * slant[:, 0], size * slant[:, 1]
        views = warp_homography(images.repeat(self.count, 1, 1, 1), matrix.to(images), self.fill)
        contrast, brightness = (self.colour * signed).to(images).unbind(1)  # [N, 3, 1, 1]
        return ((views - 0.5) * (1 + contrast) + 0.5 + brightness).clamp(0, 1)


class CLIPInversion:
    """Makes pictures of prompts with a contrastive model and no decoder.

    A bank of pairs says where pictures of similar captions lie: the rotation that takes the nearest captions to their
    pictures takes the prompt to its target, and their mean is a second target. The bank must not hold what is judged.

    Args:
        model: embeds; its weights do not change.
        texts, images: features of the bank's captions and of their pictures, pair by pair.
        neighbours: pairs that a prompt is compared with; the bank's size at most.
        align: whether the prompt's embedding is rotated to where pictures are (`procrustes_align`).
        rho: of the rotation.
        blend: weight of the second target; the first one has 1.
        temperature: of the softmax over cosines of captions, which weights the neighbours' pictures.
        transforms: views whose embeddings are averaged; default `ColourShear()`, None for the picture itself.

    Raises:
        UsageError: features that are no pairs of the model's width or not finite, or a setting out of range.

    Paper: Implicit Inversion turns CLIP into a Decoder (arXiv 2505.23161). Neighbours, temperature, weight and views
    are ours where the paper gives none.
    """

    def __init__(
        self,
        model: ImageTextModel,
        texts: Float[Tensor, "N E"],
        images: Float[Tensor, "N E"],
        *,
        neighbours: int = 64,
        align: bool = True,
        rho: float = 1e-2,
        blend: float = 0.2,
        temperature: float = 0.1,
        transforms: ColourShear | None = ColourShear(),
    ) -> None:
        refuse_bare_module(model, "CLIPInversion")
        shapes = tuple(texts.shape), tuple(images.shape)
        if texts.ndim != 2 or shapes[0] != shapes[1] or not len(texts) or texts.shape[1] != model.embed_dim:
            raise UsageError(f"texts and images must be pairs of features (N, {model.embed_dim}), got {shapes}")
        if not bool((texts.isfinite() & images.isfinite()).all()):
            raise UsageError("texts and images must be finite")
        check_whole("neighbours", neighbours, least=1)
        check_number("rho", rho, least=0)
        check_number("blend", blend, least=0)
        check_number("temperature", temperature, above=0)
        self.model, self.align, self.rho, self.blend = model, align, rho, blend
        self.texts, self.images = (F.normalize(rows.detach().to(model.device), dim=-1) for rows in (texts, images))
        self.neighbours, self.temperature, self.transforms = min(neighbours, len(texts)), temperature, transforms

    @torch.no_grad()
    def target(self, prompt: str | Float[Tensor, "E"]) -> InversionTarget:
        """Where the embedding of a prompt's picture should lie.

        Args:
            prompt: words, or the features of words.

        Raises:
            UsageError: an empty prompt, or features of another width or that are not finite.
        """
        query = self._features(prompt)
        order = (self.texts @ query).argsort(descending=True, stable=True)[: self.neighbours]
        texts, images = self.texts[order], self.images[order]
        weights = (texts @ query / self.temperature).softmax(0)
        embedding = procrustes_align(texts, images, self.rho) @ query if self.align else query
        return InversionTarget(F.normalize(embedding, dim=0), F.normalize(weights @ images, dim=0), order.tolist())

    def objective(self, target: InversionTarget) -> MeanEmbeddingDistance:
        """`(1 - cos(e, embedding)) + blend (1 - cos(e, blend))` for the mean embedding e of the views."""
        return MeanEmbeddingDistance(self.model, torch.stack((target.embedding, target.blend)), (1.0, self.blend))

    def run(
        self,
        target: str | Float[Tensor, "E"] | InversionTarget,
        param: Parametrisation,
        *,
        steps: int = 400,
        seed: int = 0,
        **settings: Any,
    ) -> OptimisedImage:
        """The picture of a prompt.

        Args:
            target: a prompt or its features; or what `target` gave, or one of your own: the embedding of a picture
                reconstructs it, that plus the difference of two captions edits it.
            param: where to start from, and how the picture is given; it is copied. `robust_fit` to the picture of the
                nearest neighbour is the paper's start.
            steps: of the optimizer; 40 are the paper's quick setting.
            seed: of the views.
            settings: of `ImageOptimisation`, such as `optimizer` and `callbacks`.

        Raises:
            UsageError: as `target` and `ImageOptimisation` do.
        """
        given = target if isinstance(target, InversionTarget) else self.target(target)
        run = ImageOptimisation(
            copy.deepcopy(param), {"distance": self.objective(given)}, transforms=self.transforms, seed=seed, **settings
        )
        return run.run(steps)

    def _features(self, prompt: str | Tensor) -> Float[Tensor, "E"]:
        """Of unit length."""
        if isinstance(prompt, str):
            if not prompt.strip():
                raise UsageError("the prompt is empty")
            prompt = self.model.encode_text([prompt])[0]
        norm = float(prompt.norm())
        if prompt.shape != (self.model.embed_dim,) or not math.isfinite(norm) or norm == 0:
            raise UsageError(
                f"a prompt's features must be finite, ({self.model.embed_dim},), got {tuple(prompt.shape)}"
            )
        return F.normalize(prompt.to(self.texts), dim=0)
