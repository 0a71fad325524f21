"""What comes of `duplicates`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from binderclip.display import number_of
from binderclip.files import megabytes
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.duplicates.request import DuplicatesRequest

if TYPE_CHECKING:
    from binderclip.search.duplicates.fingerprint import Fingerprint

TABLE, DOCUMENT, REMOVE, REPORT = "duplicates.csv", "duplicates.json", "remove.txt", "report.html"
COLUMNS = (
    "group", "image", "action", "similarity", "why", "width", "height", "bytes", "date", "sharpness",
)  # fmt: skip
SAME_BYTES, SAME_PIXELS, NEAR = "same bytes", "same pixels", "near"


class CopyRelation(NamedTuple):
    """What two pictures of a group have in common.

    Attributes:
        first, second: places of the two in the group, first < second.
        similarity: 1 where the pixels are the same. why: `same bytes`, `same pixels` or `near`.
    """

    first: int
    second: int
    similarity: float
    why: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Pictures each of which is a copy of each other.

    Attributes:
        members: the one to be kept first, the others in the order of the rule.
        relations: of the first with each other one, and of all pairs in a group of at most 50.
    """

    members: list[Fingerprint]
    relations: list[CopyRelation]

    def to_kept(self, place: int) -> CopyRelation | None:
        """The relation of a member to the one that is kept; None for that one itself."""
        return next((each for each in self.relations if each.first == 0 and each.second == place), None)

    @property
    def removed(self) -> list[Fingerprint]:
        return self.members[1:]


@dataclass(frozen=True)
class Duplicates(VerbResult):
    """Groups of copies among pictures.

    Attributes:
        groups: in the order of their first pictures. pictures: that could be read.
        copied: pictures in `request.kept_folder`.
        skipped: (path, reason) of those that could not be read; they are in no list.
        complete: whether every picture that was named one by one could be read.
    """

    request: DuplicatesRequest
    groups: list[DuplicateGroup]
    pictures: int
    copied: int
    skipped: list[tuple[str, str]]
    complete: bool = True

    @property
    def title(self) -> str:
        return f"{number_of(self.pictures, 'picture')}, {number_of(len(self.groups), 'group')} of duplicates"

    @property
    def removed(self) -> list[Fingerprint]:
        """The pictures that would go."""
        return [each for group in self.groups for each in group.removed]

    @property
    def listed(self) -> list[str]:
        """Paths of those that would go, for a list with one a line: without names that have a line break in them.

        Such a name would be two lines, and the second may be the name of a picture that is to stay.
        """
        return [str(each.path) for each in self.removed if len(str(each.path).splitlines()) == 1]

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture of a group."""
        rows = [
            (number, short_path(image), action, similarity, why, f"{wide} x {high}", size)
            for number, image, action, similarity, why, wide, high, size, *_ in self.rows()
        ]
        return ("group", "image", "action", "similarity", "why", "size", "bytes"), rows

    def conclusion(self) -> list[str]:
        """How many would go, and by which rule."""
        if not self.groups:
            return ["No picture is there twice."]
        count, size = len(self.removed), sum(each.bytes for each in self.removed)
        return [
            f"{number_of(count, 'picture')} of {self.pictures:,} would go, {megabytes(size)}; the {self.request.keep} "
            "of each group stays. Nothing was deleted."
        ]

    def remarks(self) -> list[str]:
        """That what is only near should be looked at, and what was copied."""
        lines = []
        if any(each.why == NEAR for group in self.groups for each in group.relations):
            lines.append("near-duplicates are judged by how they look: look at the report before you delete any")
        if unlisted := len(self.removed) - len(self.listed):
            lines.append(
                f"{REMOVE} leaves out {number_of(unlisted, 'picture')} with a line break in the name: see {TABLE}"
            )
        if self.request.kept_folder is not None:
            lines.append(f"{number_of(self.copied, 'picture')} copied to {self.request.kept_folder}")
            if self.skipped:
                lines.append(f"not copied: {number_of(len(self.skipped), 'picture')} that could not be read")
        return lines

    @property
    def files(self) -> list[Path]:
        """The table, the document, the list and the page."""
        return [Path(self.request.out) / name for name in (TABLE, DOCUMENT, REMOVE, REPORT)]

    def places(self) -> list[str]:
        table, document, remove, report = map(str, self.files)
        return [f"report {report}, to remove {remove}, {table}, {document}"]

    def rows(self) -> list[tuple[Any, ...]]:
        """A row a picture of a group, in the columns of duplicates.csv."""
        rows: list[tuple[Any, ...]] = []
        for number, group in enumerate(self.groups, 1):
            for place, each in enumerate(group.members):
                relation = group.to_kept(place)
                tail = (
                    each.width,
                    each.height,
                    each.bytes,
                    each.date.isoformat(" ", "seconds"),
                    round(each.sharpness, 2),
                )
                named = ("remove", round(relation.similarity, 4), relation.why) if relation else ("keep", "", "")
                rows.append((number, str(each.path), *named, *tail))
        return rows

    def as_dict(self) -> dict[str, Any]:
        rows: list[list[dict[str, Any]]] = [[] for _ in self.groups]
        for row in (dict(zip(COLUMNS, row, strict=True)) for row in self.rows()):
            rows[row["group"] - 1].append(row)
        groups = [
            {
                "images": [
                    {name: value for name, value in row.items() if name not in ("group", "similarity", "why")}
                    for row in own
                ],
                "pairs": [
                    {
                        "first": str(group.members[each.first].path), "second": str(group.members[each.second].path),
                        "similarity": round(each.similarity, 4), "why": each.why,
                    }
                    for each in group.relations
                ],
            }
            for own, group in zip(rows, self.groups, strict=True)
        ]  # fmt: skip
        return {
            "pictures": self.pictures,
            "groups": groups,
            "remove": [str(each.path) for each in self.removed],
            "bytes": sum(each.bytes for each in self.removed),
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "out": self.request.out,
            "request": self.request.as_document(),
        }
