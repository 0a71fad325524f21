"""What every vector drawing asks of its canvas, its curves and its colours."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["MOST_PIXELS", "check_canvas", "check_colours", "check_curves", "curves_at_once"]

MOST_PIXELS = 4096
"""The longest side of a canvas: coverage is kept of every curve at every pixel."""


def check_canvas(size: Sequence[int], background: Sequence[float] = (1.0, 1.0, 1.0)) -> tuple[int, int]:
    """The canvas as (H, W).

    Raises:
        UsageError: a side that is not whole, below 1 or above `MOST_PIXELS`, or a background that is no RGB in [0, 1].
    """
    if len(size) != 2:
        raise UsageError(f"size must be (H, W), got {tuple(size)}")
    for side in size:
        check_whole("size", side, least=1)
        check_number("size", side, most=MOST_PIXELS)
    if len(background) != 3:
        raise UsageError(f"background must be RGB, got {tuple(background)}")
    for value in background:
        check_number("background", value, least=0, most=1)
    return int(size[0]), int(size[1])


def check_curves(curves: Sequence[Float[Tensor, "_ 2"]], *, closed: bool) -> list[int]:
    """Segments of each curve.

    Raises:
        UsageError: points of another number or shape, or that are not finite.
    """
    rest, rule = (0, "3 s") if closed else (1, "3 s + 1")
    for number, curve in enumerate(curves):
        if curve.ndim != 2 or curve.shape[1] != 2 or len(curve) < 3 or len(curve) % 3 != rest:
            raise UsageError(f"curve {number} must have {rule} points (x, y), got shape {tuple(curve.shape)}")
        if not bool(curve.isfinite().all()):
            raise UsageError(f"curve {number} has a point that is not finite")
    return [len(curve) // 3 for curve in curves]


def check_colours(colours: Float[Tensor, "*n 4"], count: int) -> None:
    """Refuse what is not RGBA in [0, 1] for each of `count` curves.

    Raises:
        UsageError: another shape, or a value out of range.
    """
    if colours.shape[0] != count or colours.shape[-1] != 4:
        raise UsageError(f"colours must be RGBA of {count} curves, got shape {tuple(colours.shape)}")
    if not bool(((colours >= 0) & (colours <= 1)).all()):
        raise UsageError("colours must lie in [0, 1] and be finite")


def curves_at_once(size: tuple[int, int]) -> int:
    """Curves whose coverage of a canvas (H, W) is held at once where no gradient is asked for: at most 32 MB."""
    return max(1, 2**23 // (size[0] * size[1]))
