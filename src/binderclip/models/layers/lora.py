"""Low-rank adapters (LoRA) on the attention of both towers, seen alike by the library's forward and by the towers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.numeric import check_number

if TYPE_CHECKING:
    from binderclip.models.image_text.encoder import PictureModel

TARGETS = ("q", "k", "v", "out")
TOWERS = ("image", "text")
Blocks = int | Sequence[int] | None


class LowRank(nn.Module):
    """W -> W + scaling * B A on some rows of one weight matrix; a torch parametrization.

    Args:
        weight: (O, I), whose device and width the factors follow; they are float32 whatever it is.
        spans: (start, stop) rows of each adapted map, one map after the other where a matrix packs several.
        r: rank.
        scaling: factor on the product.
        dropout: share of the I inputs that the low-rank term does not see in a training pass.
        generator: of A.
    """

    def __init__(
        self,
        weight: Float[Tensor, "O I"],
        spans: Sequence[tuple[int, int]],
        r: int,
        scaling: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        rows, width = spans[0][1] - spans[0][0], weight.shape[1]
        self.spans, self.scaling, self.dropout = tuple(spans), scaling, dropout
        # Kaiming's uniform with a = sqrt(5), as LoRA and torch's Linear begin; B = 0: at first nothing changes.
        place = None if generator is None else generator.device
        bound = 1 / math.sqrt(width)
        start = torch.rand(len(spans), r, width, generator=generator, device=place) * 2 * bound - bound
        self.A = nn.Parameter(start.to(weight.device))
        self.B = nn.Parameter(torch.zeros(len(spans), rows, r, device=weight.device))

    def delta(self) -> Float[Tensor, "T R I"]:
        """scaling * B A of each map."""
        a: Tensor = self.A
        if self.training and self.dropout:
            a = a * F.dropout(a.new_ones(len(a), 1, a.shape[-1]), self.dropout)
        return self.scaling * torch.bmm(self.B, a)

    def forward(self, weight: Float[Tensor, "O I"]) -> Float[Tensor, "O I"]:
        """The adapted matrix."""
        delta = self.delta().to(weight.dtype)
        if len(self.spans) * delta.shape[1] == len(weight):
            return weight + delta.flatten(0, 1)
        parts, done = [], 0
        for (start, stop), change in zip(self.spans, delta, strict=True):
            parts += [weight[done:start], weight[start:stop] + change]
            done = stop
        return torch.cat([*parts, weight[done:]])


class LoRA(nn.Module):
    """The adapters that `lora_` put on a model; a context manager that takes them off again.

    `parameters()` are the factors A and B alone; `state_dict()` and `load_state_dict()` carry them as plain tensors,
    named by tower, block and weight. `train()` and `eval()` switch the dropout, whatever the model's own mode.

    Attributes:
        adapters: name -> `LowRank`.
        attached: whether the model has them now.
    """

    def __init__(self, model: PictureModel, places: dict[str, tuple[Any, str, LowRank]], about: str) -> None:
        refuse_bare_module(model, "LoRA")
        super().__init__()
        self.adapters = nn.ModuleDict({name: adapter for name, (_, _, adapter) in places.items()})
        # Not submodules: the model is not the adapters' to train or save.
        self._model = [model]
        self._places = [(owner, name, adapter) for owner, name, adapter in places.values()]
        self._about = about
        self._orders: dict[tuple[int, str], list[str]] = {}
        self.attached = False
        self.attach()

    def attach(self) -> LoRA:
        """Put the adapters on (again).

        Raises:
            UsageError: one of the weights has an adapter already.
        """
        if self.attached:
            return self
        for owner, name, _ in self._places:
            if parametrize.is_parametrized(owner, name):
                raise UsageError(f"{type(owner).__name__}.{name} has an adapter already: merge or remove that first")
        for owner, name, adapter in self._places:
            self._orders[id(owner), name] = list(owner._parameters)
            parametrize.register_parametrization(owner, name, adapter)
        self.attached = True
        return self

    def remove(self) -> None:
        """Take the adapters off; the model's weights are, to the bit, what they were."""
        for owner, name, _ in reversed(self._places) if self.attached else ():
            parametrize.remove_parametrizations(owner, name, leave_parametrized=False)
            # torch puts the weight back behind its bias; who reads parameters in order shall see no difference.
            rest = [key for key in self._orders[id(owner), name] if key in owner._parameters]
            owner._parameters = {key: owner._parameters[key] for key in rest}
        self.attached = False

    @torch.no_grad()
    def merge(self) -> None:
        """Add the products to the model's weights for good and take the adapters off; noted in `model.history`."""
        if not self.attached:
            raise UsageError("these adapters are not on the model: attach() first")
        training = self.training
        self.eval()
        changes = [adapter(getattr(owner.parametrizations, name).original) for owner, name, adapter in self._places]
        self.remove()
        for (owner, name, _), value in zip(self._places, changes, strict=True):
            getattr(owner, name).copy_(value)
        self.train(training)
        self._model[0].history.append(self._about)

    def vector(self) -> Float[Tensor, "K"]:
        """All factors in one vector, in a fixed order; a detached copy on the CPU."""
        return torch.cat([p.detach().flatten() for p in self.parameters()]).cpu()

    @torch.no_grad()
    def load_vector(self, vector: Float[Tensor, "K"]) -> LoRA:
        """Take over what `vector` gave.

        Raises:
            UsageError: another length: other settings or another model.
        """
        own = list(self.parameters())
        size = sum(p.numel() for p in own)
        if vector.numel() != size:
            raise UsageError(f"these adapters have {size} numbers, the vector {vector.numel()}: other settings?")
        for parameter, part in zip(own, vector.split([p.numel() for p in own]), strict=True):
            parameter.copy_(part.view_as(parameter))
        return self

    def __enter__(self) -> LoRA:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.remove()


