"""Search in a folder of images by words or by an example: vectors in LanceDB, on disk, kept up to date cheaply."""

from binderclip.search.hits import Hit, Hits
from binderclip.search.index import SearchIndex
from binderclip.search.report import IndexReport

__all__ = ["Hit", "Hits", "IndexReport", "SearchIndex"]
