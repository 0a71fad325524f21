"""How many groups go, and from where: the lowest scores of each layer, or of all layers together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["PruneBudget"]


@dataclass(frozen=True, kw_only=True)
class PruneBudget:
    """The groups with the lowest scores go.

    Args:
        amount: fraction of the groups that goes, in (0, 1); a count of groups, not of parameters.
        scope: `local` takes the fraction from each layer, `global` from all layers by one ranking.
        cap: with `global`, the largest fraction of one layer that may go, in (0, 1]; what it holds back is taken from
            nowhere else, as in HAP.
        at_least: groups that each layer keeps.

    Raises:
        UsageError: a setting out of range.
    """

    amount: float
    scope: Literal["local", "global"] = "local"
    cap: float = 0.95
    at_least: int = 1

    def __post_init__(self) -> None:
        check_number("amount", self.amount, above=0, below=1)
        check_choice("scope", self.scope, ("local", "global"))
        check_number("cap", self.cap, above=0, most=1)
        check_whole("at_least", self.at_least, least=0)

    def select(self, scores: Mapping[str, Float[Tensor, "G"]]) -> dict[str, Bool[Tensor, "G"]]:
        """What stays: layer's name -> True for groups that are kept. Of equal scores the first in order go first.

        Args:
            scores: layer's name -> score of each group.

        Raises:
            UsageError: no layer, or a score that is NaN or infinite.
        """
        check_scores(scores)
        if self.scope == "local":
            removed = {name: int(self.amount * len(own) + 1e-9) for name, own in scores.items()}
        else:
            everything = torch.cat([own.detach().double().cpu() for own in scores.values()])
            owner = torch.cat([torch.full((len(own),), i) for i, own in enumerate(scores.values())])
            lowest = everything.argsort(stable=True)[: int(self.amount * len(everything) + 1e-9)]
            counts = torch.bincount(owner[lowest], minlength=len(scores))
            removed = {
                name: min(int(count), int(self.cap * len(own) + 1e-9))
                for (name, own), count in zip(scores.items(), counts, strict=True)
            }
        return {name: _keep(own, min(removed[name], len(own) - self.at_least)) for name, own in scores.items()}


def check_scores(scores: Mapping[str, Tensor]) -> None:
    """Refuse an empty table of scores and one with a score that cannot be ranked.

    Raises:
        UsageError: names the layer.
    """
    if not scores:
        raise UsageError("there are no scores: name at least one layer")
    for name, own in scores.items():
        if not bool(torch.isfinite(own).all()):
            raise UsageError(f"a score of {name} is NaN or infinite")


def _keep(scores: Float[Tensor, "G"], removed: int) -> Bool[Tensor, "G"]:
    """All but the `removed` lowest."""
    keep = torch.ones(len(scores), dtype=torch.bool)
    keep[scores.detach().double().cpu().argsort(stable=True)[: max(removed, 0)]] = False
    return keep
