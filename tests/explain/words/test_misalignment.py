"""Dense misalignment (arXiv 2412.18404): decisions, calibration, template words, lost words."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.explain import DenseMisalignment, LeaveOneWordOut, TextTokenAttribution, WordScores
from binderclip.explain.words.token_words import Word


class Told:
    """A scorer that says what it is told, by word."""

    def __init__(self, **scores):
        self.scores = {name.replace("dash", "-"): value for name, value in scores.items()}

    def __call__(self, model, images, texts):
        spans = tuple(tuple(Word(w, k, k + 1) for k, w in enumerate(text.split())) for text in texts)
        rows = tuple(tuple(self.scores.get(word.text, 0.5) for word in words) for words in spans)
        return WordScores(tuple(texts), spans, rows, torch.zeros(len(texts)))


def told(decision="threshold", eps=-0.1, **scores) -> DenseMisalignment:
    return DenseMisalignment(decision, eps=eps, scores=Told(**scores))


def test_words_below_the_threshold_are_flagged_but_no_template_or_punctuation():
    found = told(cat=-0.3, red=-0.05, depicts=-9.0, dash=-5.0)(None, None, ["a red cat - here", "a dog"])
    assert found.misaligned() == [["cat"], []]
    assert found.words()[0] == [("a", 0.5), ("red", -0.05), ("cat", -0.3), ("-", -5.0), ("here", 0.5)]
    assert found.texts == ("a red cat - here", "a dog")
    assert found.sum_negative.tolist() == [-0.3, 0]
    assert found.eps == -0.1


def test_exactly_the_lowest_word_is_flagged():
    found = told("most-negative", cat=-0.3, red=-0.05, gone=None)(None, None, ["a red cat gone", "a dog", "gone"])
    assert found.misaligned() == [["cat"], ["a"], []]
    assert found.sum_negative.tolist() == [-0.3, 0.5, 0]
    assert found.lost() == [["gone"], [], ["gone"]]
    assert found.eps is None


def test_no_threshold_no_negatives():
    assert told(eps=-math.inf, cat=-1e9)(None, None, "a cat").misaligned() == [[]]
    assert float(told(eps=-math.inf, cat=-1e9)(None, None, "a cat").sum_negative) == 0


def test_calibration_flags_the_wanted_share_of_fitting_words():
    scores = {f"w{i}": -i / 100 for i in range(100)}
    method = told(eps=-1.0, **scores)
    texts = [" ".join(f"w{i + j}" for j in range(10)) for i in range(0, 100, 10)]
    fitted = method.calibrate(None, None, texts, quantile=0.2)
    assert sum(map(len, fitted(None, None, texts).misaligned())) == 20
    # words that support the match are never called misaligned
    assert told().calibrate(None, None, ["a dog"]).eps == 0
    assert method.eps == -1.0


def test_the_template_changes_the_context_and_nothing_else(clip_model):
    """The scores of a caption with a template are those of the whole sentence, without the template's words."""
    features = torch.randn(1, 24, generator=torch.Generator().manual_seed(4))
    with_template = DenseMisalignment(prompt="a photo of ")(clip_model, features, "red cats")
    whole = TextTokenAttribution()(clip_model, features, "a photo of red cats")
    assert with_template.words()[0] == whole.words()[0][3:]
    assert with_template.layers == (0,)
    plain = DenseMisalignment(prompt="")(clip_model, features, "red cats")
    assert plain.words()[0] == TextTokenAttribution()(clip_model, features, "red cats").words()[0]
    out = DenseMisalignment(scores=LeaveOneWordOut())(clip_model, features, ["red cats", "b"])
    assert [len(row) for row in out.words()] == [2, 1]


def test_errors_name_what_is_wrong(clip_model):
    with pytest.raises(UsageError, match="decision must be one of threshold, most-negative"):
        DenseMisalignment("lowest")
    with pytest.raises(UsageError, match=r"zero or below, not 0\.1"):
        DenseMisalignment(eps=0.1)
    with pytest.raises(UsageError, match="must end in a space"):
        DenseMisalignment(prompt="a photo of")
    with pytest.raises(UsageError, match="quantile must lie"):
        told().calibrate(None, None, ["a"], quantile=1.0)
    with pytest.raises(UsageError, match="saw no word"):
        told(gone=None).calibrate(None, None, ["gone"])
    with pytest.raises(UsageError, match="a caption is empty"):
        DenseMisalignment()(clip_model, torch.zeros(1, 24), [" "])
