"""Hessian-aware pruning: curvature times size ranks groups, and cheap implants stand in for the more sensitive ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.compress.weights.budgets import PruneBudget
from binderclip.compress.weights.groups import PruneGroups
from binderclip.compress.weights.removal import RemovedGroups, remove
from binderclip.compress.weights.scores import scored_members
from binderclip.errors import NotSupported, UsageError
from binderclip.landscape import hessian_diagonal
from binderclip.models.image_text.encoder import PictureModel
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["HessianTraceScore", "NeuralImplant", "implant_channels"]


@dataclass(frozen=True, kw_only=True)
class HessianTraceScore:
    """What the loss gains if a group goes, to second order: Tr(H_pp) ||w_p||^2 / n_p.

    H_pp is the Hessian in the n_p weights w_p of group p. At a minimum the loss rises by 0.5 w_p' H_pp w_p, and the
    trace stands for H_pp (twice the rise, exactly so where H_pp is a multiple of the identity). The trace keeps its
    sign. All groups share the draws of Hutchinson's estimator (`landscape.hessian_diagonal`).

    Args:
        loss: the scalar loss of one fixed batch with its graph; the network in evaluation mode.
        probes: draws; the paper takes 300 on CIFAR.
        seed: of the draws.

    Raises:
        UsageError: no probe.

    Paper: Yu et al., "Hessian-Aware Pruning and Optimal Neural Implant", arXiv 2101.08940. Its released code ranks
    layers that a residual sum ties one by one and keeps the union; here they are one group, scored together.
    """

    loss: Callable[[], Float[Tensor, ""]]
    probes: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("probes", self.probes, least=1)
        check_whole("seed", self.seed, least=0)

    def __call__(self, model: nn.Module, groups: Sequence[PruneGroups]) -> dict[str, Float[Tensor, "G"]]:
        """Layer's name -> score of each group.

        Raises:
            UsageError: a loss without a graph, or a score that is NaN or infinite.
        """
        members = {one.name: scored_members(one) for one in groups}
        tensors = list({id(m.tensor): m.tensor for own in members.values() for m in own}.values())
        trains = [tensor.requires_grad for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.requires_grad_(True)
            diagonal = hessian_diagonal(self.loss, tensors, probes=self.probes, seed=self.seed)
        finally:
            for tensor, before in zip(tensors, trains, strict=True):
                tensor.requires_grad_(before)
        curvature = {id(tensor): entry for tensor, entry in zip(tensors, diagonal, strict=True)}
        scores = {}
        for name, own in members.items():
            rows = [m.by_group().detach().double() for m in own]
            traces = [m.by_group(curvature[id(m.tensor)]).double().sum(1) for m in own]
            square = torch.stack([row.square().sum(1) for row in rows]).sum(0)
            scores[name] = torch.stack(traces).sum(0) * square / sum(row.shape[1] for row in rows)
            if not bool(scores[name].isfinite().all()):
                raise UsageError(f"a score of {name} is NaN or infinite: look at the loss")
        return scores


class NeuralImplant(nn.Module):
    """A convolution or linear layer some of whose outputs come from a cheap trainable stand-in.

    The others are computed as before, and all stand where they stood. Of a convolution the stand-in is one of 1 x 1,
    with the same stride, without bias, at zero; of a linear layer two factors, through R = max(1, inputs / 8) numbers.

    Args:
        layer: whose weights of the outputs that stay are taken over.
        implanted: (outputs,) True for outputs that are replaced.
        init: `zero`: they start at zero, which is what cutting them gives; `svd` (linear layers alone): at the best
            approximation of rank R of the rows that they replace.

    Raises:
        UsageError: a mask of another length, or one that replaces no output or all; an unknown `init`, or `svd` for a
            convolution.
        NotSupported: a convolution in groups, or one whose padding gives another size than a 1 x 1 kernel's.

    Paper: see `HessianTraceScore`.
    """

    order: Tensor

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, implanted: Bool[Tensor, "C"], *, init: Literal["zero", "svd"] = "zero"
    ) -> None:
        super().__init__()
        check_choice("init", init, ("zero", "svd"))
        outputs, count = layer.weight.shape[0], int(implanted.sum())
        if implanted.dtype != torch.bool or tuple(implanted.shape) != (outputs,) or not 0 < count < outputs:
            raise UsageError(f"implanted must be {outputs} truth values, some True and some False")
        implanted = implanted.to(layer.weight.device)
        weight = layer.weight.detach()
        factory: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        bias = None if layer.bias is None else layer.bias.detach()[~implanted]
        if isinstance(layer, nn.Conv2d):
            _check_convolution(layer, init)
            shape: dict[str, Any] = {"kernel_size": layer.kernel_size, "stride": layer.stride}
            shape |= {"padding": layer.padding, "dilation": layer.dilation}
            self.dense: nn.Module = nn.Conv2d(
                layer.in_channels, outputs - count, bias=bias is not None, **shape, **factory
            )
            steps: dict[str, Any] = {"stride": layer.stride}
            self.implant: nn.Module = nn.Conv2d(layer.in_channels, count, 1, **steps, bias=False, **factory)
            nn.init.zeros_(self.implant.weight)  # type: ignore[arg-type]
        else:
            self.dense = nn.Linear(layer.in_features, outputs - count, bias=bias is not None, **factory)
            self.implant = _factors(weight[implanted], init)
        with torch.no_grad():
            self.dense.weight.copy_(weight[~implanted])  # type: ignore[operator, union-attr]
            if bias is not None:
                self.dense.bias.copy_(bias)  # type: ignore[operator, union-attr]
        self.axis = 1 if isinstance(layer, nn.Conv2d) else -1
        places = torch.cat([torch.nonzero(~implanted).flatten(), torch.nonzero(implanted).flatten()])
        self.register_buffer("order", places.argsort())

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        return torch.cat([self.dense(x), self.implant(x)], self.axis).index_select(self.axis, self.order)


def _check_convolution(layer: nn.Conv2d, init: str) -> None:
    if init == "svd":
        raise UsageError("init='svd' is for linear layers: a 1 x 1 kernel starts at zero")
    padding = layer.padding if isinstance(layer.padding, tuple) else ()
    same = all(2 * p == d * (k - 1) for p, d, k in zip(padding, layer.dilation, layer.kernel_size, strict=False))
    # exact type: a subclass may pad in a way of its own
    if type(layer) is not nn.Conv2d or layer.groups > 1 or not padding or not same or layer.padding_mode != "zeros":
        raise NotSupported(
            f"an implant of 1 x 1 would not give what {layer} gives: it takes dense convolutions padded by half of "
            "their kernel"
        )


def _factors(rows: Float[Tensor, "r D"], init: str) -> nn.Sequential:
    """x -> (x V') U' with U V = rows as well as rank R allows, or U = 0."""
    inputs, rank = rows.shape[1], max(1, rows.shape[1] // 8)
    first, second = (
        nn.Linear(a, b, bias=False, device=rows.device, dtype=rows.dtype)
        for a, b in ((inputs, rank), (rank, len(rows)))
    )
    with torch.no_grad():
        nn.init.zeros_(second.weight)
        if init == "svd":
            left, values, right = torch.linalg.svd(rows, full_matrices=False)
            kept = min(rank, len(values))
            first.weight[:kept] = right[:kept]
            second.weight[:, :kept] = left[:, :kept] * values[:kept]
    return nn.Sequential(first, second)


def implant_channels(
    network: nn.Module,
    groups: Sequence[PruneGroups],
    scores: Mapping[str, Float[Tensor, "G"]],
    *,
    amount: float,
    implants: float = 0.1,
    cap: float = 0.95,
) -> RemovedGroups:
    """Cut the channels with the lowest scores from a network, and replace the more sensitive of them by implants.

    By one ranking of all channels, `amount` of them go; of these the fraction `implants` with the largest scores is
    not cut but computed by `NeuralImplant`. An implanted channel starts at zero: without a norm behind it the network
    is, before it is tuned, the one without the channel. A batch norm stays as it was and makes a constant of it, as in
    the released code, for at zero behind a ReLU nothing would ever reach the implant. Channels of layers that an
    implant would not make cheaper (1 x 1 kernels, depthwise ones) are cut. After fine-tuning bring the statistics of
    the norms up to date (`torch.optim.swa_utils.update_bn`).

    Args:
        network: any module that is no model of ours: convolutional, see `channel_groups`.
        groups: its channels.
        scores: of `HessianTraceScore` or another score.
        amount: fraction of the channels, in (0, 1); a count of channels, not of parameters.
        implants: fraction of these, in [0, 1].
        cap: largest fraction of one layer that goes, in (0, 1].

    Raises:
        UsageError: a number out of range, scores that do not fit the groups, or groups that are no channels.
        NotSupported: a `PictureModel`, whose folder has no place for implants.

    Paper: see `HessianTraceScore`.
    """
    check_number("implants", implants, least=0, most=1)
    if isinstance(network, PictureModel):
        raise NotSupported(f"{type(network).__name__} cannot be saved with implants: pass a plain module")
    if {one.name for one in groups} != set(scores) or any(one.kind != "channel" for one in groups):
        raise UsageError("scores must be those of the groups, and the groups channels")
    keep = PruneBudget(amount=amount, scope="global", cap=cap).select(scores)
    chosen = _chosen(scores, keep, implants)
    with torch.no_grad():
        plans = [(one, chosen[one.name] & ~keep[one.name]) for one in groups if _pays(one)]
        for one, replaced in plans:
            keep[one.name] = keep[one.name] | replaced
        names = {module: name for name, module in network.named_modules()}
        report = remove(network, groups, keep)
        for one, replaced in plans:
            if bool(replaced.any()):
                _implant(network, one, replaced[keep[one.name]], names)
    return report


def _chosen(
    scores: Mapping[str, Tensor], keep: Mapping[str, Bool[Tensor, "G"]], implants: float
) -> dict[str, Bool[Tensor, "G"]]:
    """Of all groups that go, the most sensitive ones."""
    gone = torch.cat([~mask for mask in keep.values()])
    flat = torch.cat([scores[name].detach().double().cpu() for name in keep]).masked_fill(~gone, -torch.inf)
    top = flat.argsort(descending=True, stable=True)[: int(implants * int(gone.sum()) + 1e-9)]
    marked = torch.zeros_like(gone)
    marked[top] = True
    return dict(zip(keep, marked.split([len(mask) for mask in keep.values()]), strict=True))


def _pays(groups: PruneGroups) -> bool:
    """Whether all that produces these channels are kernels larger than 1 x 1 in dense convolutions."""
    makers = {m.module for m in groups.of_role("write")}
    return all(isinstance(m, nn.Conv2d) and m.groups == 1 and m.weight[0, 0].numel() > 1 for m in makers)


def _implant(network: nn.Module, groups: PruneGroups, replaced: Bool[Tensor, "C"], names: Mapping[Any, str]) -> None:
    for layer in {m.module for m in groups.of_role("write")}:
        parent, _, name = names[layer].rpartition(".")
        setattr(network.get_submodule(parent), name, NeuralImplant(layer, replaced))  # type: ignore[arg-type]
