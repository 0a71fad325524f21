"""What a recorded pass holds: sources, their uses, and the contribution that each use gets from its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.privacy.per_sample.contributions import Contribution, Direct
from binderclip.privacy.per_sample.refusals import COUPLED
from binderclip.privacy.per_sample.sources import Source, Use

__all__ = ["RecordedPass"]


class RecordedPass:
    """Sources and uses of one forward and backward pass; the operations write into it.

    Attributes:
        sources: watched parameters and what is computed of them alone, by the identity of the tensor.
        constants: frozen parameters, buffers and what is computed of them alone, by identity.
        uses: where sources met data, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sources: dict[int, Source] = {}
        self.constants: dict[int, Tensor] = {}
        self.uses: list[Use] = []
        self._batch: int | None = None
        self._first_half: int | None = None
        self._pass = 0

    def clear(self) -> None:
        """Forget the last pass, at once: sources and uses point at each other, and would wait for the collector."""
        for use in self.uses:
            use.kept = use.lifted = None
        for source in self.sources.values():
            source.uses.clear()
        self.sources, self.constants, self.uses, self._batch = {}, {}, [], None
        self._pass += 1

    def use(self, source: Source, what: str, lifted: Tensor | None = None) -> Use:
        """Note that a source meets data."""
        made = Use(source, what, lifted)
        self.uses.append(made)
        return made

    def on_gradient(
        self, out: Tensor, uses: Sequence[Use], build: Callable[[Tensor], Sequence[Contribution]]
    ) -> Tensor:
        """Have `build` turn the gradient of `out` into one contribution for each use.

        Args:
            out: the operation's output.
            uses: of the operation.
            build: gradient of `out` -> contributions, in the order of `uses`.

        Returns:
            What the model goes on with.
        """
        if not out.requires_grad:
            out = _Anchor.apply(out, torch.zeros((), requires_grad=True, dtype=out.dtype, device=out.device))

        number = self._pass

        def hook(grad: Tensor) -> None:
            if self._pass != number:
                raise UsageError(
                    "these losses rest on an earlier forward pass too: record all of them in one recording()"
                )
            if self._first_half is not None:
                self._check_rows(grad, uses[0])
                return
            for use, contribution in zip(uses, build(grad), strict=True):
                self._keep(use, contribution)

        out.register_hook(hook)
        return out

    def positions(self, tensor: Tensor, use: Use) -> Tensor:
        """(B, T, features) of an operation's input or output, whose rows may be B times something."""
        rows, batch = tensor.shape[0], self.batch
        if tensor.ndim < 2 or (rows % batch if batch else rows):
            raise NotSupported(
                f"{use.what} sees a tensor of shape {tuple(tensor.shape)} for {batch} samples: dimension 0 must be the "
                "batch (batch_first=True)"
            )
        return tensor.reshape(batch, -1, tensor.shape[-1]) if batch else tensor.reshape(0, 1, tensor.shape[-1])

    @property
    def batch(self) -> int:
        """B of the losses that are going back."""
        if self._batch is None:
            raise UsageError(
                "a recorded forward pass goes back through backward(losses) of the private optimizer (or the "
                "recorder), with one loss a sample, shape (B,), not through losses.mean().backward()"
            )
        return self._batch

    def _keep(self, use: Use, contribution: Contribution) -> None:
        rows = self.batch
        if isinstance(contribution, Direct) and len(contribution.grad) != rows:
            raise NotSupported(f"{use.what} gives gradients of {len(contribution.grad)} rows for {rows} samples")
        if use.source.leaf is not None and len(use.source.uses) == 1:
            # norms right away, while the factors are in the caches
            contribution = contribution.settled()
            use.source.square = contribution.squares()
        use.kept = contribution

    def _check_rows(self, grad: Tensor, use: Use) -> None:
        rows = self.positions(grad.reshape(grad.shape[0], -1), use)
        second = rows[self._first_half :]
        # a sample that is not finite has NaN gradients even where nothing comes back to it
        if bool(((second != 0) & second.isfinite()).any()):
            raise NotSupported(f"the losses of some samples depend on other samples (seen at {use.what}). {COUPLED}")


class _Anchor(torch.autograd.Function):
    """Gives a tensor that depends on no trainable one a place in the graph, without copying it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, anchor: Tensor) -> Tensor:  # type: ignore[override]
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        return None, grad.new_zeros(())
