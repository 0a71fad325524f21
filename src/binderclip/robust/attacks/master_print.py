"""One image that a model takes for the best picture of many unrelated texts at once (CLIPMasterPrints)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_fields, check_number
from binderclip.robust.attack_loop import LEVELS, attack
from binderclip.robust.attacks.black_box import Evolution
from binderclip.robust.checks import check_finite, check_images, class_indices
from binderclip.robust.feasible import Free, Latent, Linf
from binderclip.robust.objectives import MinSimilarity
from binderclip.robust.steps import Adam, Sign
from binderclip.settings import check_choice

__all__ = ["MasterPrint", "MasterPrintAttack", "master_print_win_rate"]

Search = Literal["adam", "pgd", "latent", "cma-es"]
STEPS = {"adam": 1000, "pgd": 1000, "latent": 50_000, "cma-es": 18_000}
RATES = {"adam": 0.1, "pgd": 1 / LEVELS, "latent": 5e-5}


@dataclass(frozen=True)
class MasterPrint:
    """A master print.

    Attributes:
        image: (3, H, W), rounded to 8 bits.
        similarities: (M, K) of that image to each text, by each model.
        value: the objective there.
        history: of the objective, one value an evaluation or generation.
    """

    image: Float[Tensor, "3 H W"]
    similarities: Float[Tensor, "M K"]
    value: float
    history: Float[Tensor, "S"]


@dataclass(frozen=True)
class MasterPrintAttack:
    """Search one image whose least similarity to many texts is as large as can be.

    Args:
        models: one image-text model, or several, which the image is to fool all.
        texts: the captions.
        search: `adam` on free pixels from noise; `pgd` near a photograph; `latent` by Adam on a decoder's latent;
            `cma-es` on it without gradients.
        steps: default the paper's: 1,000 on pixels, 50,000 and 18,000 on latents.
        alpha: rate of Adam, or step of `pgd`; default the paper's 0.1, one grey level, and 5e-5.
        eps: radius of `pgd` in the maximum norm.
        decode, latent: a decoder of latents (B, *latent) to images in [0, 1], and the size of one; for `latent`, and
            for `cma-es`, where a latent without a decoder is the image.
        size: (h, w) of the image of `adam`; default the first model's.
        aggregate: of the similarities, `min` or `mean`.
        sigma, population: of CMA-ES.
        seed: of the start and of all draws.

    Call it, for `pgd` with the photograph (3, H, W) in [0, 1].

    Raises:
        UsageError: an unknown search, a decoder or photograph that is missing, or a setting out of range; when called,
            a photograph or pictures of the decoder outside [0, 1] or not finite, or similarities that are not finite.

    Examples:
        >>> found = MasterPrintAttack(load("small"), ["a cat", "a car"], steps=300)()  # doctest: +SKIP
        >>> found.similarities.min()  # doctest: +SKIP

    Paper: Fooling Contrastive Language-Image Pre-trained Models with CLIPMasterPrints (arXiv 2307.03798).
    """

    models: Any
    texts: Sequence[str]
    search: Search = "adam"
    steps: int | None = None
    alpha: float | None = None
    eps: float = 15 / LEVELS
    decode: Callable[[Tensor], Tensor] | None = None
    latent: tuple[int, ...] | None = None
    size: tuple[int, int] | None = None
    aggregate: Literal["min", "mean"] = "min"
    sigma: float = 1.0
    population: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("alpha", "sigma"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0)
        Linf(self.eps)
        check_choice("search", self.search, get_args(Search))
        if self.search == "latent" and self.decode is None:
            raise UsageError("search='latent' needs decode, from latents to images")
        if self.search in ("latent", "cma-es") and self.latent is None:
            raise UsageError(f"search={self.search!r} needs latent, the size of one")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps must be at least 1, not {self.steps}")

    def __call__(self, image: Float[Tensor, "3 H W"] | None = None) -> MasterPrint:
        """The image that was found."""
        objective = MinSimilarity(self.models, self.texts, aggregate=self.aggregate)
        steps = self.steps or STEPS[self.search]
        if self.search == "cma-es":
            assert self.latent is not None
            evolution = Evolution(
                self.latent, self.decode, sigma=self.sigma, population=self.population, seed=self.seed
            )  # fmt: skip
            for _ in range(steps):
                evolution.step(objective)
            assert evolution.image is not None
            return _print(objective, evolution.image, torch.tensor(evolution.history))
        result = attack(
            objective, self._clean(objective, image)[None], param=self._param(), step=self._step(), steps=steps,
            start="clean" if self.search == "pgd" else "random", quantize=self.search == "pgd",
            generator=torch.Generator().manual_seed(self.seed),
        )  # fmt: skip
        return _print(objective, result.images[0], result.history[:, 0])

    def _clean(self, objective: MinSimilarity, image: Tensor | None) -> Tensor:
        """What the search begins near, or an image of the right shape."""
        if self.search == "pgd":
            if image is None or image.ndim != 3:
                raise UsageError("search='pgd' begins at a photograph (3, H, W): call the attack with one")
            check_images("the photograph", image, shape="(3, H, W)")
            # Whole grey levels around whole grey levels: rounding the result then changes nothing.
            return _rounded(image)
        first = objective.models[0]
        if self.search == "latent":
            assert self.decode is not None
            assert self.latent is not None
            decoder = [self.decode] if isinstance(self.decode, nn.Module) else []
            with torch.no_grad(), frozen(*decoder):
                return torch.zeros_like(self.decode(torch.zeros(1, *self.latent, device=first.device))[0])
        return torch.zeros(3, *(self.size or first.preprocess.size), device=first.device)

    def _param(self) -> Free | Latent | Linf:
        if self.search == "pgd":
            return Linf(self.eps)
        if self.search == "latent":
            assert self.decode is not None
            assert self.latent is not None
            return Latent(self.decode, self.latent)
        return Free()

    def _step(self) -> Adam | Sign:
        alpha = RATES[self.search] if self.alpha is None else self.alpha
        return Sign(alpha) if self.search == "pgd" else Adam(alpha)


def _print(objective: MinSimilarity, image: Tensor, history: Tensor) -> MasterPrint:
    kept = _rounded(image.detach())
    with torch.no_grad(), frozen(*(each for each in objective.networks if isinstance(each, nn.Module))):
        similarities = objective.similarities(kept[None])[0]
        value = float(objective(kept[None])[0])
    return MasterPrint(kept, similarities, value, history)


def master_print_win_rate(
    image: Float[Tensor, "d"],
    genuine: Float[Tensor, "N d"],
    texts: Float[Tensor, "K d"],
    labels: Int[Tensor, "N"],
) -> float:
    """Share of genuine images that are less similar to their own text than the master print is; a tie is no win.

    Args:
        image: embedding of the master print.
        genuine: embeddings of genuine images.
        texts: embeddings of the texts.
        labels: the text of each genuine image.

    Raises:
        UsageError: no image, a label without a text, or embeddings that are not finite.

    Paper: Fooling Contrastive Language-Image Pre-trained Models with CLIPMasterPrints (arXiv 2307.03798).
    """
    for name, each in (("image", image), ("genuine", genuine), ("texts", texts)):
        check_finite(f"embeddings of {name}", each)
    labels = class_indices(labels)
    if not len(genuine) or len(labels) != len(genuine) or int(labels.min()) < 0 or int(labels.max()) >= len(texts):
        raise UsageError(
            f"{number_of(len(genuine), 'genuine image')} with labels of "
            f"{number_of(len(texts), 'text')}: nothing to compare"
        )
    unit = [F.normalize(each.double(), dim=-1) for each in (image, genuine, texts)]
    own = (unit[1] * unit[2][labels]).sum(1)
    return float((unit[2][labels] @ unit[0] > own).double().mean())


def _rounded(image: Float[Tensor, "3 H W"]) -> Float[Tensor, "3 H W"]:
    """To 8 bits."""
    return (image * LEVELS).round() / LEVELS
