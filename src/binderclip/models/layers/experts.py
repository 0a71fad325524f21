"""Mixture-of-experts layers, and a trained dense model made into a sparse one (sparse upcycling)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.padding import words_inside

if TYPE_CHECKING:
    from binderclip.models.image_text.model import ImageTextModel

__all__ = ["MoEMLP", "Routed", "active_parameters", "upcycle", "upcycle_backbone"]

SIDES = ("image", "text")


@dataclass(frozen=True)
class Routed:
    """What a router did in its last pass in training mode.

    Attributes:
        logits: (n, E) of the n tokens that were routed, float32, with their graph.
        load: (E,) share of first choices that each expert got.
        dropped: share of choices that met a full expert.
    """

    logits: Float[Tensor, "n E"]
    load: Float[Tensor, "E"]
    dropped: Float[Tensor, ""]

    @property
    def entropy(self) -> float:
        """Of the load over ln E: 1 where all experts are used alike, 0 where one has everything."""
        return float(torch.special.entr(self.load).sum() / math.log(len(self.load)))


class MoEMLP(nn.Module):
    """Several copies of an MLP of which each token uses the `top_k` that a linear router prefers.

    y = sum over chosen experts of g_e E_e(x), g the router's probabilities, scaled to sum 1: with equal experts the
    output is that of one of them, whatever the router says. In training an expert takes at most
    ceil(capacity top_k n / E) of the n tokens that came in together, first choices before second ones and in the order
    of the batch; what is over gets nothing from it. In evaluation nothing is dropped, so that an embedding does not
    depend on what else is in the batch.

    Args:
        mlp: copied into each expert.
        experts: E.
        top_k: experts a token.
        capacity: factor of the capacity in training; None drops nothing.
        router_std: deviation of the router's weights at the start.
        normalize_gates: scale the gates of a token to sum 1.
        width: of the tokens; default that of the MLP's first matrix.
        generator: of the router's weights.

    Raises:
        UsageError: fewer than two experts, a `top_k` outside 1..E, or a capacity that is not positive.

    Paper: CLIP-UP: A Simple and Efficient Mixture-of-Experts CLIP Training Recipe with Sparse Upcycling, arXiv
    2502.00965; Sparse Upcycling, arXiv 2212.05055.
    """

    def __init__(
        self,
        mlp: nn.Module,
        experts: int = 8,
        top_k: int = 2,
        *,
        capacity: float | None = 2.0,
        router_std: float = 0.02,
        normalize_gates: bool = True,
        width: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if experts < 2 or not 1 <= top_k <= experts:
            raise UsageError(f"experts must be at least 2 and top_k in 1..experts, got {experts} and {top_k}")
        if capacity is not None and not capacity > 0:
            raise UsageError(f"capacity must be positive, got {capacity}")
        first = next(p for p in mlp.parameters() if p.ndim == 2)
        self.experts = nn.ModuleList([copy.deepcopy(mlp) for _ in range(experts)])
        self.router = nn.Linear(first.shape[1] if width is None else width, experts, bias=False)
        with torch.no_grad():
            start = torch.randn(self.router.weight.shape, generator=generator) * router_std
            self.router.weight.copy_(start)
        self.router.to(first.device)
        self.top_k, self.capacity, self.normalize_gates = top_k, capacity, normalize_gates
        self.last: Routed | None = None

    def extra_repr(self) -> str:
        return f"top_k={self.top_k}, capacity={self.capacity}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "last": None}  # its graph cannot be copied

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch O"]:
        """The mixture for every token; zeros for padding."""
        flat, words = x.reshape(-1, x.shape[-1]), words_inside()  # (n, D)
        # Without values there is no telling which words are padding: all are counted.
        if words is None or words.shape != x.shape[:-1] or words.is_meta or x.is_meta:
            mixed = self._mixed(flat)
            return mixed.reshape(*x.shape[:-1], mixed.shape[1])
        rows = words.reshape(-1).to(x.device).nonzero().flatten()
        mixed = self._mixed(flat[rows])
        whole = mixed.new_zeros(len(flat), mixed.shape[1]).index_copy(0, rows, mixed)
        return whole.reshape(*x.shape[:-1], mixed.shape[1])

    def _mixed(self, x: Float[Tensor, "n D"]) -> Float[Tensor, "n O"]:
        with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.router.weight.float())  # (n, E); half precision is unstable here
            gates, chosen = logits.softmax(1).topk(self.top_k, dim=1)  # (n, K)
        if self.normalize_gates:
            gates = gates / gates.sum(1, keepdim=True)
        flat_gates, flat_chosen = gates.T.reshape(-1), chosen.T.reshape(-1)  # (K n): first choices come first
        kept = self._within_capacity(flat_chosen, len(x))
        if self.training:
            load = F.one_hot(chosen[:, 0], len(self.experts)).float().mean(0)
            self.last = Routed(logits, load, 1 - kept.float().mean())
        out: Tensor | None = None
        for number, expert in enumerate(self.experts):
            picked = self._share(number, flat_chosen) if x.is_meta else ((flat_chosen == number) & kept).nonzero()[:, 0]
            rows = picked % max(len(x), 1)
            output = expert(x[rows])  # an expert without tokens still has a gradient, of zeros
            weighted = output * flat_gates[picked, None].to(output.dtype)
            out = output.new_zeros(len(x), output.shape[1]) if out is None else out
            out = out.index_add(0, rows, weighted)
        assert out is not None
        return out

    def _share(self, number: int, chosen: Tensor) -> Tensor:
        """Rows of an expert where there are no values to choose by: as many for each, for counting operations."""
        first, last = (len(chosen) * part // len(self.experts) for part in (number, number + 1))
        return torch.empty(last - first, dtype=torch.long, device=chosen.device)

    def _within_capacity(self, chosen: Tensor, tokens: int) -> Bool[Tensor, "Kn"]:
        if self.capacity is None or not self.training:
            return torch.ones_like(chosen, dtype=torch.bool)
        most = math.ceil(self.capacity * self.top_k * tokens / len(self.experts))
        taken = F.one_hot(chosen, len(self.experts))  # (K n, E)
        return (taken.cumsum(0) * taken).sum(1) <= most


def upcycle(
    model: ImageTextModel,
    *,
    experts: int = 8,
    top_k: int = 2,
    every: int = 2,
    towers: Sequence[str] = SIDES,
    capacity: float | None = 2.0,
    router_std: float = 0.02,
    seed: int = 0,
) -> ImageTextModel:
    """A copy of a trained model in which the MLP of every second block is a mixture of experts that start as copies.

    At first it computes what the model does, up to rounding. `save` writes an ordinary model folder, which `load`
    opens; open_clip alone cannot. Train it on with `losses.RouterLosses` beside the contrastive loss.

    Args:
        model: of open_clip, or a bundled one.
        experts, top_k, capacity, router_std: of each `MoEMLP`.
        every: one block in so many, from the `every`-th on.
        towers: "image", "text" or both.
        seed: of the routers.

    Raises:
        UsageError: a wrong setting, or a model that has experts already.
        NotSupported: a model or tower without such blocks.

    Paper: CLIP-UP: A Simple and Efficient Mixture-of-Experts CLIP Training Recipe with Sparse Upcycling, arXiv
    2502.00965 (8 experts, 2 a token, alternate blocks of both towers).
    """
    refuse_bare_module(model, "upcycle")
    if model.kind != "open_clip" or "model_cfg" not in model.config:
        raise NotSupported(f"upcycling takes models of open_clip, and {model.name} is one of {model.kind}")
    if "experts" in model.config["model_cfg"]:
        raise UsageError(f"{model.name} has experts already")
    settings = {
        "experts": experts,
        "top_k": top_k,
        "every": every,
        "towers": list(towers),
        "capacity": capacity,
        "router_std": router_std,
        "seed": seed,
    }
    other = copy.deepcopy(model)
    upcycle_backbone(other.backbone, settings)
    other._cache = {}
    other.config["model_cfg"]["experts"] = settings
    other.history.append(f"upcycled: {experts} experts, {top_k} a token, one block in {every} of {', '.join(towers)}")
    return other


def upcycle_backbone(backbone: nn.Module, settings: Mapping[str, Any]) -> None:
    """Put the expert layers into an open_clip model, in place.

    Args:
        backbone: the model.
        settings: the entry `experts` of a model configuration: the arguments of `upcycle`.

    Raises:
        UsageError: a wrong setting.
        NotSupported: a tower without such blocks.
    """
    options = dict(settings)
    every, towers, seed = options.pop("every", 2), options.pop("towers", SIDES), options.pop("seed", 0)
    known = {"experts", "top_k", "capacity", "router_std"}
    if unknown := sorted(set(options) - known):
        raise UsageError(f"experts has no entry {unknown[0]!r}: {', '.join(sorted(known))}, every, towers, seed")
    if not towers or not set(towers) <= set(SIDES) or not isinstance(every, int) or every < 2:
        raise UsageError(f"towers must name image or text, every be at least 2; got {list(towers)} and {every}")
    generator = torch.Generator().manual_seed(seed)
    for side in SIDES:
        if side not in towers:
            continue
        blocks = _blocks(backbone, side)
        for place in range(every - 1, len(blocks), every):
            mlp = blocks[place].mlp
            blocks[place].mlp = MoEMLP(mlp, generator=generator, **options)  # type: ignore[arg-type]
            blocks[place].mlp.train(blocks[place].training)


def _blocks(backbone: Any, side: str) -> list[Any]:
    """The transformer blocks of a tower of open_clip or timm."""
    tower = backbone.visual if side == "image" else getattr(backbone, "text", backbone)
    for path in ("trunk.blocks", "transformer.resblocks"):
        module: Any = tower
        for name in path.split("."):
            module = getattr(module, name, None)
        if module is not None and len(module) and all(isinstance(getattr(b, "mlp", None), nn.Module) for b in module):
            return list(module)
    raise NotSupported(f"upcycling: the {side} tower {type(tower).__name__} has no transformer blocks with an MLP")


def active_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters that one token uses, and all of them: of E experts a token uses `top_k`."""
    total = sum(p.numel() for p in model.parameters())
    idle = 0
    for layer in model.modules():
        if isinstance(layer, MoEMLP):
            one = sum(p.numel() for p in layer.experts[0].parameters())
            idle += (len(layer.experts) - layer.top_k) * one
    return total - idle, total
