"""The signals that every pipeline knows by name."""

from __future__ import annotations

from binderclip.curate.engine.rule import SampleSignal
from binderclip.curate.signals.embedded_text import EMBEDDED_TEXT_SIGNALS
from binderclip.curate.signals.plain import IMAGE_SIGNALS, TEXT_SIGNALS, LanguageSignal


def standard_signals() -> dict[str, SampleSignal]:
    """Name -> signal, of all that need no model."""
    signals: tuple[SampleSignal, ...] = (*TEXT_SIGNALS, *IMAGE_SIGNALS, *EMBEDDED_TEXT_SIGNALS, LanguageSignal())
    return {signal.name: signal for signal in signals}


SIGNALS: dict[str, str] = {
    "words": "words of the caption between white space",
    "characters": "characters of the caption",
    "numbers": "runs of digits in the caption",
    "caption_group": "equal for captions that differ in case and white space alone",
    "language": "code of the caption's language, where the data say it",
    "original_width": "width in pixels, as found on the web where the data say so",
    "original_height": "height in pixels",
    "side": "shorter side in pixels",
    "aspect": "longer side over the shorter",
    "picture_group": "equal for pictures whose files are equal",
    "ocr": "words in the picture, where the data say them or a reader was given",
    "ocr_words": "number of words in the picture",
    "cotr": "share of the caption's words that stand in the picture (p051)",
    "clip_score": "cosine of picture and caption, by the model",
    "masked_clip_score": "the same after numbers are taken out of the caption (p102)",
    "image_embedding": "unit features of the picture, by the model",
    "caption_embedding": "unit features of the caption, by the model",
}
"""Name -> what the column holds; those that a model computes are there where one was given."""
