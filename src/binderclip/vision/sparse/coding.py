"""Sparse coding: patches as sums of few columns of a dictionary, and the dictionary learned from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice
from binderclip.vision.sparse.penalties import PENALTIES, Convention, Penalty, penalty_value, prox

__all__ = ["SparseCodes", "SparseCoding"]


@dataclass(frozen=True)
class SparseCodes:
    """Codes of patches.

    Attributes:
        codes: r, one row a patch.
        iterations: that they took.
        converged: whether they moved less than the tolerance at the end.
    """

    codes: Float[Tensor, "B K"]
    iterations: int
    converged: bool

    @property
    def active(self) -> float:
        """Fraction of the entries that are not zero."""
        return float((self.codes != 0).double().mean())


class SparseCoding:
    """Codes of least energy ||I - r Phi^T||^2 / 2 + lam sum pen(r), by proximal gradient steps from zero.

    Args:
        features: N, the pixels of a patch.
        units: K, the columns of the dictionary Phi, each of length 1.
        penalty: `l1`, `l0`, `lhalf` or `cel0`; see `prox`. Those beyond l1 shrink large coefficients less or not at
            all, so that fewer of them reach the same error.
        lam: weight of the penalty.
        step: of the gradient; at most 1 / |Phi|^2 in the spectral norm, beyond which the energy need not fall. None
            takes 0.99 of that. The paper's code has 0.01.
        tolerance: codes have settled where a step moves them by less than this fraction of their length.
        iterations: at most.
        convention: see `prox`.
        seed: of the first dictionary.

    Raises:
        UsageError: an unknown penalty, or a setting out of range.

    Examples:
        >>> patches = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
        >>> model = SparseCoding(16, 32, "l0", lam=0.2).fit([patches] * 5)
        >>> coded = model.encode(patches)
        >>> model.decode(coded.codes).shape, coded.active < 0.5
        (torch.Size([50, 16]), True)

    Paper: Beyond l1 sparse coding in V1 (arXiv 2301.10002).
    """

    dictionary: Float[Tensor, "N K"]

    def __init__(
        self,
        features: int,
        units: int,
        penalty: Penalty = "l1",
        *,
        lam: float = 5e-3,
        step: float | None = None,
        tolerance: float = 1e-2,
        iterations: int = 5000,
        convention: Convention = "canonical",
        seed: int = 0,
    ) -> None:
        check_whole("features", features, least=1)
        check_whole("units", units, least=1)
        check_choice("penalty", penalty, PENALTIES)
        check_choice("convention", convention, ("canonical", "paper_code"))
        check_number("lam", lam, least=0)
        check_number("tolerance", tolerance, above=0)
        check_whole("iterations", iterations, least=1)
        if step is not None:
            check_number("step", step, above=0, below=1)
        self.penalty, self.lam, self.step, self.convention = penalty, lam, step, convention
        self.tolerance, self.iterations = tolerance, iterations
        generator = torch.Generator().manual_seed(seed)
        self.dictionary = F.normalize(torch.randn(features, units, generator=generator), dim=0)

    @torch.no_grad()
    def encode(self, patches: Float[Tensor, "B N"]) -> SparseCodes:
        """Codes of patches under the dictionary as it is.

        Raises:
            UsageError: patches of another size, none, ones that are not finite, or a step that is too long.
        """
        phi = self._dictionary_for(patches)
        step = self._step_for(phi)
        # r Phi^T Phi instead of (r Phi^T) Phi: one product a step where there are no more units than pixels
        gram, target = phi.T @ phi, patches @ phi  # (K, K), (B, K)
        codes = torch.zeros_like(target)
        for count in range(1, self.iterations + 1):
            moved = self._stepped(codes, gram, target, step)
            change, codes = moved - codes, moved
            if bool(change.norm() < self.tolerance * (1e-8 + codes.norm())) or not bool(codes.any()):
                return SparseCodes(codes, count, True)
        return SparseCodes(codes, self.iterations, False)

    def decode(self, codes: Float[Tensor, "B K"]) -> Float[Tensor, "B N"]:
        """Patches r Phi^T of codes."""
        return codes @ self.dictionary.to(codes).T

    def energy(self, patches: Float[Tensor, "B N"], codes: Float[Tensor, "B K"]) -> Float[Tensor, "B"]:
        """||I - r Phi^T||^2 / 2 + lam sum pen(r) of each patch, by the canonical penalty."""
        error = 0.5 * (patches - self.decode(codes)).square().sum(1)
        return error + penalty_value(self.penalty, codes, self.lam).sum(1)

    @torch.no_grad()
    def fit(self, batches: Iterable[Float[Tensor, "B N"]], *, rate: float = 1e-2) -> SparseCoding:
        """Learn the dictionary: Phi += rate (I - r Phi^T)^T r with the settled codes of each batch, one step on.

        Columns are brought to length 1. A batch whose codes do not settle is passed over, as in the paper's code.

        Args:
            batches: of patches, such as 1,000 of 250 whitened ones.
            rate: of the dictionary. The product is a sum over the batch, so a larger one needs a lower rate: 100
                patches of variance 1 learned better at 0.005.

        Returns:
            Itself.

        Raises:
            UsageError: no batch, and as `encode`.
            NotSupported: the codes of no batch settled.
        """
        check_number("rate", rate, above=0)
        count = settled = 0
        for count, patches in enumerate(batches, start=1):  # noqa: B007
            outcome = self.encode(patches)
            if not outcome.converged:
                continue
            settled += 1
            phi = self._dictionary_for(patches)
            # The paper's code takes one more step from the settled codes and learns from these.
            codes = self._stepped(outcome.codes, phi.T @ phi, patches @ phi, self._step_for(phi))
            phi = phi + rate * (patches - codes @ phi.T).T @ codes
            self.dictionary = phi / phi.norm(dim=0, keepdim=True).clamp(min=1e-8)
        if not count:
            raise UsageError("a dictionary is learned from at least one batch")
        if not settled:
            raise NotSupported(
                f"the codes of none of {count} batches settled in {self.iterations} iterations: allow more of them,"
                " or a larger tolerance"
            )
        return self

    def _stepped(
        self, codes: Float[Tensor, "B K"], gram: Float[Tensor, "K K"], target: Float[Tensor, "B K"], step: float
    ) -> Float[Tensor, "B K"]:
        """Codes after one proximal gradient step; `gram` is Phi^T Phi, `target` I Phi."""
        moved = codes + step * (target - codes @ gram)
        return prox(self.penalty, moved, step, self.lam, convention=self.convention)

    def _dictionary_for(self, patches: Tensor) -> Tensor:
        if patches.ndim != 2 or not len(patches) or patches.shape[1] != len(self.dictionary):
            raise UsageError(
                f"patches must have shape (batch, {len(self.dictionary)}), at least one, got {tuple(patches.shape)}"
            )
        if not bool(patches.isfinite().all()):
            raise UsageError("patches must be finite")
        return self.dictionary.to(patches)

    def _step_for(self, phi: Float[Tensor, "N K"]) -> float:
        """The step: the given one where it is short enough."""
        longest = 1 / float(torch.linalg.matrix_norm(phi, 2)) ** 2
        if self.step is None:
            return 0.99 * longest  # below 1, as a column of length 1 makes the norm at least 1
        if self.step > longest * (1 + 1e-6):
            raise UsageError(f"step must be at most 1 / |Phi|^2 = {longest:.3g} for this dictionary, got {self.step:g}")
        return self.step
