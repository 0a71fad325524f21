"""The PLY files that 3D Gaussian Splatting writes: logits of opacity, logarithms of scales, colours as harmonics."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from binderclip.errors import DataError
from binderclip.files import write_whole

__all__ = ["Gaussians", "read_ply", "write_ply"]

Gaussians: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Means, scales, rotations, opacities and colours, as in `GaussianScene`."""

HARMONIC = 0.28209479177387814
"""The constant spherical harmonic: colour = 0.5 + HARMONIC * f_dc."""
NEEDED = (
    *("x", "y", "z"), *(f"f_dc_{i}" for i in range(3)), "opacity", *(f"scale_{i}" for i in range(3)),
    *(f"rot_{i}" for i in range(4)),
)  # fmt: skip
TYPES = {
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8", "uchar": "u1", "uint8": "u1", "char": "i1",
    "int8": "i1", "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4",
    "uint": "u4", "uint32": "u4",
}  # fmt: skip
MOST_HEADER, MOST_VERTICES = 1 << 16, 10**9
CLOSE = 1e-6
"""How near to 0 and 1 an opacity is written, whose logit would be infinite there."""


def read_ply(path: str | Path) -> Gaussians:
    """The Gaussians of a binary or plain PLY; colours that change with the direction of view are left out.

    Raises:
        DataError: no such file, no PLY, one without the entries of Gaussians, cut short, or with values that are not
            finite.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    end = content.find(b"end_header", 0, MOST_HEADER)
    start = content.find(b"\n", end) + 1 if end >= 0 else 0
    if not content.startswith((b"ply\n", b"ply\r\n")) or not start:
        raise DataError(f"{path} is no PLY file: it begins with `ply` and has an `end_header`")
    order, count, fields = _header(path, content[:end].decode("latin-1").splitlines())
    missing = [name for name in NEEDED if name not in [field[0] for field in fields]]
    if missing:
        raise DataError(f"{path} holds no Gaussians: its vertices have no {', '.join(missing)}")
    table = _table(path, content[start:], order, count, fields)
    columns = {name: table[name].astype(np.float32) for name in NEEDED}
    for name, values in columns.items():
        if not np.isfinite(values).all():
            raise DataError(f"{path}: {name} of vertex {int(np.argmin(np.isfinite(values)))} is not finite")

    def stacked(*names: str) -> Tensor:
        return torch.from_numpy(np.stack([columns[name] for name in names], 1).copy())

    # Scales beyond this overflow.
    scales = stacked("scale_0", "scale_1", "scale_2").clamp(-40, 40).exp()
    colours = (0.5 + HARMONIC * stacked("f_dc_0", "f_dc_1", "f_dc_2")).clamp(0, 1)
    rotations = stacked("rot_0", "rot_1", "rot_2", "rot_3")
    return stacked("x", "y", "z"), scales, rotations, stacked("opacity")[:, 0].sigmoid(), colours


def _header(path: Path, lines: list[str]) -> tuple[str, int, list[tuple[str, str]]]:
    """Byte order (`<`, `>` or empty for plain text), number of vertices, and (name, type) of each entry of one."""
    orders = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
    order: str | None = None
    count, fields, inside = -1, [], False
    for line in lines:
        words = line.split()
        if words[:1] == ["format"] and len(words) >= 2:
            order = orders.get(words[1])
        elif words[:1] == ["element"] and len(words) == 3:
            inside = words[1] == "vertex"
            if inside:
                count = int(words[2]) if words[2].isdigit() else -1
            elif count < 0:
                raise DataError(f"{path}: the vertices must be its first element, not {words[1]}")
        elif words[:1] == ["property"] and inside:
            if len(words) != 3 or words[1] not in TYPES:
                raise DataError(f"{path}: cannot read a vertex with {line.strip()[:80]!r}")
            fields.append((words[2], TYPES[words[1]]))
    if order is None or not 0 <= count <= MOST_VERTICES:
        raise DataError(f"{path}: its header names no known format, or no number of vertices")
    if len({name for name, _ in fields}) < len(fields):
        raise DataError(f"{path}: its header names an entry twice")
    return order, count, fields


def _table(path: Path, body: bytes, order: str, count: int, fields: list[tuple[str, str]]) -> np.ndarray:
    short = f"{path} is cut short: {count} vertices are announced"
    if order:
        kind = np.dtype([(name, order + code) for name, code in fields])
        if len(body) < count * kind.itemsize:
            raise DataError(short)
        return np.frombuffer(body, dtype=kind, count=count)
    words = body.split()
    if len(words) < count * len(fields):
        raise DataError(short)
    try:
        values = np.array(words[: count * len(fields)], dtype=np.float64).reshape(count, len(fields))
    except ValueError as error:
        raise DataError(f"{path}: an entry is no number ({error})") from error
    table = np.empty(count, dtype=[(name, "f8") for name, _ in fields])
    for place, (name, _) in enumerate(fields):
        table[name] = values[:, place]
    return table


def write_ply(gaussians: Gaussians, path: str | Path) -> None:
    """Write Gaussians as binary PLY; it is there whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    names = ("x", "y", "z", "nx", "ny", "nz", *NEEDED[3:])
    means, scales, rotations, opacities, colours = (values.detach().double() for values in gaussians)
    columns = torch.cat(
        [
            means,
            torch.zeros_like(means),  # normals, which nobody reads
            (colours - 0.5) / HARMONIC,
            opacities.clamp(CLOSE, 1 - CLOSE).logit()[:, None],
            scales.log(),
            rotations,
        ],
        1,
    )
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(means)}"]
    header += [f"property float {name}" for name in names]
    start = ("\n".join([*header, "end_header"]) + "\n").encode()
    write_whole(path, start + columns.cpu().numpy().astype("<f4").tobytes())
