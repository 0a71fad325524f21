"""The report of MedGrad E-CLIP (arXiv 2501.06887): the best criteria and their maps."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.explain import GradCAM, MedGradECLIP, concept_report

CRITERIA = {"hole": "woven fabric with a hole", "stain": "fabric with a stain", "sound": "regular woven fabric"}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = torch.rand(40, 60, 3, generator=torch.Generator().manual_seed(0))
    return Image.fromarray((pixels * 255).byte().numpy())


def test_the_best_criteria_come_first_each_with_its_own_map(clip_model, picture):
    report = concept_report(clip_model, picture, CRITERIA, top=2)
    cosines = (
        clip_model.encode_image([picture], normalize=True)
        @ clip_model.encode_text(list(CRITERIA.values()), normalize=True).T.detach()
    )
    order = cosines[0].argsort(descending=True).tolist()[:2]
    names = list(CRITERIA)
    assert [concept.name for concept in report.concepts] == [names[place] for place in order]
    assert [concept.cosine for concept in report.concepts] == pytest.approx(cosines[0, order].tolist(), abs=2e-3)
    softmax = (cosines[0] * clip_model.scale().detach()).softmax(0)
    assert [c.probability for c in report.concepts] == pytest.approx(softmax[order].tolist(), abs=1e-4)
    assert report.predicted == names[order[0]]
    assert report.count == 3
    for index, concept in enumerate(report.concepts):
        alone = MedGradECLIP()(clip_model, [picture], concept.text).layers[0][0]
        assert torch.allclose(report.attribution.layers[0][index], alone, atol=1e-6)


def test_pictures_and_a_sheet(clip_model, picture):
    report = concept_report(clip_model, picture, list(CRITERIA.values()), top=9, method=GradCAM())
    assert len(report.pictures()) == 3
    assert all(overlay.size == picture.size for overlay, _ in report.pictures())
    assert report.sheet(120).size == (4 * 128 - 8, 80 + 40)
    with pytest.raises(UsageError, match="at least 32 pixels"):
        report.sheet(3)


def test_errors_name_what_is_wrong(clip_model, picture):
    with pytest.raises(UsageError, match="not one text"):
        concept_report(clip_model, picture, "a hole")
    with pytest.raises(UsageError, match="same text twice"):
        concept_report(clip_model, picture, ["a hole", "a hole"])
    with pytest.raises(UsageError, match="top must be at least 1"):
        concept_report(clip_model, picture, CRITERIA, top=0)
