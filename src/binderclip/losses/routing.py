"""Losses that keep the experts of a sparse model in use, and their routers' logits small."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.contrastive.embeddings import Embeddings
from binderclip.models import MoEMLP

__all__ = ["RouterLosses", "load_balance", "router_z"]


def load_balance(logits: Float[Tensor, "n E"]) -> Float[Tensor, ""]:
    """E sum_e f_e P_e: f_e the share of tokens whose first choice is e (no gradient), P_e the mean probability of e.

    1 where experts are used alike, up to E where one has everything. Some libraries count all top-K choices instead of
    the first, so that theirs is K at best.

    Args:
        logits: of the router, one row a token.

    Raises:
        UsageError: no token, or another shape.

    Paper: Switch Transformers, arXiv 2101.03961, as CLIP-UP (arXiv 2502.00965) uses it.
    """
    experts = _checked(logits)
    used = F.one_hot(logits.argmax(1), experts).to(logits.dtype).mean(0)
    return experts * (used * logits.softmax(1).mean(0)).sum()


def router_z(logits: Float[Tensor, "n E"]) -> Float[Tensor, ""]:
    """Mean squared logsumexp of the router's logits, which keeps them where a softmax is stable.

    Args:
        logits: of the router, one row a token.

    Raises:
        UsageError: no token, or another shape.

    Paper: ST-MoE, arXiv 2202.08906, as CLIP-UP (arXiv 2502.00965) uses it.
    """
    _checked(logits)
    return logits.logsumexp(1).square().mean()


def _checked(logits: Tensor) -> int:
    """Number of experts.

    Raises:
        UsageError: not one row of logits a token, or no token.
    """
    if logits.ndim != 2 or not logits.numel():
        raise UsageError(f"logits must be (tokens, experts), at least one of each, got {tuple(logits.shape)}")
    return logits.shape[1]


class RouterLosses(nn.Module):
    """A term of `ContrastiveLoss`: both losses of a model's routers in the pass that gave the embeddings.

    The mean over the expert layers. Tokens of this process alone are counted, so with several processes the values
    differ and the averaged gradient is that of their mean.

    Args:
        model: with `MoEMLP` layers (`models.upcycle`), in training mode.
        balance, z: weights of `load_balance` and `router_z`.

    Raises:
        UsageError: a model without such layers; at the call, one that was not run in training mode, or whose routers
            should learn and ran without a graph, as in the pieces of `contrastive_step(micro_batch=)`.

    Examples:
        >>> from binderclip import load
        >>> from binderclip.losses import RouterLosses, clip
        >>> from binderclip.models import upcycle
        >>> sparse = upcycle(load("small"), experts=4).train()
        >>> loss = clip(terms=[RouterLosses(sparse)])
        >>> output = loss(sparse.encode_image(torch.rand(2, 3, 64, 64)), sparse.encode_text(["a cat", "a dog"]))
        >>> sorted(output.terms)
        ['contrastive', 'router']
    """

    name = "router"

    def __init__(self, model: nn.Module, *, balance: float = 0.01, z: float = 0.001) -> None:
        super().__init__()
        self.weight, self.balance, self.z = 1.0, balance, z
        # no submodules: they belong to the model
        self.layers = tuple(layer for layer in model.modules() if isinstance(layer, MoEMLP))
        if not self.layers:
            raise UsageError("the model has no expert layers: make some with models.upcycle(model)")

    def extra_repr(self) -> str:
        return f"balance={self.balance}, z={self.z}, layers={len(self.layers)}"

    def forward(self, embeddings: Embeddings) -> Float[Tensor, ""]:
        """The weighted sum, mean over the layers."""
        logits = [layer.last for layer in self.layers if layer.last is not None]
        if len(logits) < len(self.layers):
            raise UsageError("an expert layer has not been run in training mode: call model.train() and encode both")
        if torch.is_grad_enabled() and any(
            layer.router.weight.requires_grad and not routed.logits.requires_grad
            for layer, routed in zip(self.layers, logits, strict=True)
        ):
            raise UsageError(
                "the routers ran without a graph, so that their losses would have no gradient: call contrastive_step "
                "without micro_batch"
            )
        values = [self.balance * load_balance(r.logits) + self.z * router_z(r.logits) for r in logits]
        return torch.stack(values).mean()
