"""`binderclip compress --bits` of `everyday`: its towers and its classifier, in a folder that opens everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from skimage import data
from torch import Tensor, nn

from binderclip.compress import Int8Conv2d, Int8Linear
from binderclip.errors import CheckpointError
from binderclip.models import ImageTextModel, load, load_encoder
from binderclip.models.files.registry import CONCEPTS
from binderclip.models.layers.int8.layers import Int8Layer
from binderclip.tasks import compress

Command = Callable[..., Any]
TEXTS = ["a dog", "a red bus in the rain"]


@pytest.fixture(scope="module")
def everyday() -> ImageTextModel:
    return load("everyday")


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """`everyday` in 8 and in 4 bits, calibrated on four emoji."""
    folder, made = tmp_path_factory.mktemp("bits"), {}
    for bits in (8, 4):
        request = {"data": "noto-emoji", "limit": 8, "out": str(folder / str(bits)), "bits": bits}
        made[bits] = compress.run(compress.request(model="everyday", **request)).saved
    return made


@torch.no_grad()
def features(model: ImageTextModel) -> Tensor:
    """Of two pictures with soft edges and two texts."""
    coarse = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    pictures = nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")
    return torch.cat([model.encode_image(pictures), model.encode_text(TEXTS)])


def rewritten(folder: Path, target: Path, **settings: Any) -> Path:
    """A copy of a folder whose concepts have other settings; None leaves one out."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    with safe_open(folder / CONCEPTS, "pt") as file:
        about = json.loads(file.metadata()["binderclip"]) | settings
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    about = {name: value for name, value in about.items() if value is not None}
    save_file(tensors, target / CONCEPTS, {"format": "pt", "binderclip": json.dumps(about)})
    return target


def test_eight_bits_are_those_of_wide_layers_of_towers_and_classifier(
    everyday: ImageTextModel, smaller: dict[int, Path], tmp_path: Path
) -> None:
    model = load(smaller[8])
    assert not any(isinstance(layer, Int8Layer) for layer in everyday.modules())
    named = {name for name, layer in model.named_modules() if isinstance(layer, Int8Layer)}
    for name, layer in everyday.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert (name in named) == (layer.groups == 1 and layer.in_channels >= 64), name
    assert isinstance(model.concepts.classifier, Int8Linear)
    assert isinstance(model.concepts.trunk.head, Int8Conv2d)
    assert type(model.concepts.photograph) is nn.Linear
    codes, scale = model.concepts.classifier.codes()
    weight = everyday.concepts.classifier.weight.detach()
    torch.testing.assert_close(scale, weight.abs().amax(1) / 127.5)
    assert float((codes * scale[:, None] - weight).abs().div(scale[:, None]).max()) <= 0.5001
    assert float(torch.cosine_similarity(features(model), features(everyday)).min()) > 0.98
    assert not torch.equal(features(model), features(everyday))
    again = load(model.save(tmp_path / "again"))
    assert torch.equal(features(again), features(model))
    assert again.fingerprint == model.fingerprint != everyday.fingerprint
    assert sum(path.stat().st_size for path in smaller[8].iterdir()) < 20e6
    with safe_open(smaller[8] / CONCEPTS, "pt") as file:
        assert file.get_tensor("classifier.int8_codes").dtype == torch.int8


def test_steps_train_the_towers_and_leave_what_knows_photographs(
    everyday: ImageTextModel, smaller: dict[int, Path], tmp_path: Path
) -> None:
    request = {"data": "noto-emoji", "limit": 8, "out": str(tmp_path / "tuned"), "bits": 4, "steps": 1}
    done = compress.run(compress.request(model="everyday", **request))
    assert done.bits.recovery.kept
    model, plain = load(done.saved).backbone, load(smaller[4]).backbone
    for name, parameter in everyday.backbone.named_parameters():
        tuned = not torch.equal(model.get_parameter(name), plain.get_parameter(name))
        if name.startswith("concepts."):
            assert not tuned, name  # rounded, but for its probe, and not trained
        elif name.endswith("weight") and parameter.numel() >= 1024:
            assert tuned, name


