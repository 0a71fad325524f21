"""Forward gradients: the true gradient projected on a guess, by forward-mode differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from binderclip.errors import NotSupported, UsageError
from binderclip.settings import check_choice

__all__ = ["ForwardGradient", "project_gradient"]

Rule = Literal["orthogonal", "unbiased", "span"]
Loss = Callable[[Tensor, Tensor], Tensor]


def project_gradient(
    target: Float[Tensor, "N *shape"], guess: Float[Tensor, "N *shape"], rule: Rule = "orthogonal"
) -> Float[Tensor, "N *shape"]:
    """Project every row of a gradient on the same row of a guess.

    Of a guess only its direction counts, but for `unbiased`; a guess of zero gives zero. For one projection of a whole
    batch, give both summed: `target.sum(0, keepdim=True)`.

    Args:
        target: gradients, one a row (a sample).
        guess: directions, of the same shape.
        rule: `orthogonal`, (<t, g> / <g, g>) g, never longer than the target; `unbiased`, <t, g> g, whose mean over
            standard normal guesses is the target; `span`, the least-squares projection on the span of all guesses.

    Raises:
        UsageError: other shapes, no row, an unknown rule.

    Paper: Can Forward Gradient Match Backpropagation? (arXiv 2306.06968), section 3.

    Examples:
        >>> project_gradient(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0, 0.0]]))
        tensor([[3., 0.]])
    """
    check_choice("rule", rule, ("orthogonal", "unbiased", "span"))
    if target.shape != guess.shape or target.ndim < 1 or not len(target):
        raise UsageError(f"target and guess: one shape with a row at least, got {[*target.shape]}, {[*guess.shape]}")
    t, g = target.reshape(len(target), -1), guess.reshape(len(guess), -1)
    if rule == "span":
        return (t @ torch.linalg.pinv(g) @ g).reshape(target.shape)
    if rule == "orthogonal":
        g = _unit(g)
    return ((t * g).sum(1, keepdim=True) * g).reshape(target.shape)


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, and zeros where a row is zero. Two steps, so that squares of small numbers do not vanish."""
    flat = rows.reshape(len(rows), -1)
    largest = torch.linalg.vector_norm(flat, torch.inf, dim=1, keepdim=True)
    flat = flat / torch.where(largest > 0, largest, 1.0)
    length = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    return flat.div_(torch.where(length > 0, length, 1.0)).reshape(rows.shape)


