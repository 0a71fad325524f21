"""Faces and people: MediaPipe's networks against LiteRT, which runs the files that they come from, and on pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from skimage import data
from torch import Tensor

from binderclip.data import to_tensor
from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.folders import bundled_of, read_folder
from binderclip.models.people.finder import KIND, Face, crop_around, load_people
from binderclip.models.people.graph import OperationGraph


def picture(name: str) -> Float[Tensor, "3 H W"]:
    return to_tensor(Image.fromarray(getattr(data, name)()).convert("RGB"))


def waves(side: int) -> Float[Tensor, "1 3 N N"]:
    y, x, c = np.meshgrid(np.arange(side), np.arange(side), np.arange(3), indexing="ij")
    values = 0.5 + 0.5 * np.sin(0.05 * x + 0.11 * y + 1.3 * c) * np.cos(0.07 * x * (c + 1) - 0.03 * y)
    return torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)[None]


def network(name: str) -> OperationGraph:
    read = read_folder(bundled_of(KIND)["people"], KIND)
    own = {key.removeprefix(f"{name}."): value for key, value in read.state.items() if key.startswith(f"{name}.")}
    return OperationGraph(read.config[name]["operations"], read.config[name]["outputs"], own)


@torch.no_grad()
def test_the_network_of_faces_gives_what_litert_gives() -> None:
    boxes, logits = network("faces")(2 * waves(192) - 1)
    rows = boxes[0].flatten(1).T[[0, 500, 1234, 2303], :4]
    expected = [
        [-4.9054, -1.3245, 7.4904, 7.4749],
        [-2.8073, -2.7014, 25.3752, 25.3502],
        [-2.1035, -2.1104, 21.6655, 21.6808],
        [-6.7282, -0.8614, 30.2636, 30.1927],
    ]
    torch.testing.assert_close(rows, torch.tensor(expected), atol=2e-3, rtol=0)
    seen = logits.flatten()[[0, 500, 1234, 2303]]
    torch.testing.assert_close(seen, torch.tensor([-8.6348, -3.0631, -2.1319, -36.921]), atol=2e-3, rtol=0)


@torch.no_grad()
def test_the_network_of_people_gives_what_litert_gives() -> None:
    (probability,) = network("people")(waves(256))
    assert probability.shape == (1, 1, 256, 256)
    places = [(100, 50, 0.471123), (200, 30, 0.000666), (250, 250, 0.426498)]
    for row, column, expected in places:
        assert float(probability[0, 0, row, column]) == pytest.approx(expected, abs=2e-4)
    assert float(probability.mean()) == pytest.approx(0.100065, abs=1e-4)


def test_a_face_is_where_the_astronaut_has_hers_at_any_size_and_place() -> None:
    image = picture("astronaut")
    (face,) = load_people().faces(image)
    # Her eyes are at about (205, 115) and (245, 110), her mouth at (225, 150).
    x0, y0, x1, y1 = face.box
    assert x0 < 200 < 250 < x1
    assert y0 < 105 < 155 < y1
    assert x1 - x0 < 150
    wide = torch.zeros(3, 512, 900)
    wide[..., 300:812] = image
    moved = load_people().faces(wide)[0].box
    np.testing.assert_allclose(np.array(moved) - [300, 0, 300, 0], face.box, atol=12)


def test_animals_and_cups_have_no_face() -> None:
    for name in ("chelsea", "coffee"):
        assert load_people().faces(picture(name)) == []


def test_people_are_the_astronaut_and_not_what_is_behind_her() -> None:
    image = picture("astronaut")
    people = load_people().people(image, load_people().faces(image))
    assert people.shape == (512, 512)
    assert bool((people[100:160, 200:250] > 0.9).all())  # her face
    assert bool((people[20:180, 20:100] < 0.1).all())  # the flag
    assert bool((people[60:120, 400:440] < 0.1).all())  # the shuttle


def test_a_small_person_is_seen_better_in_the_crop_about_the_face() -> None:
    table = picture("coffee")[None]
    image = torch.nn.functional.interpolate(table, size=(512, 1200), mode="bilinear")[0]
    small = torch.nn.functional.interpolate(
        picture("astronaut")[None], size=(120, 120), mode="bilinear", antialias=True
    )
    image[:, 392:, 900:1020] = small[0]
    finder, face = load_people(), Face((940.0, 407.0, 965.0, 432.0), 0.9)  # where hers is, a quarter as large
    alone, near = finder.people(image), finder.people(image, [face])
    assert near.shape == alone.shape == (218, 512)
    body = (slice(200, 218), slice(394, 420))  # her shoulders and chest
    assert bool((near >= alone).all())
    assert float(alone[body].mean()) < 0.1
    assert float(near[body].mean()) > 0.5


def test_tiny_and_constant_pictures_have_nobody() -> None:
    for shape in ((3, 1, 1), (3, 2, 900), (3, 64, 64)):
        assert load_people().faces(torch.full(shape, 0.3)) == []
        assert load_people().people(torch.full(shape, 0.3)).isfinite().all()


@pytest.mark.parametrize("certain", [0.0, 1.0, -1.0, float("nan")])
def test_a_probability_out_of_range_is_refused(certain: float) -> None:
    with pytest.raises(UsageError, match=r"certain=.*between 0 and 1"):
        load_people().faces(torch.zeros(3, 32, 32), certain=certain)


def test_a_crop_stays_inside_the_picture() -> None:
    face = Face((90.0, 10.0, 130.0, 50.0), 0.9)
    assert crop_around(face, 100, 120, (1.0, 1.0, 1.0)) == (0, 70, 70, 120)
    assert crop_around(Face((300.0, 10.0, 340.0, 50.0), 0.9), 100, 120, (1.0, 1.0, 1.0))[2:] == (280, 120)  # empty


def test_a_damaged_list_of_operations_is_refused() -> None:
    with pytest.raises(CheckpointError, match="operation 'swap' is none of conv"):
        OperationGraph([{"operation": "swap", "inputs": [0], "output": 1}], [1], {})
    with pytest.raises(CheckpointError, match=r"operation 0 takes \[7\]"):
        OperationGraph([{"operation": "relu", "inputs": [7], "output": 1}], [1], {})
    with pytest.raises(CheckpointError, match=r"outputs \[3\] are made by no operation"):
        OperationGraph([{"operation": "relu", "inputs": [0], "output": 1}], [3], {})


def test_same_padding_puts_the_larger_half_below_and_on_the_right() -> None:
    about = {"operation": "conv", "inputs": [0], "output": 1, "stride": 2, "depthwise": False, "same": True}
    kernel = torch.arange(9.0).view(1, 1, 3, 3)
    graph = OperationGraph([about], [1], {"0.weight": kernel, "0.bias": torch.zeros(1)})
    x = torch.rand(1, 1, 4, 4)
    (seen,) = graph(x)
    padded = torch.nn.functional.pad(x, (0, 1, 0, 1))  # TensorFlow pads four pixels, three of kernel, stride two so
    torch.testing.assert_close(seen, torch.nn.functional.conv2d(padded, kernel, stride=2))


def test_depth_to_space_counts_the_block_before_the_channel() -> None:
    graph = OperationGraph([{"operation": "spread", "inputs": [0], "output": 1, "block": 2}], [1], {})
    x = torch.arange(8.0).view(1, 8, 1, 1)  # TensorFlow: pixel (i, j), channel c is depth (2 i + j) 2 + c
    (seen,) = graph(x)
    assert seen[0, 0].tolist() == [[0, 2], [4, 6]]
    assert seen[0, 1].tolist() == [[1, 3], [5, 7]]


def test_the_folder_says_what_it_is_and_where_it_is_from() -> None:
    folder: Path = bundled_of(KIND)["people"]
    read = read_folder(folder, KIND)
    assert "Apache-2.0" in read.card["data"]
    assert (folder / "model.safetensors").stat().st_size < 1.5e6
    notice = (folder.parent / "NOTICE.txt").read_text(encoding="utf-8")
    assert "copyright The MediaPipe Authors" in notice
