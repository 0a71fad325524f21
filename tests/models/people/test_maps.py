"""Words for people, where a face says that somebody is there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor

from binderclip.data import to_tensor
from binderclip.models.image_text.regions import RegionWord
from binderclip.models.image_text.word_maps import people_words
from binderclip.models.people import maps as people_maps
from binderclip.models.people.finder import Face
from binderclip.models.people.maps import STRENGTH, add_people


def two_people() -> tuple[Tensor, list[Face], Tensor]:
    """A picture of 40 x 80, two faces, and log odds of two bodies, the left and the right quarter."""
    odds = torch.full((40, 80), -6.0)
    odds[10:, :20], odds[10:, 60:] = 6.0, 6.0
    faces = [Face((5.0, 10.0, 15.0, 20.0), 0.9), Face((65.0, 10.0, 75.0, 20.0), 0.8)]
    return torch.zeros(1, 3, 40, 80), faces, odds


def concepts(*names: str) -> SimpleNamespace:
    return SimpleNamespace(regions=SimpleNamespace(names=names))


def test_people_words_are_those_of_the_region_person() -> None:
    words = [RegionWord(2, False), None, RegionWord(1, True), RegionWord(2, True)]
    assert people_words(concepts("other", "sky", "person"), words) == [0, 3]
    assert people_words(concepts("other", "sky", "grass"), words) == []
    assert people_words(SimpleNamespace(regions=None), [None, None]) == []


def test_one_word_is_where_people_are_and_other_maps_stay() -> None:
    image, faces, odds = two_people()
    maps = torch.rand(2, 20, 40)
    before = maps.clone()
    add_people(maps, [1], faces, odds, image)
    torch.testing.assert_close(maps[0], before[0])
    assert float(maps[1, 10:, :9].min()) > float(maps[1, :, 12:28].max())
    assert float(maps[1].mean()) == pytest.approx(0, abs=1e-5)
    assert float(maps[1].std(correction=0)) == pytest.approx(STRENGTH, rel=1e-4)


def test_each_person_goes_as_a_whole_to_the_word_that_the_crop_is_like() -> None:
    image, faces, odds = two_people()
    image[..., 40:] = 1.0  # the right half is white
    maps = torch.zeros(3, 20, 40)

    def similar(crop: Tensor) -> Tensor:
        white = float(crop.mean())
        return torch.tensor([1 - white, 5.0, white])  # the word between is for no person

    add_people(maps, [0, 2], faces, odds, image, similar)
    assert bool((maps[0, 10:, :10] > maps[2, 10:, :10]).all())
    assert bool((maps[2, 10:, 30:] > maps[0, 10:, 30:]).all())
    shared = torch.zeros(3, 20, 40)
    add_people(shared, [0, 2], faces, odds, image)
    torch.testing.assert_close(shared[0], shared[2])


def test_a_person_is_marked_whole_by_one_of_two_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the networks, the baseline, man and woman share her out between them."""
    from binderclip.models import load
    from binderclip.segment import Segmenter

    image = Image.fromarray(data.astronaut()).resize((320, 320))
    segmenter = Segmenter(load("everyday"), "photograph")

    def parts() -> list[float]:
        labels = segmenter(image, ["man", "woman"]).labels
        return sorted(float((labels[60:, 40:280] == index).float().mean()) for index in (0, 1))

    smaller, larger = parts()
    assert smaller == 0
    assert larger > 0.5
    monkeypatch.setattr(people_maps, "seen_people", lambda image: ([], None))
    assert parts()[0] > 0.02


def test_a_map_that_points_has_its_maximum_at_a_face() -> None:
    image, faces, odds = two_people()
    maps = torch.zeros(1, 20, 40)
    add_people(maps, [0], faces, odds, image, pointing=True)
    row, column = divmod(int(maps[0].argmax()), 40)
    x, y = 2 * column + 1, 2 * row + 1
    assert any(x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in (face.box for face in faces))
    flat = torch.zeros(1, 20, 40)
    add_people(flat, [0], faces, odds, image)
    assert int((flat[0] == flat[0].max()).sum()) > 100  # of a map that does not, it lies anywhere on them


@torch.no_grad()
def test_a_face_lets_words_for_people_pass_and_no_others() -> None:
    from binderclip.models import load
    from binderclip.models.image_text.word_maps import ConceptEvidence, PictureConcepts, region_words, word_weights

    model, evidence = load("everyday"), ConceptEvidence()
    concepts = model.concepts
    picture = PictureConcepts(concepts, to_tensor(Image.fromarray(data.camera()).convert("RGB"))[None])
    words = ["person", "grass", "teapot"]
    texts = model.encode_text(words).float()
    weights = word_weights(concepts, texts, words, evidence.sharpness)
    regions = region_words(concepts, words)
    presence = evidence.presence(texts, weights, regions, picture)
    (face,) = picture.people[0]
    assert float(presence[0]) >= face.probability
    without = PictureConcepts(concepts, picture.image)
    without.__dict__["people"] = ([], None)
    torch.testing.assert_close(evidence.presence(texts, weights, regions, without)[1:], presence[1:])