def test_four_bits_are_unpacked_to_a_float_model(
    everyday: ImageTextModel, smaller: dict[int, Path], tmp_path: Path
) -> None:
    model = load(smaller[4])
    assert not any(isinstance(layer, Int8Layer) for layer in model.modules())
    for name in ("concepts.classifier.weight", "concepts.trunk.head.weight", "base.visual.head.proj.weight"):
        weight, before = model.backbone.get_parameter(name).detach(), everyday.backbone.get_parameter(name).detach()
        assert len(weight.flatten(1)[0, :64].unique()) <= 16, name
        assert float((weight - before).norm() / before.norm()) < 0.15, name
    for name in ("photograph.weight", "vectors", "prototypes", "usual"):  # as they were
        torch.testing.assert_close(getattr_of(model.concepts, name), getattr_of(everyday.concepts, name))
    assert torch.equal(features(load_encoder(smaller[4])), features(model))
    photographs = [Image.fromarray(one) for one in (data.chelsea(), data.coffee(), data.rocket(), data.astronaut())]
    with torch.no_grad():
        alike = torch.cosine_similarity(model.encode_image(photographs), everyday.encode_image(photographs))
    assert float(alike.min()) > 0.85
    # Rounding to four bits asks no data: the texts are those of small, rounded alone.
    alone = {"data": "noto-emoji", "limit": 8, "out": str(tmp_path / "small"), "bits": 4}
    towers = load(compress.run(compress.request(model="small", **alone)).saved)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(TEXTS), towers.encode_text(TEXTS), rtol=0, atol=1e-5)
    assert sum(path.stat().st_size for path in smaller[4].iterdir()) < 12e6


def getattr_of(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its dotted name."""
    parent, _, last = name.rpartition(".")
    return getattr(module.get_submodule(parent), last).detach()


def test_texts_alone_leave_pictures_as_they_were(everyday: ImageTextModel, command: Command, tmp_path: Path) -> None:
    out = tmp_path / "made"
    data = ("--data", "noto-emoji", "--limit", 8)
    assert command("compress", "everyday", *data, "--bits", 8, "--sides", "text", "--out", out).code == 0
    before, after = features(everyday), features(load(out))
    assert torch.equal(before[:2], after[:2])
    assert not torch.equal(before[2:], after[2:])


def test_a_folder_of_an_older_version_opens_and_a_damaged_one_is_named(
    everyday: ImageTextModel, smaller: dict[int, Path], tmp_path: Path
) -> None:
    older = rewritten(everyday.save(tmp_path / "float"), tmp_path / "older", int8=None)
    assert torch.equal(features(load(older)), features(everyday))
    for number, (bits, settings, words) in enumerate(
        [
            (8, {"int8": {"layers": ["nowhere"]}}, "int8.layers: 'nowhere'"),
            (8, {"int8": None}, "does not hold the concepts"),
            (4, {"weights": "int3"}, "weights stored as 'int3'"),
            (4, {"weights": None}, "does not hold the concepts"),
        ]
    ):
        with pytest.raises(CheckpointError, match=words):
            load(rewritten(smaller[bits], tmp_path / str(number), **settings))


def test_verbs_open_it_and_what_needs_gradients_is_refused(
    command: Command, smaller: dict[int, Path], tmp_path: Path
) -> None:
    picture, shade = tmp_path / "shade.png", np.linspace(0, 255, 96, dtype=np.uint8)
    Image.fromarray(np.repeat(np.repeat(shade[:, None, None], 96, 1), 3, 2)).save(picture)
    model = ("--model", smaller[8])
    for arguments in (
        ("classify", picture, *model, "--labels", "sky,grass"),
        ("segment", picture, *model, "--labels", "sky,grass", "--out", tmp_path / "map"),
        ("explain", picture, *model, "--label", "sky", "--out", tmp_path / "evidence.png"),
        ("classify", picture, "--model", smaller[4], "--labels", "sky,grass"),
    ):
        done = command(*arguments)
        assert done.code == 0, done.err
    done = command("attack", smaller[8], picture, "--labels", "sky,grass")
    assert done.code == 1
    assert "int8 layers pass no gradient: give the float model" in " ".join(done.err.split())


def test_what_cannot_be_done_says_what_can(command: Command, tmp_path: Path) -> None:
    done = command(
        "compress", "everyday", "--data", "noto-emoji", "--bits", 8, "--target", 0.5, "--out", tmp_path / "x"
    )
    assert done.code == 1
    assert "such as small, or give it fewer bits alone (--bits 8 or 4)" in " ".join(done.err.split())
    assert not (tmp_path / "x").exists()
