"""The attribute `d` of an SVG path as cubic segments."""

from __future__ import annotations

import re

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import DataError

__all__ = ["parse_path"]

_TOKEN = re.compile(r"[A-Za-z]|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_ARGUMENTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "Z": 0}
_MOST_SEGMENTS = 10_000


def parse_path(data: str) -> tuple[Float[Tensor, "_ 2"], bool]:
    """Control points of cubic segments, and whether the path is closed: 3 s + 1 points, of a closed one 3 s.

    Lines and quadratic segments become cubic ones, which is exact.

    Raises:
        DataError: an unknown command, an arc, numbers that are missing, a second part, or too many segments.
    """
    if re.sub(_TOKEN, "", data).strip(" ,\t\r\n"):
        raise DataError(f"the path {data[:40]!r} has characters that are no command and no number")
    tokens, position = _TOKEN.findall(data), 0
    points: list[complex] = []
    command, closed = "", False
    handle, kind = 0j, ""  # the last control point and the kind of segment it is of, for the smooth commands
    while position < len(tokens):
        if tokens[position].isalpha():
            command, position = tokens[position], position + 1
        elif not command or command in "Zz" or closed:
            raise DataError(f"the path {data[:40]!r} has a number where a command belongs")
        upper = command.upper()
        if upper not in _ARGUMENTS:
            raise DataError(f"the path has the command {command!r}: arcs are not read, turn them into curves")
        numbers = tokens[position : position + _ARGUMENTS[upper]]
        if len(numbers) < _ARGUMENTS[upper] or any(token.isalpha() for token in numbers):
            raise DataError(f"the path {data[:40]!r} lacks numbers after {command!r}")
        position += len(numbers)
        if (upper == "M") != (not points) or closed:
            raise DataError("a path has several parts: split it, one path for each")
        here = points[-1] if points else 0j
        values = _places(upper, [float(n) for n in numbers], here, relative=command.islower())
        if upper == "M":
            points, command = values, "l" if command == "m" else "L"
        elif upper == "Z":
            closed = True
        else:
            cubic, handle = _cubic(upper, values, here, handle if kind == _smooth_of(upper) else here)
            kind = _smooth_of(upper)
            points.extend(cubic)
        if len(points) > 3 * _MOST_SEGMENTS:
            raise DataError(f"a path has more than {_MOST_SEGMENTS} segments")
    if len(points) < 4:
        raise DataError(f"the path {data[:40]!r} draws nothing")
    if closed:
        if abs(points[-1] - points[0]) > 1e-6:
            points += [points[-1] + (points[0] - points[-1]) * part for part in (1 / 3, 2 / 3, 1)]
        points.pop()  # the first one again
    return torch.tensor([(p.real, p.imag) for p in points], dtype=torch.float32), closed


def _smooth_of(upper: str) -> str:
    """Segments whose handle a smooth command mirrors: S after C and S, T after Q and T."""
    return {"C": "cubic", "S": "cubic", "Q": "quadratic", "T": "quadratic"}.get(upper, "")


def _places(upper: str, numbers: list[float], here: complex, *, relative: bool) -> list[complex]:
    """Points as complex numbers x + iy, absolute."""
    if upper == "H":
        return [complex(numbers[0] + here.real * relative, here.imag)]
    if upper == "V":
        return [complex(here.real, numbers[0] + here.imag * relative)]
    return [complex(x, y) + here * relative for x, y in zip(numbers[::2], numbers[1::2], strict=True)]


def _cubic(upper: str, values: list[complex], here: complex, handle: complex) -> tuple[list[complex], complex]:
    """The three points that a segment adds, and the handle that a smooth one after it mirrors."""
    end = values[-1]
    if upper in "LHV":
        return [here + (end - here) / 3, here + (end - here) * 2 / 3, end], end
    if upper in "QT":
        control = values[0] if upper == "Q" else 2 * here - handle
        return [here + (control - here) * 2 / 3, end + (control - end) * 2 / 3, end], control
    first = values[0] if upper == "C" else 2 * here - handle
    return [first, values[-2], end], values[-2]