class ForwardGradient(nn.Module):
    """A chain of blocks that is trained without backpropagation through the whole of it.

    For every block but the last, a direction is guessed, and forward-mode differentiation tells how fast the loss
    changes along it; the gradient used is the true one's projection on the guess. Guesses are the gradients of a small
    head's own loss after the block, or noise. No more than one block's activations are kept at a time, so that a step's
    memory does not grow with the depth, as that of backpropagation does: it is a few times that of inference, since
    slopes travel with all values. `step` is what `fit` takes:

        fit(model.step, model, batches, steps=1000, optimizer="sgd", lr=0.03)

    The last block has its true gradient, heads that of their own loss. BatchNorm in training mode and dropout are
    refused: a sample's loss has to depend on that sample alone, and to be the same in every pass.

    Args:
        blocks: modules called one after the other; the last one gives what `loss` takes. Two at least.
        heads: one for every block but the last, from its output to what `loss` takes; none for `guess="random"` with
            the global target.
        loss: (output, target) -> losses of the samples, shape (B,). Default cross-entropy.
        guess: `local`, the gradient of the heads' losses; `random`, standard normal; `ntk`, `local` with heads drawn
            anew at every step by their `reset_parameters`; `fixed-ntk`, `local` with heads that stay as they are.
        target: what is projected: `global`, the gradient of the final loss; `local`, that of the head's. Local for both
            is purely local training.
        space: where guesses live: `weight`, one projection for every parameter tensor; `activation`, one for the output
            of a block, from where ordinary backpropagation goes through that block.
        per_sample: one projection for each sample, as published; False takes one for the batch, of its mean gradient,
            which costs no B copies of a block's weights. In the space of activations it is always per sample.
        normalise: False leaves the guess as long as it is, <g, v> v, unbiased for `random`; other guesses have no
            length that would mean something.

    Raises:
        UsageError: too few blocks, another number of heads, an unknown choice, `normalise=False` without noise.
        NotSupported: BatchNorm or dropout in training mode; at `step`.

    Paper: Can Forward Gradient Match Backpropagation? (arXiv 2306.06968).

    Examples:
        >>> blocks = [nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 3)]
        >>> model = ForwardGradient(blocks, heads=[nn.Linear(8, 3)])
        >>> loss = model.step((torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])), backward=lambda part: part.backward())
        >>> blocks[0][0].weight.grad.shape
        torch.Size([8, 4])
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        heads: Iterable[nn.Module] = (),
        loss: Loss | None = None,
        *,
        guess: Literal["local", "random", "ntk", "fixed-ntk"] = "local",
        target: Literal["global", "local"] = "global",
        space: Literal["weight", "activation"] = "weight",
        per_sample: bool = True,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        check_choice("guess", guess, ("local", "random", "ntk", "fixed-ntk"))
        check_choice("target", target, ("global", "local"))
        check_choice("space", space, ("weight", "activation"))
        self.blocks, self.heads = nn.ModuleList(blocks), nn.ModuleList(heads)
        if len(self.blocks) < 2:
            raise UsageError(f"blocks must be two at least, got {len(self.blocks)}")
        needed = len(self.blocks) - 1
        headless = guess == "random" and target == "global"
        if len(self.heads) != needed and not (headless and not self.heads):
            raise UsageError(f"heads: one for every block but the last, {needed}, got {len(self.heads)}")
        if not normalise and guess != "random":
            raise UsageError(f"normalise=False is for guess='random'; guess={guess!r} has a direction alone")
        self.loss: Loss = loss or (lambda output, target: F.cross_entropy(output, target, reduction="none"))
        self.guess, self.target, self.space = guess, target, space
        self.per_sample, self.normalise = per_sample, normalise
        if guess in ("ntk", "fixed-ntk"):
            self.heads.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        """What the last block gives: shape (B, ...)."""
        for block in self.blocks:
            inputs = block(inputs)
        return inputs

    def step(self, batch: tuple[Tensor, Tensor], *, backward: Callable[[Tensor], Any]) -> Float[Tensor, ""]:
        """Leave the projected gradients in `.grad`; the mean of the final losses.

        Args:
            batch: inputs (B, ...) and the loss's targets (B, ...).
            backward: runs the backward pass of a part, as `fit` hands it over; `lambda part: part.backward()` alone.

        Raises:
            UsageError: inputs and targets of different number, or none.
            NotSupported: BatchNorm or dropout in training mode.
        """
        x, target = batch
        if not len(x) or len(x) != len(target):
            raise UsageError(f"a batch is as many inputs as targets, one at least; got {len(x)} and {len(target)}")
        self._refuse_coupled_samples()
        if self.guess == "ntk":
            self.heads.apply(lambda module: getattr(module, "reset_parameters", lambda: None)())
        for k in range(len(self.blocks) - 1):
            x = (self._in_activations if self.space == "activation" else self._in_weights)(k, x, target, backward)
        losses = self.loss(self.blocks[-1](x), target)
        if losses.shape != (len(x),):
            raise UsageError(f"loss must give one number a sample, shape ({len(x)},), got {tuple(losses.shape)}")
        backward(losses.mean())
        return losses.detach().mean()

    def _losses_after(self, k: int, y: Tensor, target: Tensor, where: str) -> Tensor:
        """Losses (B,) from the output of block `k`: by its head (`local`) or through the blocks after it (`global`)."""
        for module in [self.heads[k]] if where == "local" else self.blocks[k + 1 :]:
            y = module(y)
        return self.loss(y, target)

    def _train_head(self, k: int, y: Tensor, target: Tensor, backward: Callable[[Tensor], Any]) -> None:
        """Add the gradient of a head's own loss, where heads learn."""
        if self.heads and any(p.requires_grad for p in self.heads[k].parameters()):
            backward(self._losses_after(k, y, target, "local").mean())

    def _in_activations(self, k: int, x: Tensor, target: Tensor, backward: Callable[[Tensor], Any]) -> Tensor:
        """Project dL/dy at the output y of block `k`, and go back through that block alone."""
        with torch.no_grad():
            y = self.blocks[k](x)  # (B, ...); once more with a graph below, when nothing else is held
        if self.guess == "random":
            guess = torch.randn_like(y)
        else:
            here = y.detach().requires_grad_()
            (guess,) = torch.autograd.grad(self._losses_after(k, here, target, "local").sum(), here)
        direction = _unit(guess) if self.normalise else guess
        del guess
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            # (B,): a sample's loss depends on its own activations, so that one pass gives all <g_n, v_n>
            slopes = jvp(lambda at: self._losses_after(k, at, target, self.target), (y,), (direction,))[1]
            projected = direction.mul_(slopes.reshape(-1, *[1] * (y.ndim - 1)) / len(x))
        backward(torch.dot(self.blocks[k](x).flatten(), projected.flatten()))
        self._train_head(k, y, target, backward)
        return y

    def _in_weights(self, k: int, x: Tensor, target: Tensor, backward: Callable[[Tensor], Any]) -> Tensor:
        """Project the gradient of every parameter of block `k`."""
        block = self.blocks[k]
        trained = {name: p for name, p in block.named_parameters() if p.requires_grad}
        values = {name: p.detach() for name, p in trained.items()}
        # Groups of one sample each, or one of all: (G, B/G, ...). A group's loss is the mean of its samples'.
        inputs, targets = (t[:, None] if self.per_sample else t[None] for t in (x, target))

        def loss_of(where: str) -> Callable[..., Tensor]:
            return lambda parameters, inputs, targets: self._losses_after(
                k, functional_call(block, parameters, (inputs,)), targets, where
            ).mean()

        if self.guess == "random":
            guess = {
                name: torch.randn(len(inputs), *v.shape, dtype=v.dtype, device=v.device) for name, v in values.items()
            }
        else:
            guess = vmap(grad(loss_of("local")), in_dims=(None, 0, 0))(values, inputs, targets)
        loss = loss_of(self.target)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            for name, value in values.items():
                direction = _unit(guess[name]) if self.normalise else guess[name]  # (G, *shape)

                def slope(
                    v: Tensor, inputs: Tensor, targets: Tensor, name: str = name, value: Tensor = value
                ) -> Tensor:
                    return jvp(lambda at: loss({**values, name: at}, inputs, targets), (value,), (v,))[1]

                slopes = vmap(slope)(direction, inputs, targets)  # (G,): <g_n, v_n>
                guess[name] = torch.tensordot(slopes, direction, 1) / len(slopes)  # (*shape): mean of <g_n, v_n> v_n
        if trained:
            # its gradient is the projection; by way of `backward` it is scaled as any other
            backward(torch.stack([(p * guess[name]).sum() for name, p in trained.items()]).sum())
        with torch.no_grad():
            y = block(x)
        self._train_head(k, y, target, backward)
        return y

    def _refuse_coupled_samples(self) -> None:
        for name, module in self.named_modules():
            batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
            if module.training and (batch_norm or dropout):
                what = type(module).__name__
                raise NotSupported(f"{name} is a {what} in training mode: use another layer, or call its eval()")
