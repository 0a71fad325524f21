"""`explain --words`: which words of a caption speak for the picture and which against it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.tasks.events import Saved, emit, start
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.models import image_text_model
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.explain.request import ExplainRequest

if TYPE_CHECKING:
    from binderclip.explain import DenseMisalignment, Misalignment

BUNDLED = ("everyday", "small", "small-b")
ALIGNED = 200
"""Fitting pairs of the bundled training pictures that set the threshold of a bundled model."""
COLUMNS = ("word", "score x 1000", "")


@dataclass(frozen=True)
class CaptionReport(VerbResult):
    """What each word of a caption does to its match with a picture.

    Attributes:
        score: F-CLIPScore, with the words' scores in `found`.
        room: tokens that the model reads.
    """

    request: ExplainRequest
    score: Any
    room: int
    complete: bool = True

    @property
    def found(self) -> Misalignment:
        """The words' scores."""
        words: Misalignment = self.score.found
        return words

    @property
    def misfits(self) -> str:
        """Which words do not fit."""
        wrong = self.found.misaligned()[0]
        return f"does not fit: {', '.join(wrong)}" if wrong else "no word below the threshold"

    @property
    def rule(self) -> str:
        """What a word does not fit by, and where it was looked."""
        layers, eps = self.found.layers, self.found.eps
        blocks = f"block {layers[0]}" if len(layers) == 1 else f"blocks {layers[0]} to {layers[-1]}"
        rule = "the lowest word" if eps is None else f"words below {eps:.2g}"
        return f"{rule}, {blocks} of the text tower"

    @property
    def title(self) -> str:
        """The scores, and what they stand on."""
        numbers = f"cosine {float(self.found.cosine):.3f}, CLIPScore {float(self.score.clip_score):.3f}"
        return f"{numbers}, F-CLIPScore {float(self.score.f_clip_score):.5f}; {self.rule}"

    def lines(self) -> list[str]:
        """The words that do not fit, the scores, and the page."""
        page = self.request.page
        return [self.misfits, self.title, *([] if page is None else [f"page {page}"])]

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a word."""
        return COLUMNS, [
            (word, "not seen" if score is None else f"{1000 * score:.3f}", "does not fit" if bad else "")
            for (word, score), bad in zip(self.found.words()[0], self.found.flagged[0], strict=True)
        ]

    def remarks(self) -> list[str]:
        lost = self.found.lost()[0]
        room, model = number_of(self.room, "token"), self.request.model_name
        return [f"not seen by {model} (its context has {room}): {', '.join(lost)}"] if lost else []

    def as_dict(self) -> dict[str, Any]:
        scores, asked = self.found, self.request
        return {
            "image": asked.images[0],
            "caption": asked.images[1],
            "model": asked.model_name,
            "cosine": float(scores.cosine),
            "clip_score": float(self.score.clip_score),
            "f_clip_score": float(self.score.f_clip_score),
            "threshold": scores.eps,
            "text_blocks": list(scores.layers),
            "words": [
                {"word": word, "score": value, "misaligned": bad}
                for (word, value), bad in zip(scores.words()[0], scores.flagged[0], strict=True)
            ],
            "not_seen": scores.lost()[0],
            "page": asked.page,
            "request": asked.as_document(),
        }


def score_caption(request: ExplainRequest) -> CaptionReport:
    """Score the words of a caption, and write the page where one is named.

    Raises:
        UsageError: no such picture, or a page that would replace what is none of ours.
        DataError: a picture that cannot be read, or a page that cannot be written.
    """
    path, caption = one_image(request.images[0]), request.images[1]
    page = None if request.page is None else writable_path(request.page)

    from binderclip.data import open_image

    picture = open_image(path)
    start("loading the model")
    clip = image_text_model(request.model_name, device=request.device, dtype=request.dtype)
    start("reading the caption")
    score = caption_score(clip, request.model_name, picture, caption)
    result = CaptionReport(request, score, clip.tokenizer.context_length)
    if page is not None:
        _save(page, picture, result)
    return result


def caption_score(clip: Any, name: str, picture: Any, caption: str, **settings: Any) -> Any:
    """F-CLIPScore of a picture and a caption, with what every word does to their match in `found`.

    Args:
        clip, name: the model, and what it is called; for a bundled one the threshold is found on bundled pictures.
        picture: opened. caption: what it is said to show.
        settings: of `explain.DenseMisalignment`.
    """
    from binderclip.evaluate import f_clipscore_dm
    from binderclip.explain import DenseMisalignment

    method = DenseMisalignment(**settings)
    if method.decision == "threshold" and "eps" not in settings and name in BUNDLED:
        method = calibrated(clip, method)
    return f_clipscore_dm(clip, [picture], caption, method=method)


def calibrated(clip: Any, method: DenseMisalignment) -> DenseMisalignment:
    """The method with the threshold that 5 % of the words of bundled training captions fall below."""
    from binderclip.data import load_data
    from binderclip.data.cache.features import FeatureCache

    data = load_data("openclipart", split="train")
    # start and end stand in both counts
    room = clip.tokenizer.context_length + 2 - int(clip.tokenizer.encode([method.prompt])[1].sum())
    several = [row for row, text in enumerate(data.captions) if len(text.split()) > 1]
    sizes = clip.tokenizer.encode([data.captions[row] for row in several])[1].sum(dim=1).tolist()
    rows = [row for row, size in zip(several, sizes, strict=True) if size <= room]
    rows = rows[:: max(1, len(rows) // ALIGNED)][:ALIGNED]
    cache = FeatureCache(clip.fingerprint, f"whole, background {data.background}")
    keys = [data.content_hash(row) for row in rows]
    features = cache.fetch(keys, lambda missing: clip.encode_image([data[rows[k]].image for k in missing]))
    return method.calibrate(clip, features.float(), [data.captions[row] for row in rows])


def words_html(misalignment: Misalignment) -> str:
    """The caption as HTML: green words speak for the picture, red ones against it; what does not fit is underlined."""
    words = misalignment.words()[0]
    top = max((abs(score) for _, score in words if score is not None), default=0.0) or 1.0
    spans = [
        _span(word, score, top, wrong) for (word, score), wrong in zip(words, misalignment.flagged[0], strict=True)
    ]
    return f'<span style="font-size: 1.4rem; line-height: 2.2">{" ".join(spans)}</span>'


def _span(word: str, score: float | None, top: float, wrong: bool) -> str:
    if score is None:
        return f'<s title="not seen by the model">{escape(word)}</s>'
    colour = "200, 30, 30" if score < 0 else "20, 140, 60"
    line = "; text-decoration: underline; text-decoration-thickness: 3px" if wrong else ""
    style = (
        f"background: rgba({colour}, {0.75 * abs(score) / top:.2f}); border-radius: 5px; padding: .1rem .35rem{line}"
    )
    return f'<span style="{style}" title="{score:.6f}">{escape(word)}</span>'


def _save(path: Path, picture: Any, result: CaptionReport) -> None:
    from binderclip.tasks.report.page import Page

    misfits = result.misfits[:1].upper() + result.misfits[1:]
    lead = f"{escape(misfits)}. Green words speak for the picture, red ones against it; {result.rule}."
    page = Page(result.request.images[1], lead)
    page.picture(picture, f"cosine {float(result.found.cosine):.3f} with {result.request.model_name}")
    page.text(words_html(result.found))
    page.table(*result.table())
    page.save(path)
    emit(Saved(path))
