"""SAM that takes its second pass now and then, and SAM that also narrows the gap to the worst near point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from binderclip.numeric import check_number, check_whole
from binderclip.optim.optimizers.sam import SAM
from binderclip.optim.perturbation import common_norm
from binderclip.settings import check_choice

__all__ = ["GSAM", "LookSAM"]


class LookSAM(SAM):
    """SAM whose second pass is taken at every k-th step; between, the part of it that bends the way is used again.

    At a k-th step it descends by SAM's gradient and keeps g_v, the part of it orthogonal to the gradient g at the
    weights. At the others it descends by `g + alpha |g| / |g_v| g_v`. A step costs 1 + 1/k forward and backward passes.

    In a loop of one's own the second pass is due where `second_pass_due` says so; `step(closure)`, `fit` and Lightning
    see to it.

    Args:
        params, base_optimizer, rho, adaptive, eta, module, options: see `SAM`; 0.1 is the usual radius.
        k: steps between second passes; 5 in the paper. 1 is SAM.
        alpha: weight of the part that is used again.
        granularity: what lengths and inner products are over: `global`, all parameters together as in the paper's
            algorithm, or each `tensor`, as in the usual ports.

    Raises:
        UsageError: as `SAM`; k below 1, a negative alpha, or an unknown granularity.

    Paper: Liu et al., Towards Efficient and Scalable Sharpness-Aware Minimization (arXiv 2203.02714).
    """

    keeps_gradient = True

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., Optimizer] = torch.optim.SGD,
        *,
        k: int = 5,
        alpha: float = 0.7,
        granularity: Literal["global", "tensor"] = "global",
        rho: float = 0.1,
        **options: Any,
    ) -> None:
        check_whole("k", k, least=1)
        check_number("alpha", alpha, least=0)
        check_choice("granularity", granularity, ("global", "tensor"))
        super().__init__(params, base_optimizer, rho=rho, **options)
        self.k, self.alpha, self.granularity = k, float(alpha), granularity
        self._found: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            group.setdefault("steps_taken", 0)

    @property
    def second_pass_due(self) -> bool:
        """Whether this is a k-th step."""
        return self.param_groups[0]["steps_taken"] % self.k == 0

    def adjust(self, here: Mapping[Tensor, Tensor]) -> None:
        """Keep g_v at a k-th step, and add it at the others."""
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.second_pass_due:
            params = [p for p in params if p in here]
            for block in self._blocks(params):
                for p, part in zip(block, _orthogonal(_gradients(block), [here[p] for p in block]), strict=True):
                    # Several batches of a step each add their own.
                    self._found[p] = self._found[p] + part if p in self._found else part
            return
        for block in self._blocks([p for p in params if "orthogonal_gradient" in self.state.get(p, {})]):
            grads, kept = _gradients(block), [self.state[p]["orthogonal_gradient"] for p in block]
            factor = self.alpha * common_norm(grads) / common_norm(kept).clamp_min(1e-12)
            for grad, part in zip(grads, kept, strict=True):
                grad.add_(part * factor.to(part))

    def _blocks(self, params: list[Tensor]) -> list[list[Tensor]]:
        if self.granularity == "tensor":
            return [[p] for p in params]
        return [params] if params else []

    def _descend(self) -> Any:
        result = super()._descend()
        # Only now: an optimizer takes a parameter whose state is not empty for one that it has met before.
        for p, part in self._found.items():
            self.state[p]["orthogonal_gradient"] = torch.where(part.isfinite().all(), part, torch.zeros_like(part))
        self._found = {}
        for group in self.param_groups:
            group["steps_taken"] += 1
        return result


class GSAM(SAM):
    """SAM that also narrows the gap between the loss at the worst near point and the loss at the weights.

    It descends by `g' - alpha g_v`: g' is the gradient at the worst near point, g_v the part of the gradient at the
    weights that is orthogonal to g'. That leaves the fall of the worst loss as it is, and lowers the gap.

    Args:
        params, base_optimizer, rho, adaptive, eta, module, options: see `SAM`.
        alpha: weight of the gap; 0 is SAM, 0.4 the released code's.
        rho_min: where given, the radius falls with the learning rate, from `rho` at the group's `initial_lr` to this at
            0; `fit` and torch's schedules set `initial_lr`.

    Raises:
        UsageError: as `SAM`; a negative alpha, or `rho_min` outside 0 to `rho`.

    Paper: Zhuang et al., Surrogate Gap Minimization Improves Sharpness-Aware Training (arXiv 2203.08065).
    """

    keeps_gradient = True

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., Optimizer] = torch.optim.SGD,
        *,
        alpha: float = 0.4,
        rho_min: float | None = None,
        rho: float = 0.05,
        **options: Any,
    ) -> None:
        check_number("alpha", alpha, least=0)
        super().__init__(params, base_optimizer, rho=rho, **options)
        if rho_min is not None:
            check_number("rho_min", rho_min, least=0, most=rho)
        self.alpha, self.rho_min = float(alpha), rho_min

    def radius(self, group: dict[str, Any]) -> float:
        """`rho`, or as far above `rho_min` as the learning rate is above 0."""
        first = group.get("initial_lr", group["lr"])
        if self.rho_min is None or first == 0:
            return group["rho"]
        return self.rho_min + (group["rho"] - self.rho_min) * float(group["lr"]) / float(first)

    def adjust(self, here: Mapping[Tensor, Tensor]) -> None:
        """g' - alpha g_v."""
        params = [p for p in here if p.grad is not None]
        if params:
            near = _gradients(params)
            for grad, part in zip(near, _orthogonal([here[p] for p in params], near), strict=True):
                grad.sub_(part, alpha=self.alpha)


def _gradients(params: Sequence[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _orthogonal(vectors: Sequence[Tensor], axes: Sequence[Tensor]) -> list[Tensor]:
    """The part of a vector that is orthogonal to an axis, both over several tensors: v - <v, a> / |a|^2 a."""
    length = common_norm(axes)
    # Divided by the length first, so that squares of tiny gradients do not underflow.
    units = [a / length.clamp_min(torch.finfo(length.dtype).tiny).to(a) for a in axes]
    products = [(v * u).sum() for v, u in zip(vectors, units, strict=True)]
    along = torch.stack([part.to(products[0]) for part in products]).sum()
    return [v - along.to(v) * u for v, u in zip(vectors, units, strict=True)]
