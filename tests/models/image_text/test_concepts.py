"""`everyday` against its parts, opened separately (ConSE: Norouzi et al., arXiv 1312.5650)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from skimage import data as skimage_data
from torch.nn.functional import interpolate, normalize

from binderclip.errors import CheckpointError, UsageError
from binderclip.models import load, load_vision
from binderclip.models.files import registry
from binderclip.models.image_text.concepts import ConceptBranch, PeopleProbe, folded_lite0
from binderclip.models.loading import load_encoder


@pytest.fixture(scope="module")
def everyday() -> object:
    return load("everyday")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def test_the_folded_classifier_is_lite0(everyday: object, images: torch.Tensor) -> None:
    """Batch normalisation of timm's own network in evaluation mode is what the folded weights compute."""
    lite0 = load_vision("lite0")
    with torch.no_grad():
        classes = everyday.concepts.logits(everyday.concepts.features(images).mean((2, 3)))[:, :1000]
        torch.testing.assert_close(classes, lite0(images), rtol=1e-3, atol=1e-3)


def test_features_are_the_sum_of_the_parts(everyday: object, images: torch.Tensor) -> None:
    backbone, concepts = everyday.backbone, everyday.concepts
    small = load("small")
    with torch.no_grad():
        tower = normalize(
            small.encode_image(interpolate(images, 128, mode="bicubic", antialias=True).clamp(0, 1)), dim=-1
        )
        probabilities = concepts.probabilities(images)
        z = sum(probabilities[:, c : c + 1] * concepts.vectors[c] for c in range(len(concepts.names)))
        pooled, people = concepts.features(images).mean((2, 3)), concepts.people
        seen = ((normalize(pooled - concepts.centre, dim=1) * people.weight).sum(1) + people.bias).sigmoid()[:, None]
        z = (1 - 0.5 * seen) * z + 0.5 * seen * people.vector
        score = pooled @ concepts.photograph.weight[0] + concepts.photograph.bias
        gate = 1 / (1 + (-score).exp())
        expected = tower + backbone.weight * gate[:, None] * z
        torch.testing.assert_close(everyday.encode_image(images), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    torch.testing.assert_close(everyday.encode_text(["a dog"]), small.encode_text(["a dog"]))


def test_people_take_half_of_what_pulls_a_picture_of_them() -> None:
    """Certain of people, the probe mixes half of their place in; certain of none, it changes nothing."""
    probe = PeopleProbe(torch.tensor([1e4, 0.0]), torch.zeros(1), torch.tensor([0.0, 3.0, 0.0]), portion=0.5)
    z = torch.tensor([[0.8, 0.0, 0.0], [0.8, 0.0, 0.0], [0.8, 0.0, 0.0]])
    centred = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    expected = torch.tensor([[0.4, 0.5, 0.0], [0.8, 0.0, 0.0], [0.6, 0.25, 0.0]])
    torch.testing.assert_close(probe.mix(z, centred), expected)


def test_people_are_named_on_photographs_that_nothing_learned_from(everyday: object) -> None:
    """Of scikit-image's portrait the suit comes first without the probe; its other photographs show no people."""
    labels = ["woman", "man", "hat", "suit", "flag", "shoe", "cat", "coffee", "coin", "rocket"]
    pictures = [getattr(skimage_data, name)() for name in ("astronaut", "chelsea", "coffee", "coins", "rocket")]
    with torch.no_grad():
        features = torch.cat([everyday.encode_image(Image.fromarray(picture)) for picture in pictures])
        best = everyday.similarity(features, everyday.text_bank(labels).raw).argmax(1)
    assert labels[int(best[0])] in {"woman", "man"}
    assert [labels[index] for index in best[1:]] == ["cat", "coffee", "coin", "rocket"]


def test_normalised_pixels_are_not_normalised_again(everyday: object) -> None:
    """The sum of parts that take pixels in [0, 1], each in its own units; sharp edges make the resize overshoot."""
    backbone, concepts = everyday.backbone, everyday.concepts
    pixels = (torch.rand(2, 3, 160, 256, generator=torch.Generator().manual_seed(3)) > 0.5).float()
    fitted = interpolate(pixels, (96, 144), mode="bicubic", antialias=True)
    assert float(fitted.min()) < 0
    assert float(fitted.max()) > 1
    normalise = everyday.preprocess.normalize
    with torch.no_grad():
        tower = normalize(backbone.base.encode_image(normalise(fitted.clamp(0, 1))), dim=-1)
        expected = tower + backbone.weight * concepts.pull(pixels)
        torch.testing.assert_close(backbone.encode_image(normalise(pixels)), expected, rtol=0, atol=1e-5)


def test_the_map_averages_to_the_logits_of_the_whole(everyday: object, images: torch.Tensor) -> None:
    """The classifier is linear, so its logits at the places of the map have those of the pooled map as their mean."""
    concepts = everyday.concepts
    with torch.no_grad():
        places = concepts.logit_map(images, side=224)
        whole = concepts.logits(concepts.features(images).mean((2, 3)))
    assert places.shape == (3, len(concepts.names), 7, 7)
    torch.testing.assert_close(places[:, :1000].mean((2, 3)), whole[:, :1000], rtol=1e-3, atol=1e-3)
    assert concepts.logit_map(torch.rand(1, 3, 300, 500)).shape[-2:] == (10, 16)
    with pytest.raises(UsageError, match="side=8"):
        concepts.logit_map(images, side=8)


def test_scenes_compete_in_one_softmax() -> None:
    centre = torch.ones(1280)
    branch = ConceptBranch(
        ["a", "b"], torch.eye(2), torch.eye(1, 1280), centre, torch.zeros(2), torch.eye(1, 2), sharpness=10.0, level=0.5
    )
    feature = torch.eye(1, 1280)
    logits = branch.logits(centre + torch.cat([feature, -feature]))
    torch.testing.assert_close(logits[:, 1], torch.tensor([5.0, -15.0]))
    torch.testing.assert_close(branch.embed(torch.tensor([0.25, 0.5])), torch.tensor([0.25, 0.5]))
    with pytest.raises(UsageError, match="do not fit"):
        ConceptBranch(
            ["a"], torch.eye(2), torch.eye(1, 1280), centre, torch.zeros(2), torch.eye(1, 2), sharpness=10.0, level=0.5
        )


def test_words_mean_the_concepts_that_they_name_and_not_those_spelt_alike(everyday: object) -> None:
    concepts = everyday.concepts
    named = {
        word: {concepts.names[index] for index in concepts.meant(word)} for word in ("a tree", "Dogs", "Man", "of")
    }
    assert named["a tree"] == {"tree"}, "the scene, and no tree frog"
    assert len(named["Dogs"]) > 100
    assert {"Labrador retriever", "pug"} <= named["Dogs"]
    assert "tabby" not in named["Dogs"]
    assert "mantis" not in named["Man"]
    assert not named["of"]
    assert concepts.meant("the dog") == concepts.meant("dog")
    with pytest.raises(UsageError, match="beyond the 2"):
        ConceptBranch(
            ["a", "b"], torch.eye(2), torch.zeros(0, 1280), torch.zeros(1280), torch.zeros(2), torch.eye(1, 2),
            sharpness=1, level=0, senses={"w": [2]},
        )  # fmt: skip


def test_encoding_alone_gives_the_same_bits(everyday: object, images: torch.Tensor) -> None:
    encoder = load_encoder("everyday")
    assert encoder.fingerprint == everyday.fingerprint
    with torch.no_grad():
        assert torch.equal(encoder.encode_image(images), everyday.encode_image(images))


def test_gradients_reach_the_pixels_through_both(everyday: object) -> None:
    pixels = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(2)).requires_grad_()
    everyday.encode_image(pixels, normalize=True)[:, 0].sum().backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


