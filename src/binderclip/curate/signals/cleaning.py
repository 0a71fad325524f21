"""Take out of a caption what a scorer should not look at: numbers, prices, dates, names of files, mark-up.

Numbers are those of p102; the other cleaners are variants of ours.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

_NUMBER = re.compile(r"\d+(?:[.,:/\-]\d+)*")
_FILE = re.compile(r"\b([\w-]+)\.(?:jpe?g|png|gif|webp|bmp|tiff?)\b", re.IGNORECASE)
_PRICE = re.compile(r"[$€£¥]\s?\d+(?:[.,]\d+)*|\b\d+(?:[.,]\d+)*\s?(?:[$€£¥]|(?:USD|EUR|GBP|JPY)\b)")
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
_DATE = re.compile(
    rf"\b\d{{1,4}}[./-]\d{{1,2}}[./-]\d{{1,4}}\b|\b\d{{1,2}} {_MONTH},? \d{{4}}\b|\b{_MONTH} \d{{1,2}},? \d{{4}}\b"
)
_TAG = re.compile(r"<[a-zA-Z/!][^<>]*>")


def strip_numbers(caption: str, *, keep_alnum: bool = True, placeholder: str = "") -> str:
    """A caption without its numbers: runs of digits with the separators `. , : / -` between them.

    Of "Devil in the Number: Towards Robust Multi-modality Data Filter" (arXiv 2309.13770). Which numbers count is not
    said there in full; here digits of every script do, and a caption without any comes back as it is.

    Args:
        caption: the text.
        keep_alnum: leave numbers that touch a letter, directly or over one hyphen: "4x4", "mp3", "covid-19".
        placeholder: stands where a number was; white space around it becomes single spaces.

    Returns:
        The caption, "" where nothing else was in it.

    Examples:
        >>> strip_numbers("2 dogs, 12/05/2019, in a 4x4")
        'dogs, , in a 4x4'
    """
    out, end = [], 0
    for match in _NUMBER.finditer(caption):
        if keep_alnum and _touches_letter(caption, match.start(), match.end()):
            continue
        out += [caption[end : match.start()], f" {placeholder} "]
        end = match.end()
    return _tidy("".join([*out, caption[end:]])) if out else caption


def _touches_letter(text: str, start: int, end: int) -> bool:
    before, after = text[max(start - 2, 0) : start], text[end : end + 2]
    return (
        before[-1:].isalpha()
        or after[:1].isalpha()
        or (before[-1:] == "-" and before[:-1].isalpha())
        or (after[:1] == "-" and after[1:].isalpha())
    )


def strip_file_names(caption: str) -> str:
    """A caption in which names of picture files lose suffix, digits and underscores: "img_1234.jpg" becomes "img"."""

    def words(match: re.Match[str]) -> str:
        return f" {re.sub(r'[0-9_-]+', ' ', match[1])} "

    return _replaced(_FILE, words, caption)


def strip_prices(caption: str) -> str:
    """A caption without amounts of money: a number with a sign or code of a currency."""
    return _replaced(_PRICE, " ", caption)


def strip_dates(caption: str) -> str:
    """A caption without dates: `12/05/2019`, `2019-05-12`, `12 May 2019`, `May 12, 2019`."""
    return _replaced(_DATE, " ", caption)


def strip_html(caption: str) -> str:
    """A caption without tags, its entities (`&amp;`) written as characters."""
    return _replaced(_TAG, " ", html.unescape(caption)) if set("<&") & set(caption) else caption


def strip_all(caption: str) -> str:
    """All of these, mark-up first and numbers last."""
    for cleaner in (strip_html, strip_file_names, strip_prices, strip_dates, strip_numbers):
        caption = cleaner(caption)
    return caption


CLEANERS: dict[str, Callable[[str], str]] = {
    "numbers": strip_numbers,
    "filenames": strip_file_names,
    "prices": strip_prices,
    "dates": strip_dates,
    "html": strip_html,
    "all": strip_all,
}


def _replaced(pattern: re.Pattern[str], by: str | Callable[[re.Match[str]], str], caption: str) -> str:
    """What a pattern finds replaced, white space tidied; the caption itself where it finds nothing."""
    out, count = pattern.subn(by, caption)
    return _tidy(out) if count else caption


def _tidy(text: str) -> str:
    return " ".join(text.split())
