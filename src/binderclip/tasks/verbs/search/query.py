"""`search query`: what an index has that is like words or a picture."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from binderclip.data.images import IMAGE_SUFFIXES, list_images
from binderclip.data.storage import is_object
from binderclip.errors import UsageError
from binderclip.models.files.registry import DEFAULT
from binderclip.search import Hit, SearchIndex
from binderclip.search.index import read_note
from binderclip.tasks.events import Saved, emit, start, warn
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import picture_path
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.models import encoder
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.search.index import correction_of
from binderclip.tasks.verbs.search.index import run as make_index
from binderclip.tasks.verbs.search.request import HERE, INSIDE, SearchIndexRequest, SearchQueryRequest


@dataclass(frozen=True)
class SearchHits(VerbResult):
    """What was found, nearest first.

    Attributes:
        model: name of the model.
        index: that was asked.
        hits: with their scores.
        by_image: whether a picture asked, not words.
    """

    whole: ClassVar[bool] = True

    request: SearchQueryRequest
    model: str
    index: SearchIndex
    hits: list[Hit]
    by_image: bool

    @property
    def title(self) -> str:
        """Who asked what."""
        return f"{self.asked}, model {self.model}"

    @property
    def asked(self) -> str:
        """The words, with those that were taken away, or the picture's path."""
        minus = self.request.minus
        return self.request.text_or_image if minus is None else f"{self.request.text_or_image} without {minus}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a hit."""
        columns = ("rank", "document" if self.index.mixed else "image", self.index.measure)
        return columns, [(rank, short_path(hit.path), hit.score) for rank, hit in enumerate(self.hits, 1)]

    @property
    def pictures(self) -> list[Hit]:
        """The hits that are pictures, and are there still."""
        return [hit for hit in self.hits if _is_picture(hit) and hit.path.is_file()]

    def remarks(self) -> list[str]:
        """What corrects the scores, and that the model is weak on photographs, where it is."""
        lines = [] if self.by_image else correction_of(self.index)
        return lines + weak_on_photographs(self.model, [hit.path for hit in self.pictures])

    def places(self) -> list[str]:
        """Where the sheet is, and how many pictures it is without."""
        if self.request.picture is None:
            return []
        gone = sum(map(_is_picture, self.hits)) - len(self.pictures)
        lines = [f"sheet {self.request.picture}"] if self.pictures else []
        if gone:
            lines.append(f"{gone} of these files are gone; bring the index up to date with `search index`")
        return lines

    def as_dict(self) -> dict[str, Any]:
        return {
            "query": self.request.text_or_image,
            "minus": self.request.minus,
            "hits": [{"image": hit.path, "score": hit.score} for hit in self.hits],
            "request": self.request.as_document(),
        }

    def write_sheet(self, path: Path) -> None:
        """Draw the pictures that were found, nearest first."""
        asked = self.asked
        cards = [(hit.path, hit.path.name, f"{hit.score:.2f}") for hit in self.pictures]
        contact_sheet(cards, path, title=f"more like {Path(asked).name}" if self.by_image else asked, columns=5)


def run(request: SearchQueryRequest) -> SearchHits:
    """Ask an index, which a folder of pictures gets where it has none, and write the sheet.

    Raises:
        UsageError: there is no such index, folder or picture, or a sheet that would replace what is none of ours.
        DataError: the index is of another model, or the picture cannot be read.
    """
    asked = request.text_or_image
    by_image = not request.text and _is_file(asked)
    if not by_image and not request.text and Path(asked).suffix.lower() in IMAGE_SUFFIXES:
        raise UsageError(f"there is no file {asked}")
    if by_image and request.minus is not None:
        raise UsageError(f"--minus takes words away from words, and {asked} is a picture")
    if by_image:
        one_image(asked)
    sheet = picture_path(request.picture) if request.picture else None
    name, index = _opened(request)
    if by_image:
        # Who shows a picture of the folder knows that it is like itself.
        own = Path(asked).resolve()
        hits = [hit for hit in index.query(Path(asked), top=request.top + 1) if hit.path.resolve() != own]
    else:
        hits = list(index.query(asked, top=request.top, minus=request.minus, minus_weight=request.minus_weight))
    result = SearchHits(request, name, index, hits[: request.top], by_image)
    if sheet is not None and result.pictures:
        result.write_sheet(sheet)
        emit(Saved(sheet))
    return result


def _opened(request: SearchQueryRequest) -> tuple[str, SearchIndex]:
    """The model's name and the index; a folder of pictures that was named and has none gets it now.

    Raises:
        UsageError: there is neither. What one stands in is not indexed unasked: it may be all that a person has.
    """
    folder = Path(request.index)
    named = not is_object(request.index) and request.index != HERE
    if named and folder.is_dir() and not (folder / INSIDE).is_dir() and list_images(folder):
        warn(f"{folder} has no index yet: it is made now, in {folder / INSIDE}")
        name = request.model or DEFAULT
        asked = SearchIndexRequest(folder=folder, model=name, device=request.device, dtype=request.dtype)
        return name, make_index(asked).index
    place = _indexed(request.index)
    note = read_note(place) if not isinstance(place, Path) or place.is_dir() else None
    if note is None:
        raise UsageError(f"there is no index at {place}; make one with `binderclip search index FOLDER`")
    name = request.model or note["model"]
    start("loading the model")
    return name, SearchIndex(place, encoder(name, device=request.device, dtype=request.dtype))


def _is_picture(hit: Hit) -> bool:
    return hit.path.suffix.lower() in IMAGE_SUFFIXES


def _is_file(text: str) -> bool:
    """Whether words or a path name a file; a sentence may be longer than a file's name can be."""
    try:
        return Path(text).is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def _indexed(place: str) -> Path | str:
    """Where the index of a folder lies, or the place itself."""
    if is_object(place):
        return place
    return Path(place, INSIDE) if Path(place, INSIDE).is_dir() else Path(place)
