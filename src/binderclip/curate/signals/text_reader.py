"""Reading the text in pictures, by an optional library."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from binderclip.errors import NotSupported, UsageError, require

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["TextReader"]

Library = Literal["rapidocr", "tesseract"]
_PACKAGES = {"rapidocr": "rapidocr_onnxruntime", "tesseract": "pytesseract"}


class TextReader:
    """Reads the words in a picture: a reader for `ReadText`, whose column is `ocr`.

    Args:
        library: "rapidocr" (package rapidocr-onnxruntime, whose networks come with it: `pip install
            "binderclip[ocr]"`), or "tesseract" (package pytesseract, for the program of that name).
        least: score of a line of text below which it is left out, for "rapidocr".

    Raises:
        UsageError: another library, or a score outside 0 to 1.
        MissingDependency: its package is not installed.

    Examples:
        >>> from binderclip.curate import ReadText, TextReader
        >>> signals = {"ocr": ReadText(TextReader())}                                       # doctest: +SKIP
    """

    def __init__(self, library: Library = "rapidocr", *, least: float = 0.5) -> None:
        if library not in get_args(Library):
            raise UsageError(f"text is read by {' or '.join(get_args(Library))}, not {library!r}")
        if not 0 <= least <= 1:
            raise UsageError(f"least is {least}; scores are from 0 to 1")
        self.library, self.least = library, least
        self._module: Any = require(_PACKAGES[library], "ocr")

    @property
    def version(self) -> str:
        """Library, its version and the settings, for `ReadText`."""
        package = _PACKAGES[self.library].replace("_", "-")
        return f"{package} {metadata.version(package)} {self.least}"

    @cached_property
    def _read(self) -> Callable[[Image.Image], str]:
        if self.library == "tesseract":
            return self._module.image_to_string
        engine = self._module.RapidOCR()

        def read(picture: Image.Image) -> str:
            # As OpenCV has them: blue first. A line is [corners, text, score]; None where there is no text.
            lines, _ = engine(np.asarray(picture)[:, :, ::-1])
            return " ".join(text for _, text, score in lines or () if float(score) >= self.least)

        return read

    def __call__(self, picture: Image.Image) -> str:
        """The words in a picture, with single spaces between them; "" where there are none.

        Args:
            picture: RGB.

        Raises:
            NotSupported: the program tesseract is not installed.
        """
        try:
            return " ".join(self._read(picture).split())
        except Exception as error:
            # pytesseract finds out only now; its class is known only where it is installed.
            if type(error).__name__ == "TesseractNotFoundError":
                raise NotSupported("the program tesseract, which pytesseract runs, is not installed") from error
            raise
