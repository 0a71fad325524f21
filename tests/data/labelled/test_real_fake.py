"""Folders of real and generated pictures: both layouts, aligned copies, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from binderclip.data import RealFakeSet, real_fake_folder
from binderclip.errors import DataError, UsageError


def put(path: Path, colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (colour, 0, 0)).save(path)


def test_one_folder_of_real_pictures_for_all_generators(tmp_path: Path) -> None:
    for name, colour in (("0_real/a.png", 1), ("0_real/b.png", 2), ("1_fake/gan/b.jpg", 3), ("1_fake/vae/c.png", 4)):
        put(tmp_path / name, colour)
    put(tmp_path / "1_fake" / "loose.png", 5)
    found = real_fake_folder(tmp_path)
    assert found.made_by == ["gan", "fake", "vae"]
    by_name = {Path(found.key(row)).name: row for row in range(len(found))}
    # Below the folder, so that what is drawn for a picture does not hang on where the folder lies.
    assert found.key(by_name["b.jpg"]) == "1_fake/gan/b.jpg"
    assert found.named(by_name["b.jpg"]) == str(tmp_path / "1_fake/gan/b.jpg")
    assert found.labels[by_name["a.png"]] == 0
    # The same name below its folder, whatever the suffix, is an aligned copy.
    assert found.partners[by_name["b.jpg"]] == by_name["b.png"]
    assert found.partners[by_name["c.png"]] == -1
    assert found.rows("gan") == [by_name["a.png"], by_name["b.png"], by_name["b.jpg"]]
    assert found.rows(label=1) == [by_name["b.jpg"], by_name["loose.png"], by_name["c.png"]]
    assert found.image(by_name["a.png"])[0].unique().tolist() == pytest.approx([1 / 255])


def test_every_generator_with_real_pictures_of_its_own(tmp_path: Path) -> None:
    for generator in ("gan", "vae"):
        for part in ("0_real", "1_fake"):
            put(tmp_path / generator / part / "dog" / "a.png", 1)
    (tmp_path / "notes").mkdir()
    found = real_fake_folder(tmp_path)
    assert found.made_by == ["gan", "vae"]
    assert found.rows("vae") == [2, 3]
    assert found.partners.tolist() == [-1, 0, -1, 2]


def test_tensors_are_aligned_where_there_are_as_many() -> None:
    real = torch.zeros(2, 3, 4, 4)
    found = RealFakeSet.from_pictures(list(real), {"gan": list(real + 1), "vae": [torch.ones(3, 8, 8)]})
    assert found.partners.tolist() == [-1, -1, 0, 1, -1]
    assert found.generators == ["", "", "gan", "gan", "vae"]
    assert found.image(4).shape == (3, 8, 8)
    with pytest.raises(UsageError, match="real pictures, and generators"):
        RealFakeSet.from_pictures([], {"gan": list(real)})


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        real_fake_folder(tmp_path / "none")
    with pytest.raises(UsageError, match="real pictures go into 0_real"):
        real_fake_folder(tmp_path)
    put(tmp_path / "0_real" / "a.png", 1)
    with pytest.raises(DataError, match="no images in 1_fake"):
        real_fake_folder(tmp_path)