def lora_(
    model: PictureModel,
    r: int = 2,
    *,
    lora_alpha: float = 1.0,
    lora_dropout: float = 0.0,
    target_modules: Sequence[str] = ("q", "k", "v"),
    towers: Sequence[str] = TOWERS,
    blocks: Blocks = None,
    use_rslora: bool = False,
    generator: torch.Generator | None = None,
) -> LoRA:
    """Put low-rank adapters on the attention of a model: W' = W + scaling * B A, A and B the only trained part.

    The names are PEFT's. The model's own forward (`encode_image`, `encode_text`) and its towers both see the adapted
    weights, also where one matrix packs query, key and value: each gets its own two factors. B begins as zero, so at
    first nothing changes. The model's own weights still ask for gradients: put `models.layers.freezing.frozen(model)`
    around.

    Args:
        model: changed in place, until the result is removed.
        r: rank.
        lora_alpha: scaling = lora_alpha / r, or lora_alpha / sqrt(r) with `use_rslora`.
        lora_dropout: share of inputs that the low-rank term does not see. Not PEFT's dropout, which draws for every
            entry of every token: the term is added to the weight here, so an input channel is dropped for all tokens
            and pictures of a forward pass, and steps vary more. (On a packed matrix PEFT refuses dropout.)
        target_modules: of `q`, `k`, `v`, `out`.
        towers: of `image`, `text`.
        blocks: None: all; n: the last n of each tower; or indices. What stands before the first adapted block can be
            computed once (`first_block`).
        use_rslora: see `lora_alpha`.
        generator: of the draw of A.

    Returns:
        The adapters: `with lora_(model) as lora:` takes them off at the end; `lora.merge()` keeps them for good.

    Raises:
        UsageError: a wrong argument, or a weight that has an adapter already.
        NotSupported: a tower that cannot be opened.

    Paper: LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685); Low-Rank Few-Shot Adaptation of
    Vision-Language Models (arXiv 2405.18541).

    Examples:
        >>> with frozen(model), lora_(model, r=2) as lora:  # doctest: +SKIP
        ...     optimizer = torch.optim.AdamW(lora.parameters(), 2e-4)
        ...     model.encode_image(images)
        ...     lora.merge()
    """
    refuse_bare_module(model, "lora_")
    check_number("r", r, least=1)
    check_number("lora_dropout", lora_dropout, least=0, below=1)
    targets = _chosen("target_modules", target_modules, TARGETS)
    chosen = _chosen("towers", towers, TOWERS)
    scaling = lora_alpha / (math.sqrt(r) if use_rslora else r)
    places: dict[str, tuple[Any, str, LowRank]] = {}
    for side in chosen:
        tower = getattr(model, f"{side}_tower")
        for index in adapted_blocks(blocks, tower.depth, side):
            for label, owner, name, spans in _weights(tower.blocks[index].projections(), targets):
                if parametrize.is_parametrized(owner, name):
                    raise UsageError(f"{side} block {index} has an adapter already: merge or remove that first")
                adapter = LowRank(getattr(owner, name), spans, r, scaling, lora_dropout, generator)
                places[f"{side}_{index}_{label}"] = (owner, name, adapter)
    about = f"lora r={r} alpha={lora_alpha:g} on {'+'.join(targets)} of {'+'.join(chosen)}, {len(places)} weights"
    return LoRA(model, places, about)


def adapted_blocks(blocks: Blocks, depth: int, side: str = "tower") -> list[int]:
    """Indices of the blocks that `blocks` means in a tower so deep, in order.

    Raises:
        UsageError: none, or one that the tower has not.
    """
    if blocks is None:
        return list(range(depth))
    if isinstance(blocks, int):
        if not 1 <= blocks <= depth:
            raise UsageError(f"blocks={blocks}: the {side} tower has {depth} blocks; give 1..{depth}, indices, or None")
        return list(range(depth - blocks, depth))
    chosen = sorted({b + depth if b < 0 else b for b in blocks})
    if not chosen or not 0 <= chosen[0] <= chosen[-1] < depth:
        raise UsageError(f"blocks={list(blocks)}: indices must be in 0..{depth - 1} for the {side} tower, at least one")
    return chosen


def first_block(model: PictureModel, side: str, *, towers: Sequence[str] = TOWERS, blocks: Blocks = None) -> int:
    """Index of the first adapted block of a tower; what stands before it stays as it is. Its depth if none is."""
    tower = getattr(model, f"{side}_tower")
    return adapted_blocks(blocks, tower.depth, side)[0] if side in towers else tower.depth


def _weights(projections: Any, targets: Sequence[str]) -> Iterator[tuple[str, Any, str, list[tuple[int, int]]]]:
    """Label, owner, name and spans of every weight that holds a target."""
    weights: dict[tuple[int, str], tuple[str, Any, str, list[tuple[int, int]]]] = {}
    for target, (owner, name, start, stop) in projections.items():
        if target in targets:
            key = (id(owner), name)
            label, _, _, spans = weights.get(key, ("", owner, name, []))
            weights[key] = (label + target, owner, name, [*spans, (start, stop)])
    yield from weights.values()


def _chosen(name: str, values: Sequence[str], known: Sequence[str]) -> list[str]:
    chosen = [values] if isinstance(values, str) else list(values)
    if not chosen or not set(chosen) <= set(known):
        raise UsageError(f"{name} must be one or more of {', '.join(known)}, got {list(values)!r}")
    return [value for value in known if value in chosen]
