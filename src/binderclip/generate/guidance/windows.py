"""Pictures wider than a denoiser's: overlapping windows that share their states, and agree on what they show."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data.windows import WindowGrid
from binderclip.errors import UsageError
from binderclip.generate.denoisers.context import SamplingHook, StepContext
from binderclip.numeric import check_number, check_whole

__all__ = ["JointWindows", "SyncGuidance"]


class JointWindows(SamplingHook):
    """Denoises a canvas as overlapping windows whose states are averaged after every step (MultiDiffusion).

    `sample` runs on the windows as one batch, `sample(denoiser, windows.split(noise), hooks=[..., windows])`, and
    `merge` makes the canvas of what it gives.
    It comes last among the hooks.

    Args:
        size: (H, W) of the canvas.
        window: side of a window, that of the denoiser's pictures.
        stride: step between windows, at most the window; the last of a row or column is flush with the border.

    Raises:
        UsageError: sizes below 1, a stride above the window, or a canvas smaller than the window.

    Paper: SyncDiffusion: Coherent Montage via Synchronized Joint Diffusions (arXiv 2306.05178), section 3; Bar-Tal et
    al., MultiDiffusion (arXiv 2302.08113).

    Examples:
        >>> windows = JointWindows((4, 8), window=4, stride=2)
        >>> canvas = torch.arange(32.0).reshape(1, 4, 8)
        >>> windows.split(canvas).shape
        torch.Size([3, 1, 4, 4])
        >>> torch.equal(windows.merge(windows.split(canvas)), canvas)
        True
    """

    def __init__(self, size: tuple[int, int], window: int, stride: int) -> None:
        self.grid = WindowGrid.over(size, window, stride)
        if self.grid.window != (window, window):
            raise UsageError(f"a canvas of {size} holds no window of {window} x {window}")

    def __len__(self) -> int:
        return len(self.grid)

    def split(self, canvas: Float[Tensor, "C H W"]) -> Float[Tensor, "V C S S"]:
        """The windows of a canvas, row by row.

        Raises:
            UsageError: a canvas of another size.
        """
        if canvas.shape[1:] != self.grid.size:
            raise UsageError(f"the canvas must be {self.grid.size}, not {tuple(canvas.shape[1:])}")
        return torch.stack([canvas[:, y0:y1, x0:x1] for x0, y0, x1, y1 in self.grid.boxes])

    def merge(self, windows: Float[Tensor, "V C S S"]) -> Float[Tensor, "C H W"]:
        """The canvas whose every pixel is the mean of the windows that cover it.

        Raises:
            UsageError: another number of windows.
        """
        if len(windows) != len(self):
            raise UsageError(f"there are {len(self)} windows, got {len(windows)}")
        canvas = windows.new_zeros(windows.shape[1], *self.grid.size)
        for window, (x0, y0, x1, y1) in zip(windows, self.grid.boxes, strict=True):
            canvas[:, y0:y1, x0:x1] += window
        return canvas / self.grid.count(dtype=windows.dtype, device=windows.device)

    def after(self, step: StepContext, x: Tensor) -> Tensor:
        """The windows of the averaged canvas, which all see each other's step."""
        return self.split(self.merge(x))


class SyncGuidance(SamplingHook):
    """Moves every window's state so that its predicted picture comes near to that of one window, the anchor.

    Before a step, `x_v <- x_v - w_i * d loss(x0_v, x0_anchor) / d x_v` through the denoiser, with all terms of
    guidance; then noise is predicted anew. All anchors and windows see the state at the start of the step, and the
    anchor does not move.

    Args:
        loss: from pictures [V, C, S, S] and the anchor's [1, C, S, S] to a distance for each; the paper's is a
            perceptual one, of pictures decoded from latents and clamped to [-1, 1].
        weight: w_0.
        decay: w_i = w_0 decay^i for step i.
        sync_steps: so many first steps are synchronised; default all.
        anchor: number of the window; default the middle one, V // 2.

    Raises:
        UsageError: a setting out of range; when it is called, distances of another shape or an anchor that is none.

    Paper: SyncDiffusion: Coherent Montage via Synchronized Joint Diffusions (arXiv 2306.05178), algorithm 1.
    """

    def __init__(
        self,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        weight: float = 20.0,
        decay: float = 0.95,
        sync_steps: int | None = None,
        anchor: int | None = None,
    ) -> None:
        check_number("weight", weight, least=0)
        check_number("decay", decay, above=0, most=1)
        for name, value in (("sync_steps", sync_steps), ("anchor", anchor)):
            if value is not None:
                check_whole(name, value, least=0)
        self.loss, self.weight, self.decay, self.sync_steps, self.anchor = loss, weight, decay, sync_steps, anchor

    def before(self, step: StepContext) -> Tensor:
        """The moved states."""
        if self.weight == 0 or (self.sync_steps is not None and step.i >= self.sync_steps):
            return step.x
        count = len(step.x)
        anchor = count // 2 if self.anchor is None else self.anchor
        if anchor >= count:
            raise UsageError(f"anchor = {anchor} is none of {count} windows")
        with torch.enable_grad():
            free = step.at(step.x, needs_grad=True)
            pictures = free.x0(free.guided())
            distances = self.loss(pictures, pictures[anchor : anchor + 1].detach())
            if distances.shape != (count,):
                raise UsageError(f"the loss must give a distance for each of {count} windows, not {distances.shape}")
            gradient = free.gradient(distances.sum())  # windows do not depend on each other
        moved = step.x.detach() - self.weight * self.decay**step.i * gradient
        moved[anchor] = step.x[anchor]
        return moved
