"""Hooks of mkdocs: what the site has beyond its Markdown files is made here, when it is built."""

from __future__ import annotations

import re
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

# mkdocs finds what lies beside a hook while it loads it, and only then.
from notebooks import run, to_markdown
from tables import fill

SOURCE = "https://github.com/binderclip/binderclip/blob/main"
WIDE = ("PAPERS.md", "BENCHMARKS.md", "SEGMENTATION.md")
"""Pages of tables: the side bars leave their room to them."""
WITHOUT_CONTENTS = (
    "index.md",
    "guides/choose-your-clipping.md",
    "guides/choose-your-head.md",
    "guides/choose-your-preset.md",
)
"""Pages with pictures or tables beside each other: the list of sections leaves its room to them."""


@lru_cache(maxsize=1)
def stored() -> Any:
    """The results of the studies by paper."""
    from binderclip.studies import results_in

    return results_in(Path(__file__).parents[1] / "results")


def on_files(files: Any, config: Any) -> Any:
    """Run the notebooks and put a page in the place of each."""
    from mkdocs.structure.files import File

    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        files.remove(file)
        with tempfile.TemporaryDirectory() as folder:
            text = to_markdown(run(Path(file.abs_src_path), Path(folder)))
        files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the tables of a page in their place, and lead its links to notebooks to their pages."""
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["navigation", "toc"]
    if page.file.src_uri in WITHOUT_CONTENTS:
        page.meta["hide"] = ["toc"]
    markdown = re.sub(r"(\]\([^)\s]+)\.ipynb\)", r"\1.md)", markdown)
    # Tests are no part of the site: in the sources a link leads to the file, here to the repository.
    markdown = re.sub(r"\]\((?:\.\./)+tests/", f"]({SOURCE}/tests/", markdown)
    if "<!-- table: " not in markdown:
        return markdown
    return fill(markdown, stored(), "../" * page.file.src_uri.count("/"))
