"""What comes of `draw`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from binderclip.tasks.files.writing import short_path
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.draw.judge import OTHERS, DrawingScore
from binderclip.tasks.verbs.draw.request import DrawRequest

SEEN = 0.95
"""Place from which a text counts as seen: by chance one picture in twenty has as high a one."""
MOST_TEXT = 80
"""Characters of the text in a title."""


@dataclass(frozen=True)
class DrawnText(VerbResult):
    """A picture of a text.

    Attributes:
        steps: that were done.
        judge, guide: what the model that did not guide says of it, and the one that did.
        svg: the drawing as SVG, where it is one of strokes.
    """

    whole: ClassVar[bool] = True

    request: DrawRequest
    steps: int
    judge: DrawingScore
    guide: DrawingScore
    svg: Path | None

    @property
    def picture(self) -> Path:
        """The file."""
        return Path(self.request.out)

    @property
    def title(self) -> str:
        text = self.request.text
        short = text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."
        return (
            f"{short!r} by {self.request.method}, {self.steps} steps, seed {self.request.seed}: cosines with the text"
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row for the judge and one for the guide."""
        columns = ("model", "", "before", "after", "other texts", "place before", "place after")
        return columns, [
            (
                one.model, "guided" if one.guides else "judges", one.before, one.after, one.others, one.place_before,
                one.place,
            )
            for one in (self.judge, self.guide)
        ]  # fmt: skip

    def conclusion(self) -> list[str]:
        """What the judge sees in the picture, and how its figures are read."""
        judge = self.judge
        fits = f"the text fits the picture better than {judge.place:.0%} of {OTHERS} other texts of its length do"
        seen = "sees the text in it" if judge.place >= SEEN else "does not see the text in it with any certainty"
        return [
            f"The judge {judge.model}, which did not guide, {seen}: {fits} (before: {judge.place_before:.0%}; by "
            "chance: 50%).",
            "Cosines of two models cannot be compared with each other: compare each with that of other texts, and "
            "believe the judge, since a model is fooled by what it guides. Whether people see it, only looking tells.",
        ]

    def remarks(self) -> list[str]:
        return [f"seed {self.request.seed}: the same command gives the same picture, another --seed another one"]

    def places(self) -> list[str]:
        return [f"picture {short_path(self.picture)}", *([f"drawing {short_path(self.svg)}"] if self.svg else [])]

    def as_dict(self) -> dict[str, Any]:
        return {
            "text": self.request.text,
            "method": self.request.method,
            "steps": self.steps,
            "seed": self.request.seed,
            "judge": asdict(self.judge),
            "guide": asdict(self.guide),
            "picture": self.picture,
            "svg": self.svg,
            "request": self.request.as_document(),
        }
