"""Maps of a classifier's concepts point at a thing wherever it lies."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw

from binderclip.data import load_data
from binderclip.errors import NotSupported, UsageError
from binderclip.explain import METHODS, ConceptMap
from binderclip.models import load


def test_it_points_at_the_thing_wherever_it_lies() -> None:
    """A photograph of a cat pasted left or right on plain ground: the peak follows it; gradients are not asked."""
    cat = next(sample.image for sample in load_data("photographs") if sample.key.startswith("chelsea"))
    small = cat.convert("RGB").resize((200, 160))
    model, peaks = load("everyday"), []
    for left in (10, 290):
        picture = Image.new("RGB", (500, 200), (120, 140, 120))
        ImageDraw.Draw(picture).line((0, 190, 500, 190), fill=(90, 90, 90))
        picture.paste(small, (left, 20))
        found = METHODS["concepts"](sides=(384, 512))(model, picture, "a cat")
        assert not bool(found.blank[0])
        peaks.append(found.peak()[0])
    assert 10 <= peaks[0] < 210
    assert 290 <= peaks[1] < 490


def test_what_it_cannot_explain_is_said() -> None:
    with pytest.raises(NotSupported, match="everyday has one"):
        ConceptMap()(load("small"), torch.rand(1, 3, 32, 32), "a cat")
    with pytest.raises(UsageError, match="explains a text"):
        ConceptMap()(load("everyday"), torch.rand(1, 3, 32, 32), 3)
    with pytest.raises(UsageError, match="2 texts for 1 images"):
        ConceptMap()(load("everyday"), torch.rand(1, 3, 32, 32), ["a cat", "a dog"])
    with pytest.raises(UsageError, match="32 to 4096"):
        ConceptMap(sides=(8,))


def test_methods_on_feature_maps_explain_the_number_of_the_whole_model() -> None:
    """Its last map is the classifier's: passes through the tower alone would explain another cosine."""
    cat = next(sample.image for sample in load_data("photographs") if sample.key.startswith("chelsea")).convert("RGB")
    model = load("everyday")
    values = [
        float(METHODS[name]()(model, cat.resize((224, 224)), "a cat").value)
        for name in ("gradcam", "saliency", "concepts")
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-4) == pytest.approx(values[2], abs=1e-4)
