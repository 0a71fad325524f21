"""`binderclip explain --words`: which words of a caption speak for the image and which against it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from binderclip.cli.shared.output import console, note, print_json
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.verbs.explain import caption_score, words_html

if TYPE_CHECKING:
    from binderclip.explain import Misalignment


def explain_words(
    image_path: str | Path,
    caption: str,
    model: str = "small",
    device: str = "cpu",
    dtype: str = "float32",
    out: str | Path | None = None,
    json: bool = False,
    html: str | Path | None = None,
    *,
    decision: str = "threshold",
    eps: float | None = None,
    prompt: str = "A photo depicts ",
) -> None:
    """Print a caption with its words coloured by what they do to the match with an image.

    Args:
        image_path: the picture.
        caption: what it is said to show.
        model, device, dtype: as `models.load` takes them.
        out: another name for `html`, for verbs that call their result so.
        json: print one JSON document instead.
        html: write a page with the picture and the coloured words to this file.
        decision: `threshold` or `most-negative`.
        eps: threshold; None takes the published one, for bundled models one found on bundled pictures that fit.
        prompt: template in front of the caption.

    Raises:
        UsageError: an empty caption, `out` and `html` that differ, a page that is not .html, an unknown decision.
        DataError: a picture that cannot be read, a page that cannot be written.
    """
    if not caption.strip():
        raise UsageError("the caption is empty: give words, such as 'a red car on a road'")
    page = _page_path(out, html)

    from binderclip.data import open_image
    from binderclip.models import load

    picture = open_image(image_path)
    clip = load(model, device=device, dtype=dtype)
    score = caption_score(clip, model, picture, caption, decision=decision, eps=eps, prompt=prompt)
    found = score.found
    if page is not None:
        _save(page, picture, caption, found, model)
    if found.lost()[0] and not json:
        room = clip.tokenizer.context_length
        note(f"not seen by {model} (its context has {number_of(room, 'token')}): {', '.join(found.lost()[0])}")
    if json:
        print_json(_document(str(image_path), caption, model, found, score, page))
        return
    console.print(coloured(found.words()[0], found.flagged[0]))
    wrong = found.misaligned()[0]
    says = f"does not fit: {', '.join(wrong)}" if wrong else "no word below the threshold"
    numbers = f"cosine {float(found.cosine):.3f}, CLIPScore {float(score.clip_score):.3f}"
    console.print(
        f"{says}\n{numbers}, F-CLIPScore {float(score.f_clip_score):.5f}; {_read(found)}", highlight=False, markup=False
    )
    if page is not None:
        console.print(f"page {page}", highlight=False, markup=False, soft_wrap=True)


def coloured(words: Sequence[tuple[str, float | None]], flagged: Sequence[bool]) -> Text:
    """The caption for a terminal: green speaks for the image, red against; what does not fit is underlined."""
    top = max((abs(score) for _, score in words if score is not None), default=0.0) or 1.0
    line = Text()
    for place, ((word, score), wrong) in enumerate(zip(words, flagged, strict=True)):
        line.append(" " if place else "")
        line.append(word, style="dim strike" if score is None else _shade(score / top) + " underline" * wrong)
    return line


def _shade(share: float) -> str:
    if abs(share) < 0.1:
        return "default"
    strong = "bold " if abs(share) > 0.5 else ""
    return strong + ("green" if share > 0 else "red")


def _page_path(out: str | Path | None, html: str | Path | None) -> Path | None:
    if out is not None and html is not None and Path(out) != Path(html):
        raise UsageError(f"two pages are named, {out} and {html}: give one")
    given = html if html is not None else out
    if given is None:
        return None
    path = Path(given)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the words' page is HTML: name it {path.with_suffix('.html')}, not {path}")
    return writable_path(path)


def _save(path: Path, picture: Any, caption: str, found: Misalignment, model: str) -> None:
    from binderclip.tasks.report.page import Page

    wrong = found.misaligned()[0]
    says = "Does not fit: " + ", ".join(wrong) if wrong else "No word is below the threshold"
    page = Page(caption, f"{escape(says)}. Green words speak for the picture, red ones against it; {_read(found)}.")
    page.picture(picture, f"cosine {float(found.cosine):.3f} with {model}")
    page.text(words_html(found))
    page.table(
        ["word", "score x 1000", ""],
        [
            (word, "not seen" if score is None else f"{1000 * score:.3f}", "does not fit" if bad else "")
            for (word, score), bad in zip(found.words()[0], found.flagged[0], strict=True)
        ],
    )
    page.save(path)


def _read(found: Misalignment) -> str:
    blocks = f"block {found.layers[0]}" if len(found.layers) == 1 else f"blocks {found.layers[0]} to {found.layers[-1]}"
    rule = "the lowest word" if found.eps is None else f"words below {found.eps:.2g}"
    return f"{rule}, {blocks} of the text tower"


def _document(
    image: str, caption: str, model: str, found: Misalignment, score: Any, page: Path | None
) -> dict[str, Any]:
    return {
        "image": image,
        "caption": caption,
        "model": model,
        "cosine": float(found.cosine),
        "clip_score": float(score.clip_score),
        "f_clip_score": float(score.f_clip_score),
        "threshold": found.eps,
        "text_blocks": list(found.layers),
        "words": [
            {"word": word, "score": value, "misaligned": bad}
            for (word, value), bad in zip(found.words()[0], found.flagged[0], strict=True)
        ],
        "not_seen": found.lost()[0],
        "page": page,
    }
