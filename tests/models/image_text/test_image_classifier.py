"""`lite0` is the network that timm defines with the weights as trained, and it knows photographs."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from binderclip.data import load_data
from binderclip.errors import CheckpointError, UsageError
from binderclip.models import ImageClassifier, Predictor, classifier, load, load_vision
from binderclip.models.files.folders import bundled_of


@pytest.fixture(scope="module")
def lite0() -> ImageClassifier:
    return load_vision("lite0")


def test_photographs_are_what_they_show(lite0: ImageClassifier) -> None:
    """The best of 1,000 classes, from what ImageNet calls what is to be seen."""
    data = {sample.key: sample.image for sample in load_data("photographs")}
    expected = {
        "camera.png": {"tripod"},
        "chelsea.png": {"Egyptian cat", "tiger cat", "tabby"},
        "china.jpg": {"palace"},
        "coffee.png": {"espresso"},
        "flower.jpg": {"daisy"},
        "motorcycle_left.png": {"moped", "motor scooter"},
        "rocket.jpg": {"missile", "projectile"},
    }
    found = lite0.classify([data[name] for name in expected], top=1)
    assert all(best in names for best, names in zip(found.best, expected.values(), strict=True)), found.best
    assert len(set(lite0.classes)) == 1000
    assert torch.allclose(found.probs.sum(1), torch.ones(len(expected)), atol=1e-5)


def test_it_is_the_predictor_that_timm_and_the_papers_scale_make(lite0: ImageClassifier) -> None:
    """Another way to the same logits: 0..255 pixels, (x - 127) / 128, timm's own network."""
    torch.manual_seed(0)
    images = torch.rand(2, 3, 224, 224)
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    net.load_state_dict(lite0.module.state_dict())
    with torch.no_grad():
        expected = net((255 * images - 127) / 128)
        assert torch.allclose(lite0(images), expected, atol=1e-4)
        pooled = net.global_pool(net.forward_features((255 * images - 127) / 128))
        assert torch.allclose(lite0.encode_image(images), pooled, atol=1e-4)
        assert torch.allclose(lite0.module.classifier(lite0.encode_image(images)), expected, atol=1e-3)
    assert isinstance(lite0, Predictor)
    wrapped = classifier(net, lite0.classes, lite0.preprocess.mean, lite0.preprocess.std, 224)
    assert torch.allclose(wrapped(images), lite0(images), atol=1e-4)


def test_maps_are_the_deepest_of_their_stride(lite0: ImageClassifier) -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 128, 160)
    with torch.no_grad():
        maps = lite0.feature_maps(images, strides=(4, 16), size=(128, 160))
        x = lite0.preprocess(images, size=(128, 160))
        net = lite0.module
        x = net.bn1(net.conv_stem(x))
        walked = []
        for stage in net.blocks:
            x = stage(x)
            walked.append(x)
    for stride, found in zip((4, 16), maps, strict=True):
        deepest = [y for y in walked if y.shape[-1] == 160 // stride][-1]
        assert torch.allclose(found, deepest, atol=1e-5)
    with pytest.raises(UsageError, match="stride 3"):
        lite0.feature_maps(images, strides=(3,))


def test_saved_and_opened_again(lite0: ImageClassifier, tmp_path: Path) -> None:
    again = load_vision(lite0.save(tmp_path / "mine", dtype="float16"))
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image), lite0(image)), "the bundled weights are float16 already"
    config = tmp_path / "mine" / "config.json"
    config.write_text(config.read_text().replace('"classes"', '"labels"'))
    with pytest.raises(CheckpointError, match="classes"):
        load_vision(tmp_path / "mine")


def test_it_fits_the_package_and_load_says_where_it_opens() -> None:
    weights = bundled_of("classifier")["lite0"] / "model.safetensors"
    assert weights.stat().st_size < 10e6
    with pytest.raises(UsageError, match="load_vision"):
        load("lite0")
