"""F-CLIPScore of CLIP4DM (Extract Free Dense Misalignment from CLIP, arXiv 2412.18404) and word metrics."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support

from binderclip.errors import UsageError
from binderclip.evaluate import clip_score, f_clipscore_dm, word_detection
from binderclip.explain import DenseMisalignment, Misalignment


def found(*flags: tuple[bool, ...], scores: float = -1.0) -> Misalignment:
    rows = tuple(tuple(("w", scores) for _ in row) for row in flags)
    return Misalignment(tuple("w" for _ in flags), rows, flags, torch.full((len(flags),), 0.25), -0.5)


def test_clip_score_on_known_angles():
    image = torch.tensor([[1.0, 0], [2, 0], [1, 0]])
    text = torch.tensor([[3.0, 0], [1, 1], [-1, 0]])
    assert clip_score(image, text).tolist() == pytest.approx([2.5, 2.5 / 2**0.5, 0])
    with pytest.raises(UsageError, match="one text row for each image row"):
        clip_score(image, text[:2])


def test_f_clip_score_is_local_times_global():
    told = lambda model, images, texts: found((True, False, True), (False, False))  # noqa: E731
    score = f_clipscore_dm(None, None, ["a", "b"], method=told)
    assert score.clip_score.tolist() == pytest.approx([0.625, 0.625])
    assert score.f_clip_score.tolist() == pytest.approx([-2 * 0.75, 0])


def test_a_sign_flip_of_the_image_leaves_no_cosine_and_full_weight():
    """An opposite image: CLIPScore 0, so that F-CLIPScore is the sum of the negative words alone."""
    told = lambda *_: Misalignment(("w",), ((("w", -2.0),),), ((True,),), torch.tensor([-0.4]), -0.5)  # noqa: E731
    score = f_clipscore_dm(None, None, "w", method=told)
    assert (float(score.clip_score), float(score.f_clip_score)) == (0, -2)


def test_the_default_method_is_the_published_one():
    from binderclip.models import build

    torch.manual_seed(0)
    model = build(
        {
            "embed_dim": 8,
            "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 16, "patch_size": 16},
            "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
        },
        name="tiny",
    ).eval()
    image = torch.rand(1, 3, 16, 16)
    ours = f_clipscore_dm(model, image, "a red cat")
    assert ours.found.scores == DenseMisalignment()(model, image, "a red cat").scores
    assert ours.found.eps == -5e-5
    sentence = model.encode_text("A photo depicts a red cat").detach()
    assert float(ours.clip_score) == pytest.approx(float(clip_score(model.encode_image(image).detach(), sentence)))


def test_word_metrics_are_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    flags = [tuple((torch.rand(6, generator=generator) < 0.4).tolist()) for _ in range(20)]
    truth = [tuple((torch.rand(6, generator=generator) < 0.3).tolist()) for _ in range(20)]
    places = [[k for k, wrong in enumerate(row) if wrong] for row in truth]
    figures = word_detection(found(*flags), places)
    flat = [sum(rows, ()) for rows in (truth, flags)]
    precision, recall, f1, _ = precision_recall_fscore_support(*flat, average="binary")
    assert [figures[k] for k in ("precision", "recall", "f1")] == pytest.approx([precision, recall, f1])
    assert word_detection(found((True, False), (False, False)), [[0], [1]])["localisation"] == 0.5
    assert word_detection(found((False, False)), [[]])["f1"] == 0
    with pytest.raises(UsageError, match="places for 1 captions, 2 were scored"):
        word_detection(found((True,), (True,)), [[0]])
    with pytest.raises(UsageError, match="has 1 words"):
        word_detection(found((True,)), [[1]])
