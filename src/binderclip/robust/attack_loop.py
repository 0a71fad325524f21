"""The one loop of all attacks: an objective, a feasible set, a step rule, a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_whole
from binderclip.robust.checks import AT_ONCE, FiniteGuard, check_finite, check_images
from binderclip.robust.feasible import Feasible, Start, per_image
from binderclip.robust.objectives import Objective
from binderclip.robust.steps import Step
from binderclip.settings import check_choice

Keep = Literal["best", "first", "last"]
LEVELS = 255


@dataclass(frozen=True)
class AttackResult:
    """What an attack found.

    Attributes:
        images: (B, *size), feasible.
        perturbation: images minus the clean ones.
        success: whether the aim is reached, recomputed on the images as returned.
        objective: (B,) value of the objective there.
        queries: forward passes of the attack, of all images or of those that were left.
        history: (evaluations, B) values along the way; of an image that is finished its last one.
    """

    images: Float[Tensor, "B *size"]
    perturbation: Float[Tensor, "B *size"]
    success: Bool[Tensor, "B"]
    objective: Float[Tensor, "B"]
    queries: int
    history: Float[Tensor, "S B"]


def attack(
    objective: Objective,
    images: Float[Tensor, "B *size"],
    *,
    param: Feasible,
    step: Step,
    steps: int,
    start: Start | Tensor = "random",
    success: Callable[[Tensor], Tensor] | None = None,
    keep: Keep = "best",
    quantize: bool = False,
    generator: torch.Generator | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> AttackResult:
    """Change images so that an objective grows.

    Networks of the objective are in eval mode with frozen weights meanwhile; everything is put back afterwards.

    Args:
        objective: what to make large.
        images: clean ones, inside the feasible set.
        param: what is varied and where it may go, such as `Linf(8 / 255)`.
        step: how it moves, such as `Sign(2 / 255)`.
        steps: how often; 0 returns the start.
        start: `"clean"`, `"random"`, or parameters of the set, which are projected.
        success: images to (B,) bools, where the objective's own idea of success will not do.
        keep: `"best"` returns for each image the best one seen, the clean one included: one that succeeds before one
            that does not, then by value; `"first"` the first one that succeeds, else the best: images that have
            succeeded are not looked at again (`Objective.rows`), and the attack stops when all have;
            `"last"` the end of the path, as attacks during training do.
        quantize: the result as an 8-bit file would keep it: perturbations are cut to whole grey levels towards zero,
            so it stays feasible, and success is judged on that.
        generator: of the random start; default one with seed 0.
        transform: of images before their gradient is taken, such as input diversity. Values and success are of the
            images themselves, which takes another forward pass a step, or of the transformed ones in the history of
            `keep="last"`.

    Raises:
        UsageError: a negative number of steps, an unknown `keep`, images outside the feasible set or not finite, or
            values or gradients of the objective that are not finite.
    """
    check_whole("steps", steps, least=0)
    check_choice("keep", keep, get_args(Keep))
    box = getattr(param, "box", None)
    check_images("images", images, box)
    clean = images.detach()
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    with frozen(*objective.networks, *getattr(param, "networks", ())):
        theta = _begin(param, clean, start, generator)
        path = _Path(objective, success, param, clean, keep, transform)
        if keep != "last" and (isinstance(start, Tensor) or start != "clean"):
            path.judge(clean)
        for _ in range(steps):
            if keep == "first" and path.queries and bool(path.best.success.all()):
                break
            theta = param.project(clean, step(theta, path.value_and_gradient).detach())
        result = path.judge(param.image(clean, theta))
        if keep != "last":
            result = path.best
        if quantize:
            result = path.judge(clean + whole_levels(result.images - clean))
    path.guard.settle()
    check_images("attacked images", result.images, box)
    changed = result.images - clean
    return AttackResult(result.images, changed, result.success, result.values, path.queries, torch.stack(path.history))


def _begin(param: Feasible, clean: Tensor, start: Start | Tensor, generator: torch.Generator) -> Tensor:
    """First parameters, feasible; those of a set that has no clean start are drawn, or given."""
    if isinstance(start, Tensor):
        check_finite("the parameters of start", start)
        return param.project(clean, start.detach())
    return param.init(clean, start, generator)


def whole_levels(perturbation: Float[Tensor, "*size"]) -> Float[Tensor, "*size"]:
    """A perturbation cut to multiples of 1/255 towards zero; 8/255 in floats may be a hair less than 8 levels."""
    return perturbation.sign() * (perturbation.abs() * LEVELS + 1e-3).floor() / LEVELS


@dataclass(frozen=True)
class _Judged:
    images: Tensor
    values: Tensor
    success: Tensor


@dataclass
class _Path:
    """Evaluates the objective, and remembers the best image of each sample whatever asked for it."""

    objective: Objective
    own: Callable[[Tensor], Tensor] | None
    param: Feasible
    clean: Tensor
    keep: Keep
    transform: Callable[[Tensor], Tensor] | None = None
    queries: int = 0
    history: list[Tensor] = field(default_factory=list)
    guard: FiniteGuard = field(default_factory=FiniteGuard)
    best: _Judged = field(init=False)

    def value_and_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Values and gradients at parameters; the SUM is differentiated, so that batches do not matter."""
        left = self._left(theta)
        if left is None:
            images, values, success, gradient = self._differentiated(self.objective, self.clean, theta)
            self._note(images, values, success)
            return values, gradient
        rows, objective = left
        result = self._differentiated(objective, self.clean[rows], theta[rows])
        images, values, success, gradient = (
            old.index_copy(0, rows, new)
            for old, new in zip(
                (self.best.images, self.history[-1], self.best.success, torch.zeros_like(theta)), result, strict=True
            )
        )
        self._note(images, values, success)
        return values, gradient

    def _left(self, theta: Tensor) -> tuple[Tensor, Objective] | None:
        """The rows that have not succeeded and their objective, where the others need not be looked at again."""
        if self.keep != "first" or not self.queries or self.own is not None or len(theta) != len(self.clean):
            return None
        rows = (~self.best.success).nonzero()[:, 0]
        objective = self.objective.rows(rows) if 0 < len(rows) < len(theta) else None
        return None if objective is None else (rows, objective)

    def _differentiated(
        self, objective: Objective, clean: Tensor, theta: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images, values, success and gradients of some rows."""
        leaf = theta.detach().requires_grad_()
        with torch.enable_grad():
            images = self.param.image(clean, leaf)
            values, success = objective.judge(images if self.transform is None else self.transform(images))
            if not values.requires_grad:
                raise UsageError("the objective has no gradient: its network detaches images or runs without one")
            (gradient,) = torch.autograd.grad(values, leaf, torch.ones_like(values))
        self.guard("gradients of the objective", gradient)
        images, values = images.detach(), values.detach()
        if self.transform is not None and self.keep != "last":
            self.queries += 1
            with torch.no_grad():
                values, success = objective.judge(images)
        return images, values, success, gradient

    @torch.no_grad()
    def judge(self, images: Tensor) -> _Judged:
        """Images judged without a gradient."""
        return self._note(images.detach(), *self.objective.judge(images.detach()))

    def _note(self, images: Tensor, values: Tensor, success: Tensor) -> _Judged:
        self.guard("values of the objective", values)
        self.queries += 1
        self.history.append(values)
        if self.own is not None:
            with torch.no_grad():
                success = self.own(images)
        seen = _Judged(images, values, success)
        if self.keep != "last":
            self.best = seen if len(self.history) == 1 else self._better(seen)
        return seen

    def _better(self, seen: _Judged) -> _Judged:
        """Of each sample the better one of the best so far and what was seen now."""
        old = self.best
        better = (seen.success & ~old.success) | ((seen.success == old.success) & (seen.values > old.values))
        if self.keep == "first":
            better = better & ~old.success
        if better.device.type in AT_ONCE:  # most steps of most attacks are better for all, or for none
            if bool(better.all()):
                return seen
            if not bool(better.any()):
                return old
        return _Judged(
            torch.where(per_image(better, seen.images), seen.images, old.images),
            torch.where(better, seen.values, old.values),
            torch.where(better, seen.success, old.success),
        )
