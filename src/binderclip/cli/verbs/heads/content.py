"""What `binderclip heads` shows, in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.explain import Decomposition, NamedHead
    from binderclip.models import ImageTextModel


SILENT = 0.1
"""A head with less than this share of what a head has on average says next to nothing."""


@dataclass(frozen=True)
class HeadPictures:
    """What the heads are watched on.

    Attributes:
        names: of the pictures.
        open: from the number of a picture to what `decompose_image_embedding` takes.
        source: in words.
    """

    names: list[str]
    open: Callable[[int], Any]
    source: str

    def __iter__(self) -> Iterator[Any]:
        return (self.open(number) for number in range(len(self.names)))


@dataclass(frozen=True)
class Heads:
    """All that is shown.

    Attributes:
        model: the model.
        pictures: those that were asked for; `found.index` are those that could be read.
        texts: the pool.
        found: the decomposition in the scale of unit embeddings.
        named: the heads, largest share of the variance first.
        strongest: for each of them, numbers of pictures whose output points most along its first text.
    """

    model: ImageTextModel
    pictures: HeadPictures
    texts: list[str]
    found: Decomposition
    named: list[NamedHead]
    strongest: list[list[int]]

    def silent(self, one: NamedHead) -> bool:
        """Whether this head says next to nothing."""
        return one.share < SILENT / len(self.named)


def picture_of(shown: Heads, row: int) -> Image.Image:
    """The picture behind one row of the decomposition, on white."""
    from binderclip.data import open_image

    return open_image(shown.pictures.open(shown.found.index[row]))
