"""Attacks on distances between images: make what is nearer to a reference seem the farther one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_whole
from binderclip.robust.attack_loop import AttackResult, attack
from binderclip.robust.attacks.one_pixel import OnePixel
from binderclip.robust.attacks.spatial import SpatialAttack
from binderclip.robust.checks import FiniteGuard, check_finite, check_images
from binderclip.robust.feasible import Linf, per_image
from binderclip.robust.objectives import Objective
from binderclip.robust.steps import Sign
from binderclip.settings import check_choice

__all__ = ["RankFlip", "SimilarityAttack", "attack_similarity", "rank_flip_rate"]

Distance: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(reference, images), both (B, 3, H, W) in [0, 1], to (B,) distances, 0 for the same image."""
SimilarityMethod = Literal["pgd", "fgsm", "one-pixel", "spatial", "spatial+pgd"]
CHANGED = (0.0005, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05)
"""The paper's thresholds on changes, 0.001 to 0.1 of pixels in [-1, 1]."""


class RankFlip(Objective):
    """d / (d + s): how far an image with distance d from a reference is, beside another one with distance s.

    Success is d > s. The paper's code climbs (s / (s + d) - 1)^2, whose gradient has the same sign.

    Args:
        distance: (reference, images) to distances (B,); an `nn.Module` is frozen meanwhile.
        reference, other: one each an image.
        closer: the other way round: s / (s + d) is to grow, and success is d < s.

    Raises:
        UsageError: images of several shapes, outside [0, 1] or not finite, or distances that are not finite.

    Paper: Attacking Perceptual Similarity Metrics (arXiv 2305.08840).
    """

    def __init__(
        self,
        distance: Distance,
        reference: Float[Tensor, "B 3 H W"],
        other: Float[Tensor, "B 3 H W"],
        *,
        closer: bool = False,
    ) -> None:
        self.distance, self.reference, self.closer = distance, reference, closer
        self.networks = _networks(distance)
        _check_pictures(reference=reference, other=other)
        with torch.no_grad(), frozen(*self.networks):
            self.bound = _finite(distance(reference, other))

    def rows(self, index: Int[Tensor, "b"]) -> Objective:
        """Of these references and distances."""
        some = copy.copy(self)
        some.reference, some.bound = self.reference[index], self.bound[index]
        return some

    def judge(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B"], Bool[Tensor, "B"]]:
        """Values, and which ranks are flipped."""
        distances = self.distance(self.reference, images)
        FiniteGuard()("distances", distances)
        # The same image twice has no distance: neither is nearer.
        ratio = distances / (distances + self.bound).clamp(min=1e-12)
        return (1 - ratio, distances < self.bound) if self.closer else (ratio, distances > self.bound)


@dataclass(frozen=True)
class SimilarityAttack:
    """What an attack on a distance found.

    Attributes:
        images: attacked: the nearer one of each pair, or with `closer` the farther one.
        first: whether that was the first of the pair.
        flipped: whether the rank is flipped.
        flipped_8bit: whether it still is when the image is rounded to 8 bits.
        distance: of the attacked image, and `bound` of the other one.
        rmse: root mean squared change on the scale of 0 to 255.
        changed: share of pixel values that changed by more than each of `CHANGED`.
    """

    images: Float[Tensor, "B 3 H W"]
    first: Bool[Tensor, "B"]
    flipped: Bool[Tensor, "B"]
    flipped_8bit: Bool[Tensor, "B"]
    distance: Float[Tensor, "B"]
    bound: Float[Tensor, "B"]
    rmse: Float[Tensor, "B"]
    changed: Float[Tensor, "B T"]


def attack_similarity(
    distance: Distance,
    reference: Float[Tensor, "B 3 H W"],
    first: Float[Tensor, "B 3 H W"],
    second: Float[Tensor, "B 3 H W"],
    *,
    method: SimilarityMethod = "pgd",
    eps: float = 0.015,
    alpha: float = 0.0005,
    steps: int = 30,
    closer: bool = False,
    **options: Any,
) -> SimilarityAttack:
    """Attack the one of two images that is nearer to a reference until a distance takes it for the farther one.

    Args:
        distance: (reference, images) to distances (B,); of a similarity such as SSIM give 1 minus it. An `nn.Module` is
            in eval mode and frozen from the first ranking to the last.
        reference, first, second: images in [0, 1].
        method: `pgd`: sign steps from the image within `eps`, each image until its rank flips; `fgsm`: one sign step,
            the shortest of 20 up to `eps` that flips; `one-pixel`; `spatial`: a smooth flow; `spatial+pgd`: `pgd` from
            what `spatial` found, brought into the ball around the image (the paper's code leaves a flow that flips the
            rank as it is, and takes its first gradient outside the ball).
        eps, alpha: in pixels of [0, 1], half the paper's numbers, whose pixels are in [-1, 1].
        steps: of `pgd`; the paper has 20 after `spatial`.
        closer: attack the farther image instead, until it seems the nearer one (the paper: eps 0.05, 50 steps).
        options: of `OnePixel` or `SpatialAttack`.

    Raises:
        UsageError: an unknown method or option, a setting out of range, images of several shapes, outside [0, 1] or not
            finite, or distances that are not finite.

    Examples:
        >>> l2 = lambda reference, images: (images - reference).square().mean((1, 2, 3))
        >>> reference = torch.full((1, 3, 8, 8), 0.5)
        >>> found = attack_similarity(l2, reference, reference + 0.10, reference + 0.1102)
        >>> found.flipped, round(float(found.rmse), 2)
        (tensor([True]), 2.68)

    Paper: Attacking Perceptual Similarity Metrics (arXiv 2305.08840).
    """
    check_choice("method", method, get_args(SimilarityMethod))
    Linf(eps)
    Sign(alpha)
    check_whole("steps", steps, least=0)
    searches: dict[str, Any] = {"one-pixel": OnePixel, "spatial": SpatialAttack, "spatial+pgd": SpatialAttack}
    search = _made(searches.get(method), options, method)
    _check_pictures(reference=reference, first=first, second=second)
    with frozen(*_networks(distance)):
        with torch.no_grad():
            nearer = _finite(distance(reference, first)) < _finite(distance(reference, second))
        attacked = nearer if not closer else ~nearer
        prey = torch.where(per_image(attacked, first), first, second)
        other = torch.where(per_image(attacked, first), second, first)

        def objective_of(rows: Tensor) -> RankFlip:
            return RankFlip(distance, reference[rows], other[rows], closer=closer)

        whole = objective_of(torch.arange(len(prey)))
        adversarial: Tensor = prey if search is None else search(prey, objective_of).images
        if method == "fgsm":
            adversarial = _shortest(whole, prey, eps).images
        elif "pgd" in method:
            adversarial = _climbed(whole, prey, None if search is None else adversarial, eps, alpha, steps).images
        return _told(whole, adversarial, prey, attacked)


def _networks(distance: Distance) -> tuple[nn.Module, ...]:
    return (distance,) if isinstance(distance, nn.Module) else ()


def _check_pictures(**images: Tensor) -> None:
    """Images of one shape in [0, 1]."""
    for name, each in images.items():
        check_images(name, each)
    if len({each.shape for each in images.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in images.items())
        raise UsageError(f"{shapes} must be images of one shape")


def _finite(distances: Tensor) -> Tensor:
    check_finite("distances", distances)
    return distances


def _made(kind: Any, options: dict[str, Any], method: str) -> Any:
    """The search of a method, None where it has none."""
    if kind is None:
        if options:
            raise UsageError(f"method {method!r} has no option {next(iter(options))!r}")
        return None
    try:
        return kind(**options)
    except TypeError as error:
        raise UsageError(f"{kind.__name__}: {error}") from error


def _climbed(
    objective: RankFlip, prey: Tensor, start: Tensor | None, eps: float, alpha: float, steps: int
) -> AttackResult:
    return attack(
        objective, prey, param=Linf(eps), step=Sign(alpha), steps=steps, start="clean" if start is None else start,
        keep="first",
    )  # fmt: skip


def _shortest(objective: RankFlip, prey: Tensor, eps: float, count: int = 20) -> AttackResult:
    """One sign step of a growing length; every image keeps its first success."""
    shortest = None
    for length in torch.linspace(eps / count, eps, count).tolist():
        one = attack(objective, prey, param=Linf(length), step=Sign(length), steps=1, start="clean", keep="last")
        if shortest is None:
            shortest = one
            continue
        keep = shortest.success
        shortest = AttackResult(
            torch.where(per_image(keep, prey), shortest.images, one.images), one.perturbation,
            torch.where(keep, shortest.success, one.success), one.objective, one.queries, one.history,
        )  # fmt: skip
    assert shortest is not None
    return shortest


@torch.no_grad()
def _told(objective: RankFlip, images: Tensor, prey: Tensor, first: Tensor) -> SimilarityAttack:
    change = (images - prey).flatten(1)
    flipped = objective.judge(images)[1]
    rounded = objective.judge((images * 255).round() / 255)[1]
    distances = objective.distance(objective.reference, images)
    shares = torch.stack([(change.abs() > least).float().mean(1) for least in CHANGED], 1)
    rmse = 255 * change.square().mean(1).sqrt()
    return SimilarityAttack(images, first, flipped, rounded, distances, objective.bound, rmse, shares)


@torch.no_grad()
def rank_flip_rate(
    distance: Distance,
    reference: Float[Tensor, "B 3 H W"],
    clean: Float[Tensor, "B 3 H W"],
    attacked: Float[Tensor, "B 3 H W"],
    other: Float[Tensor, "B 3 H W"],
) -> float:
    """How often a distance changes its mind: of the pairs whose clean image it has nearer, the share of attacked ones
    that it has farther than the other image. Attacks on one distance are shown to others this way.

    Args:
        distance: as for `attack_similarity`; an `nn.Module` is in eval mode meanwhile.
        reference, clean, attacked, other: images in [0, 1].

    Returns:
        In [0, 1]; NaN where no clean image is nearer.

    Raises:
        UsageError: images of several shapes, outside [0, 1] or not finite, or distances that are not finite.

    Paper: Attacking Perceptual Similarity Metrics (arXiv 2305.08840).
    """
    _check_pictures(reference=reference, clean=clean, attacked=attacked, other=other)
    with frozen(*_networks(distance)):
        bound, near, far = (_finite(distance(reference, each)) for each in (other, clean, attacked))
    return float((far > bound)[near < bound].float().mean())
