"""Pictures of any size without fences (p116) and reflections (p022): windows, masks, what stays, and the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from binderclip.data import synthesize_fence
from binderclip.errors import CheckpointError, UsageError
from binderclip.generate import (
    CLEANERS,
    FenceCleaner,
    ReflectionCleaner,
    biharmonic_fill,
    load_cleaner,
    save_cleaner,
)
from binderclip.generate.translate.cleaning import long_regions, over_windows

SMALL = {"width": 4, "encoder_blocks": (1,), "decoder_blocks": (1,), "heads": 2, "hidden": 8, "coverage": 0.5}


def slope(height: int, width: int) -> Tensor:
    """A picture between 0.3 and 0.9."""
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    return torch.stack(
        [0.3 + 0.6 * (rows + columns) / 2, 0.4 + 0.4 * rows + 0 * columns, 0.9 - 0.5 * columns + 0 * rows]
    )


def fenced(picture: Tensor, pitch: float = 20) -> tuple[Tensor, Tensor]:
    """The picture behind black bars, and their mask."""
    g = torch.Generator().manual_seed(3)
    mask = synthesize_fence(picture[None], ["bars"], pitch=(pitch, pitch), width=(3, 3), generator=g).mask[0]
    return picture * (1 - mask), mask[0] > 0


@pytest.mark.parametrize("size", [(70, 130), (16, 20), (64, 64), (16, 500)])
def test_windows_give_back_what_they_are_given(size: tuple[int, int]) -> None:
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(over_windows(picture, lambda x: x, window=48, channels=3), picture, atol=1e-6)
    # A window that says something else counts less towards its border: the result has no steps.
    seen = []
    over_windows(picture, lambda x: seen.append(len(x)) or x, window=48, channels=3)  # type: ignore[func-returns-value]
    assert max(seen) <= 8


def test_a_fence_is_found_and_painted_and_all_else_stays(dark_strands: Path) -> None:
    cleaner, card = load_cleaner(dark_strands)
    clean = slope(150, 170)
    picture, mask = fenced(clean)
    result = cleaner.clean(picture)
    assert card["limits"] == ["Knows what is nearly black."]
    assert result.mask is not None
    assert torch.equal(result.mask, mask)
    assert torch.equal(result.image[:, ~mask], picture[:, ~mask])
    assert float((result.image - clean).abs().max()) < 0.02
    whole = biharmonic_fill(picture[None], mask[None, None].float())[0]
    assert float((result.image - whole).abs().mean()) < 2e-3  # windows change little


def test_looked_at_smaller_the_mask_is_as_large_as_the_picture(dark_strands: Path) -> None:
    cleaner, _ = load_cleaner(dark_strands)
    clean = slope(122, 151)
    wide = torch.zeros(122, 151, dtype=torch.bool)
    wide[40:52], wide[:, 80:92] = True, True
    result = cleaner.clean(torch.where(wide, 0.0, clean), shrink=4)
    assert result.image.shape == clean.shape
    assert result.mask is not None
    assert torch.equal(result.mask, wide)


def test_large_pictures_are_looked_at_until_they_have_a_thousand_pixels(dark_strands: Path) -> None:
    cleaner, _ = load_cleaner(dark_strands)
    clean = slope(90, 2100)
    wide = torch.zeros(90, 2100, dtype=torch.bool)
    wide[30:39] = True
    picture = torch.where(wide, 0.0, clean)
    result = cleaner.clean(picture)
    assert result.mask is not None
    assert torch.equal(result.mask, wide)  # three pixels of a picture of 700
    assert torch.equal(result.image, cleaner.clean(picture, shrink=3).image)
    assert not torch.equal(result.image, cleaner.clean(picture, shrink=1).image)
    # What is painted is that of the smaller picture, enlarged: as smooth as what it continues.
    assert float((result.image - clean).abs().max()) < 0.03
    assert torch.equal(cleaner.find(picture), wide)
    assert ReflectionCleaner(**SMALL).eval().clean(picture).image.shape == picture.shape


@pytest.mark.parametrize("size", [(1, 5000), (300, 1), (1, 1), (3, 40)])
def test_narrow_pictures_keep_their_size(dark_strands: Path, size: tuple[int, int]) -> None:
    cleaners = [load_cleaner(dark_strands)[0], ReflectionCleaner(**SMALL).eval()]
    for cleaner in cleaners:
        for picture in (slope(*size), torch.zeros(3, *size)):
            result = cleaner.clean(picture)
            assert result.image.shape == picture.shape
            assert bool(result.image.isfinite().all())


def test_what_is_short_thin_or_everything_is_no_fence(dark_strands: Path) -> None:
    cleaner, _ = load_cleaner(dark_strands)
    picture = slope(100, 120)
    spot, line = picture.clone(), picture.clone()
    spot[:, 20:50, 20:50] = 0
    line[:, 50:52, :] = 0
    for one, masked in ((picture, 0), (spot, 0), (torch.zeros(3, 100, 120), 0), (line, 240)):
        result = cleaner.clean(one)
        assert result.mask is not None
        assert int(result.mask.sum()) == masked
        if not masked:
            assert torch.equal(result.image, one)
    mask = np.zeros((50, 60), bool)
    mask[5, 5:45], mask[20, 20:30], mask[30, 20:29] = True, True, True
    assert long_regions(mask, 40).sum(1)[[5, 20, 30]].tolist() == [40, 10, 0]
    assert not long_regions(mask, 41).any()


def test_a_reflection_is_what_the_network_says_of_the_picture() -> None:
    torch.manual_seed(0)
    cleaner = ReflectionCleaner(**SMALL, window=64).eval()
    picture = slope(40, 48)
    assert cleaner.clean(picture).mask is None
    whole = cleaner.remover(picture[None], torch.zeros(1, 1, 40, 48)).transmission[0].clamp(0, 1)
    assert torch.allclose(cleaner.clean(picture).image, whole, atol=1e-5)
    assert cleaner.clean(picture, shrink=2).image.shape == picture.shape
    with pytest.raises(UsageError, match="shrink"):
        cleaner.clean(picture, shrink=0)


def test_a_saved_cleaner_does_the_same(tmp_path: Path, dark_strands: Path) -> None:
    torch.manual_seed(0)
    for cleaner in (FenceCleaner(widths=(3, 4), threshold=0.4), ReflectionCleaner(**SMALL)):
        folder = save_cleaner(cleaner.eval(), tmp_path / cleaner.of, {"name": "mine"})
        again, card = load_cleaner(folder, of=cleaner.of)
        assert card["name"] == "mine"
        assert again.settings == {**cleaner.settings, **card["settings"]}
        picture = slope(30, 33)
        assert torch.equal(again.clean(picture).image, cleaner.clean(picture).image)
    with pytest.raises(CheckpointError, match="removes a fence, not a reflection"):
        load_cleaner(dark_strands, of="reflection")
    half = save_cleaner(FenceCleaner(widths=(3, 4)), tmp_path / "half", dtype=torch.float16)
    assert load_cleaner(half)[0].occluder.last.weight.dtype == torch.float32


def test_what_is_no_cleaner_is_refused(tmp_path: Path, dark_strands: Path) -> None:
    def changed(name: str, **values: object) -> Path:
        folder = Path(shutil.copytree(dark_strands, tmp_path / name))
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        (folder / "card.json").write_text(json.dumps({**card, **values}), encoding="utf-8")
        return folder

    cut = changed("cut")
    (cut / "weights.safetensors").write_bytes((cut / "weights.safetensors").read_bytes()[:50])
    cases = [
        (tmp_path / "nowhere", "there is no folder"), (tmp_path, "cannot be read"), (cut, "weights"),
        (changed("kind", kind="snow"), "cannot be read as a cleaner"),
        (changed("settings", settings={"depth": 3}), "cannot be read as a cleaner"),
        (changed("range", settings={"threshold": 7}), "threshold"),
        (changed("list", settings=[]), "must be an object"),
        (changed("other", settings={"widths": [4]}), "of another network"),
    ]  # fmt: skip
    for folder, words in cases:
        with pytest.raises(CheckpointError, match=words):
            load_cleaner(folder)


def test_every_kind_has_its_name() -> None:
    assert {name: kind.of for name, kind in CLEANERS.items()} == {"fence": "fence", "reflection": "reflection"}