def test_a_saved_folder_is_whole(everyday: object, images: torch.Tensor, tmp_path: Path) -> None:
    again = load(everyday.save(tmp_path / "mine"))
    with torch.no_grad():
        assert torch.equal(again.encode_image(images), everyday.encode_image(images))
    assert again.fingerprint == everyday.fingerprint
    assert again.concepts is not None
    torch.testing.assert_close(again.concepts.usual, everyday.concepts.usual)
    torch.testing.assert_close(again.concepts.regions.weight, everyday.concepts.regions.weight)
    assert again.concepts.regions.table() == everyday.concepts.regions.table()
    assert again.concepts.names == everyday.concepts.names
    assert again.geometry.signature() == everyday.geometry.signature()


def test_a_folder_without_a_probe_for_people_is_opened_and_half_a_probe_is_not(
    everyday: object, images: torch.Tensor, tmp_path: Path
) -> None:
    """As 0.3.0 saved it: the probe is in neither the settings nor the tensors."""
    folder = everyday.save(tmp_path / "mine")
    path = folder / registry.CONCEPTS
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["binderclip"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith("people.")}
    save_file(rest, path, {"binderclip": json.dumps({**about, "people": None})})
    older, concepts = load(folder), everyday.concepts
    assert older.concepts.people is None
    with torch.no_grad():
        z = concepts.embed(concepts.probabilities(images))
        gate = concepts.photograph(concepts.features(images).mean((2, 3))).sigmoid()
        torch.testing.assert_close(older.concepts.pull(images), gate * z)
    save_file(rest, path, {"binderclip": json.dumps(about)})
    with pytest.raises(CheckpointError, match="people"):
        load(folder)


def test_a_damaged_file_of_concepts_is_named(everyday: object, tmp_path: Path) -> None:
    folder = everyday.save(tmp_path / "mine")
    (folder / registry.CONCEPTS).write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="concepts"):
        load(folder)
    (folder / registry.CONCEPTS).unlink()
    with pytest.raises(CheckpointError, match="concepts"):
        load(folder)
    with pytest.raises(CheckpointError, match="bn1"):
        folded_lite0({"conv_stem.weight": torch.zeros(1, 1, 1, 1)})


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("RGB", (1, 1), "red"),
        Image.new("RGBA", (40, 30), (255, 0, 0, 0)),
        Image.new("L", (33, 57), 90),
        Image.fromarray((np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)),
        Image.new("RGB", (2000, 3), "blue"),
    ],
    ids=["one pixel", "transparent", "grey", "16 bits", "a line"],
)
def test_odd_pictures_are_encoded(everyday: object, picture: Image.Image) -> None:
    assert everyday.encode_image(picture).isfinite().all()
    answer = everyday.classify(picture, ["a cat", "xqzzw"])
    assert answer.probs.isfinite().all()


def test_a_copied_tower_is_its_own_and_the_concepts_are_shared(everyday: object) -> None:
    copy = everyday.with_copied_visual()
    assert copy.visual is not everyday.visual
    assert copy.concepts is everyday.concepts
    assert copy.backbone.text is everyday.backbone.text
    with torch.no_grad():
        next(copy.visual.parameters()).add_(1.0)
    assert not torch.equal(next(copy.visual.parameters()), next(everyday.visual.parameters()))
