"""Check a built site: links and pictures lead to files and anchors that are there, nothing is loaded from outside.

`python docs/generate/links.py site` is the last step of `make docs`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""Tags that a browser loads something for without being asked; `link` is looked at by its `rel`."""
LINKED = ("stylesheet", "icon", "preload", "modulepreload")


@dataclass
class PageLinks(HTMLParser):
    """What one page refers to.

    Attributes:
        anchors: ids and names on it.
        links: addresses that a reader may follow.
        loads: addresses that the browser loads by itself.
        no_alt: pictures without a text for who cannot see them.
    """

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    no_alt: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors.update(value for key in ("id", "name") if (value := found.get(key)))
        if tag == "a" and (href := found.get("href")):
            self.links.append(href)
        if (source := found.get(LOADS.get(tag, ""))) is not None:
            self.loads.append(source)
            if tag == "img" and "alt" not in found:
                self.no_alt.append(source)
        if tag == "link" and (href := found.get("href")) and found.get("rel") in LINKED:
            self.loads.append(href)


def problems(site: Path) -> Iterator[str]:
    """What is wrong with the site, one line each.

    Args:
        site: folder of the built site.
    """
    pages: dict[Path, PageLinks] = {}
    for path in sorted(site.rglob("*.html")):
        pages[path.resolve()] = read = PageLinks()
        read.feed(path.read_text(encoding="utf-8"))
    if not pages:
        yield f"{site}: there is no page"
    for path, read in pages.items():
        where = path.relative_to(site.resolve())
        # The page of errors is served from any place and has addresses from the root.
        if where.name == "404.html":
            continue
        yield from (f"{where}: {source} has no text beside it" for source in read.no_alt)
        for address in [*read.links, *read.loads]:
            parts = urlsplit(address)
            if parts.scheme in ("data", "mailto"):
                continue
            if parts.scheme or parts.netloc:
                if address in read.loads:
                    yield f"{where}: loads {address} from outside"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{where}: {address} leads to no file"
            elif parts.fragment and target in pages and not _there(unquote(parts.fragment), pages[target]):
                yield f"{where}: {address} leads to no anchor"


def _there(fragment: str, page: PageLinks) -> bool:
    # What begins with a question mark is read by the table of papers.
    return fragment.startswith("?") or fragment in page.anchors


if __name__ == "__main__":
    found = list(problems(Path(sys.argv[1])))
    print("\n".join(found) or "every link leads somewhere, and nothing is loaded from outside")
    sys.exit(bool(found))
