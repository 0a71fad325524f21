"""Forward gradients: the true gradient projected on a guess, by forward-mode differentiation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_whole
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
    head's own loss after the block, or noise. `step` is what `fit` takes:

        fit(model.step, model, batches, steps=1000, optimizer="sgd", lr=0.03)

    No more than one block's activations are kept at a time, so that a step's memory does not grow with the depth, as
    that of backpropagation does. Beside parameters and their gradients, which every training has, it is 3 to 4 times
    that of inference, since slopes travel with all values and forward mode copies some of them. With `chunk` slopes
    travel for that many samples, and only one block's outputs are there for all: with a quarter of the batch a step
    takes at most 1.2 times what inference on the whole batch does, with an eighth 0.8. That is so where activations
    outweigh a block's parameters, and not for one projection a sample in the space of weights: there each sample of a
    chunk has two copies of a block's largest weight, and with guesses by heads one more of all its parameters.

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
        chunk: samples that go through the blocks at a time; None for all. Sums over samples are the same up to
            rounding; noise for each sample is drawn chunk by chunk.
        normalise: False leaves the guess as long as it is, <g, v> v, unbiased for `random`; other guesses have no
            length that would mean something.

    Raises:
        UsageError: too few blocks, another number of heads, an unknown choice, a chunk below 1, `normalise=False`
            without noise.
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
        chunk: int | None = None,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        check_choice("guess", guess, ("local", "random", "ntk", "fixed-ntk"))
        check_choice("target", target, ("global", "local"))
        check_choice("space", space, ("weight", "activation"))
        if chunk is not None:
            check_whole("chunk", chunk, least=1)
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
        self.per_sample, self.chunk, self.normalise = per_sample, chunk, normalise
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
        size = self.chunk or len(x)
        xs, targets = list(x.split(size)), target.split(size)
        for k in range(len(self.blocks) - 1):
            if self.space == "weight":
                self._in_weights(k, xs, targets, len(x), backward)
            for number, part in enumerate(targets):
                # in place, so that a block's inputs do not stay beside its outputs
                if self.space == "activation":
                    xs[number] = self._in_activations(k, xs[number], part, len(x), backward)
                else:
                    with torch.no_grad():
                        xs[number] = self.blocks[k](xs[number])
                self._train_head(k, xs[number], part, len(x), backward)
        means = []
        for inputs, part in zip(xs, targets, strict=True):
            losses = self.loss(self.blocks[-1](inputs), part)
            if losses.shape != (len(inputs),):
                raise UsageError(
                    f"loss must give one number a sample, shape ({len(inputs)},), got {tuple(losses.shape)}"
                )
            if losses.requires_grad:
                backward(losses.sum() / len(x))
            means.append(losses.detach().sum() / len(x))
        return torch.stack(means).sum()

    def _losses_after(self, k: int, y: Tensor, target: Tensor, where: str) -> Tensor:
        """Losses (B,) from the output of block `k`: by its head (`local`) or through the blocks after it (`global`)."""
        for module in self._after(k, where):
            y = module(y)
        return self.loss(y, target)

    def _after(self, k: int, where: str) -> Iterable[nn.Module]:
        """What comes between the output of block `k` and the loss."""
        return [self.heads[k]] if where == "local" else self.blocks[k + 1 :]

    def _train_head(self, k: int, y: Tensor, target: Tensor, count: int, backward: Callable[[Tensor], Any]) -> None:
        """Add the gradient of a head's own loss, a part of the mean over `count` samples, where heads learn."""
        if self.heads and any(p.requires_grad for p in self.heads[k].parameters()):
            backward(self._losses_after(k, y, target, "local").sum() / count)

    def _in_activations(
        self, k: int, x: Tensor, target: Tensor, count: int, backward: Callable[[Tensor], Any]
    ) -> Tensor:
        """Project dL/dy at the output y of block `k`, and go back through that block alone; y."""
        with torch.no_grad():
            y = self.blocks[k](x)  # (b, ...); once more with a graph below, when nothing else is held
        if self.guess == "random":
            guess = torch.randn_like(y)
        else:
            here = y.detach().requires_grad_()
            (guess,) = torch.autograd.grad(self._losses_after(k, here, target, "local").sum(), here)
            del here
        direction = _unit(guess) if self.normalise else guess
        del guess
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            # (b,): a sample's loss depends on its own activations, so that one pass gives all <g_n, v_n>
            slopes = jvp(lambda at: self._losses_after(k, at, target, self.target), (y,), (direction,))[1]
            projected = direction.mul_(slopes.reshape(-1, *[1] * (y.ndim - 1)) / count)
        del y, direction
        y = self.blocks[k](x)
        if y.requires_grad:  # a block may have nothing that learns
            backward(torch.dot(y.flatten(), projected.flatten()))
        return y.detach()

    def _in_weights(
        self, k: int, xs: Sequence[Tensor], targets: Sequence[Tensor], count: int, backward: Callable[[Tensor], Any]
    ) -> None:
        """Project the gradient of every parameter of block `k`."""
        # Groups of one sample each, or one of all: (G, b/G, ...). One projection of all needs the guess of all first.
        parts = [
            (x[:, None], target[:, None]) if self.per_sample else (x[None], target[None])
            for x, target in zip(xs, targets, strict=True)
        ]
        trained = {name: p for name, p in self.blocks[k].named_parameters() if p.requires_grad}
        values = {name: p.detach() for name, p in trained.items()}
        for group in [[part] for part in parts] if self.per_sample else [parts]:
            guesses = self._guesses(k, values, group)
            for name, p in trained.items():
                direction = next(guesses)
                if self.normalise:
                    direction = _unit(direction)
                slopes = self._slopes(k, name, values, direction, group)
                projected = torch.tensordot(slopes / count, direction, 1)  # (*shape): sum of <g_n, v_n> v_n
                del direction
                # its gradient is the projection; by way of `backward` it is scaled as any other
                backward(torch.dot(p.flatten(), projected.flatten()))
                del projected  # before the next one is made

    def _guesses(
        self, k: int, values: dict[str, Tensor], parts: Sequence[tuple[Tensor, Tensor]]
    ) -> Iterator[Float[Tensor, "G *shape"]]:
        """Directions for the parameters of block `k` in their order, G groups each; one is made or let go at a time."""
        if self.guess == "random":
            for value in values.values():
                yield torch.randn(len(parts[0][0]), *value.shape, dtype=value.dtype, device=value.device)
            return
        local = vmap(grad(partial(self._loss_of, k, "local")), in_dims=(None, 0, 0))
        with torch.no_grad():  # of the outer graph alone, in which the heads would keep all that the guess is made from
            guess = local(values, *parts[0])
            for part in parts[1:]:
                added = local(values, *part)
                guess = {name: guess.pop(name) + added.pop(name) for name in values}
        for name in values:
            yield guess.pop(name)

    def _loss_of(self, k: int, where: str, parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        """Sum of the losses of a group by the parameters of block `k`."""
        y = functional_call(self.blocks[k], parameters, (x,))
        for module in self._after(k, where):  # not by a call, whose frame would hold the first y to the end
            y = module(y)
        return self.loss(y, target).sum()

    def _slopes(
        self, k: int, name: str, values: dict[str, Tensor], direction: Tensor, parts: Sequence[tuple[Tensor, Tensor]]
    ) -> Float[Tensor, "G"]:
        """How fast each group's loss changes along its direction of one parameter."""

        def slope(v: Tensor, x: Tensor, target: Tensor) -> Tensor:
            def loss(at: Tensor) -> Tensor:
                return self._loss_of(k, self.target, {**values, name: at}, x, target)

            return jvp(loss, (values[name],), (v,))[1]

        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no forward mode
            return torch.stack([vmap(slope)(direction, *part) for part in parts]).sum(0)

    def _refuse_coupled_samples(self) -> None:
        for name, module in self.named_modules():
            batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            dropout = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
            if module.training and (batch_norm or dropout):
                what = type(module).__name__
                raise NotSupported(f"{name} is a {what} in training mode: use another layer, or call its eval()")
