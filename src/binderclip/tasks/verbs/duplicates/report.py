"""The page of `binderclip duplicates`: each group side by side, the one that is kept first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from binderclip.data.images import contained, open_image
from binderclip.errors import DataError
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.page import Page

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.search.duplicates.fingerprint import Fingerprint
    from binderclip.tasks.verbs.duplicates.result import Duplicates

MOST_GROUPS, MOST_SHOWN, SIDE = 60, 12, 180
"""Groups on the page, pictures of one, and pixels of a picture's longer side: the table has all of them."""


def write_report(result: Duplicates, path: Path) -> Path:
    """Write the page, self-contained.

    Args:
        result: of the verb. path: of the page.

    Raises:
        OutputError: it cannot be written.
    """
    page = Page("Duplicates", f"{result.title}. {' '.join(result.conclusion())}")
    for number, group in enumerate(result.groups[:MOST_GROUPS], 1):
        count = len(group.members)
        more = f"{count - MOST_SHOWN} more are in the table." if count > MOST_SHOWN else ""
        page.section(f"Group {number}", f"{count} pictures. {more}")
        cards = []
        for place, each in enumerate(group.members[:MOST_SHOWN]):
            relation = group.to_kept(place)
            about = f"{relation.why}, {relation.similarity:.3f}" if relation else "kept"
            cards.append((_small(each), f"{about}: {short_path(each.path)}, {caption_of(each)}"))
        page.strip([(picture, text) for picture, text in cards if picture is not None], width=SIDE)
    if len(result.groups) > MOST_GROUPS:
        page.text(f"{len(result.groups) - MOST_GROUPS} more groups are in the table.")
    if result.skipped:
        page.section("Not read", "They are in no group, and stay.")
        page.table(["what", "why"], [list(entry) for entry in result.skipped[:50]])
    return page.save(path)


def caption_of(each: Fingerprint) -> str:
    """Size, bytes, date and sharpness in a line."""
    return (
        f"{each.width} x {each.height}, {each.bytes:,} bytes, {each.date:%Y-%m-%d %H:%M}, "
        f"sharpness {each.sharpness:,.0f}"
    )


def _small(each: Fingerprint) -> Image.Image | None:
    try:
        return contained(open_image(each.path, size_hint=SIDE), SIDE)
    except DataError:  # it has gone since it was read
        return None
