"""Real and generated pictures with their generator, in the folders that detectors' benchmarks use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.data.images import list_images, open_image, to_tensor
from binderclip.errors import DataError, UsageError
from binderclip.files import why_no_folder

REAL, FAKE = "0_real", "1_fake"


@dataclass(frozen=True)
class RealFakeSet:
    """Pictures, whether each is generated, and by what.

    Attributes:
        sources: files, or tensors (3, H, W) in [0, 1].
        labels: (N,) 0 for real, 1 for generated.
        generators: of each picture: of a generated one what made it; of a real one the generator whose fakes it belongs
            to, or empty where it belongs to all.
        partners: (N,) row of the real picture that a generated one is an aligned copy of, or -1.
        skipped: (path, reason) of what was left out.
        keys: of each picture a name that stays where its folder goes, such as the path below it; empty for the rows.
    """

    sources: Sequence[Path | Tensor]
    labels: Int[np.ndarray, "N"]
    generators: Sequence[str]
    partners: Int[np.ndarray, "N"]
    skipped: Sequence[tuple[str, str]] = ()
    keys: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.sources)

    @classmethod
    def from_pictures(
        cls, real: Sequence[Float[Tensor, "3 _ _"]], fakes: Mapping[str, Sequence[Float[Tensor, "3 _ _"]]]
    ) -> RealFakeSet:
        """A set of tensors; fakes that are as many as the real ones are aligned with them.

        Args:
            real: pictures in [0, 1].
            fakes: generator -> its pictures.

        Raises:
            UsageError: no real picture, no generator, or one without a name or pictures.
        """
        if not len(real) or not fakes or not all(name and len(made) for name, made in fakes.items()):
            raise UsageError("a set needs real pictures, and generators with a name and pictures")
        sources: list[Path | Tensor] = list(real)
        names, partners = [""] * len(real), [-1] * len(real)
        for name, made in fakes.items():
            sources += list(made)
            names += [name] * len(made)
            partners += list(range(len(real))) if len(made) == len(real) else [-1] * len(made)
        labels = np.array([0] * len(real) + [1] * (len(sources) - len(real)))
        return cls(sources, labels, names, np.array(partners))

    @property
    def made_by(self) -> list[str]:
        """The generators, in order of their first picture."""
        return list(dict.fromkeys(name for name, label in zip(self.generators, self.labels, strict=True) if label))

    def key(self, row: int) -> str:
        """A name of the picture that stays the same wherever its folder lies: what is drawn for it hangs on this."""
        return self.keys[row] if self.keys else str(row)

    def named(self, row: int) -> str:
        """The picture as messages name it: its path, or its row."""
        source = self.sources[row]
        return f"picture {row}" if isinstance(source, Tensor) else str(source)

    def image(self, row: int) -> Float[Tensor, "3 H W"]:
        """One picture in [0, 1] at its own size.

        Raises:
            DataError: a file that cannot be read.
        """
        source = self.sources[row]
        return source if isinstance(source, Tensor) else to_tensor(open_image(source, mode="RGB"))

    def rows(self, generator: str | None = None, *, label: int | None = None) -> list[int]:
        """Rows of a generator's comparison: its fakes, and the real pictures that belong to it or to all.

        Args:
            generator: None for all.
            label: only real (0) or only generated (1) ones.
        """
        kept = []
        for row, (name, own) in enumerate(zip(self.generators, self.labels, strict=True)):
            if label is not None and own != label:
                continue
            if generator is None or name == generator or (own == 0 and not name):
                kept.append(row)
        return kept


def real_fake_folder(root: str | Path) -> RealFakeSet:
    """Read `0_real/` and `1_fake/`: the layout of CNNDetection, GenImage and AIGCDetectBenchmark.

    Either `ROOT/0_real` and `ROOT/1_fake/GENERATOR/` (without sub-folders the generator is called `fake`), or
    `ROOT/GENERATOR/0_real` and `ROOT/GENERATOR/1_fake`, where every generator has real pictures of its own. A fake
    whose path below its folder is that of a real picture, whatever the suffix, is an aligned copy of it.

    Args:
        root: the folder.

    Raises:
        UsageError: no such folder, or none of the two layouts.
        DataError: no real or no generated picture.

    Examples:
        >>> real_fake_folder("pictures").made_by  # doctest: +SKIP
        ['sd15', 'stylegan']
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(why_no_folder(root))
    pairs = [(root, "")] if (root / REAL).is_dir() or (root / FAKE).is_dir() else []
    if not pairs:
        pairs = [(path, path.name) for path in sorted(root.iterdir()) if (path / REAL).is_dir()]
    if not pairs:
        raise UsageError(
            f"{root} has neither {REAL}/ and {FAKE}/ nor folders that have them: real pictures go into {REAL}, "
            f"generated ones into {FAKE}/GENERATOR"
        )
    rows: list[tuple[Path, int, str, int]] = []  # path, label, generator, partner
    skipped: list[tuple[str, str]] = []
    for folder, name in pairs:
        real, fake = (_pictures(folder / part, skipped) for part in (REAL, FAKE))
        place = {path.relative_to(folder / REAL).with_suffix(""): len(rows) + i for i, path in enumerate(real)}
        rows += [(path, 0, name, -1) for path in real]
        for path in fake:
            below = path.relative_to(folder / FAKE).with_suffix("")
            inner = below.parts[0] if len(below.parts) > 1 and not name else ""
            same = below.relative_to(inner) if inner else below
            rows.append((path, 1, name or inner or "fake", place.get(same, -1)))
    for label, part in ((0, REAL), (1, FAKE)):
        if not any(row[1] == label for row in rows):
            raise DataError(f"no images in {part} of {root}: looked for PNG, JPEG, WebP, GIF, BMP and TIFF, also below")
    labels, partners = (np.array([row[column] for row in rows]) for column in (1, 3))
    keys = [row[0].relative_to(root).as_posix() for row in rows]
    return RealFakeSet([row[0] for row in rows], labels, [row[2] for row in rows], partners, skipped, keys)


def _pictures(folder: Path, skipped: list[tuple[str, str]]) -> list[Path]:
    return list_images(folder, skipped=skipped) if folder.is_dir() else []
