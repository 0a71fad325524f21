"""What comes of `heads`, as tables, as a document and in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from binderclip.display import number_of
from binderclip.tasks.request import ReportedResult
from binderclip.tasks.verbs.heads.request import HeadsRequest

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
class Heads(ReportedResult):
    """All that is shown.

    Attributes:
        model: the model.
        pictures: those that were asked for; `decomposition.index` are those that could be read.
        texts: the pool.
        decomposition: in the scale of unit embeddings.
        named: the heads, largest share of the variance first.
        strongest: for each of them, numbers of pictures whose output points most along its first text.
    """

    whole: ClassVar[bool] = True

    request: HeadsRequest
    model: ImageTextModel
    pictures: HeadPictures
    texts: list[str]
    decomposition: Decomposition
    named: list[NamedHead]
    strongest: list[list[int]]

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of pictures that could not be read."""
        return [(self.pictures.names[number], reason) for number, reason in self.decomposition.skipped]

    @property
    def title(self) -> str:
        """How many heads of which model, on which pictures."""
        return (
            f"{self.model.name}: {number_of(len(self.named), 'head')}, "
            f"{number_of(len(self.decomposition), 'picture')} ({self.pictures.source})"
        )

    def silent(self, one: NamedHead) -> bool:
        """Whether this head says next to nothing."""
        return one.share < SILENT / len(self.named)

    def quiet(self) -> tuple[list[NamedHead], str]:
        """The heads that say next to nothing, and how many and how much they are together, in words."""
        heads = [one for one in self.named if self.silent(one)]
        share = sum(one.share for one in heads)
        return (
            heads,
            f"next to nothing is said by {number_of(len(heads), 'head')} (together {share:.1%} of the variance)",
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a head that says something."""
        return ("head", "share", "explained", "role", "texts"), [
            (
                f"{one.layer}.{one.head}",
                one.share,
                float(one.span.explained[-1]) if len(one.span) else 0.0,
                one.role,
                "; ".join(one.span.texts[: self.request.top]),
            )
            for one in self.named
            if not self.silent(one)
        ]

    def conclusion(self) -> list[str]:
        """Which heads say next to nothing."""
        heads, sentence = self.quiet()
        names = ", ".join(f"{one.layer}.{one.head}" for one in sorted(heads, key=lambda one: (one.layer, one.head)))
        return [f"{sentence}: {names}"] if heads else []

    def as_dict(self) -> dict[str, Any]:
        heads = [
            {
                "block": one.layer,
                "head": one.head,
                "share": one.share,
                "silent": self.silent(one),
                "role": one.role,
                "explained": float(one.span.explained[-1]) if len(one.span) else 0.0,
                "principal_components_explain": float(one.span.bound[-1]) if len(one.span) else 0.0,
                "texts": [
                    {"text": text, "role": role, "explained": float(gain)}
                    for text, role, gain in zip(one.span.texts, one.roles, one.span.gains, strict=True)
                ],
                "images": [self.pictures.names[self.decomposition.index[row]] for row in rows],
            }
            for one, rows in zip(self.named, self.strongest, strict=True)
        ]
        return {
            "model": self.model.name,
            "images": len(self.decomposition),
            "source": self.pictures.source,
            "texts": len(self.texts),
            "heads": heads,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "report": self.report,
            "request": self.request.as_document(),
        }


def picture_of(result: Heads, row: int) -> Image.Image:
    """The picture behind one row of the decomposition, on white."""
    from binderclip.data import open_image

    return open_image(result.pictures.open(result.decomposition.index[row]))
