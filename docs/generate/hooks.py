"""Hooks of mkdocs: what the site has beyond its Markdown files is made here, when it is built."""

from __future__ import annotations

from typing import Any

WIDE = ("PAPERS.md", "BENCHMARKS.md", "SEGMENTATION.md")
"""Pages of tables: the side bars leave their room to them."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Prepare one page."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["navigation", "toc"]
    return markdown
