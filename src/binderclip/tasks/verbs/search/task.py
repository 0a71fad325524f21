"""`search_index` and `search_query`, which load what they work with when they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.search.request import SearchIndexRequest, SearchQueryRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.search.index import Indexed
    from binderclip.tasks.verbs.search.query import SearchHits

__all__ = ["search_index", "search_query"]


def _index(request: SearchIndexRequest) -> Indexed:
    from binderclip.tasks.verbs.search.index import run

    return run(request)


def _query(request: SearchQueryRequest) -> SearchHits:
    from binderclip.tasks.verbs.search.query import run

    return run(request)


search_index = VerbTask(SearchIndexRequest, _index)
"""`binderclip search index`: encode the images of a folder once, and bring its index up to date."""
search_query = VerbTask(SearchQueryRequest, _query)
"""`binderclip search query`: images, and texts, by words or by an example."""
