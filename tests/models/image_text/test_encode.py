from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.models import load
from binderclip.models.image_text import encode
from binderclip.models.image_text.encode import encode_files
from binderclip.models.image_text.preprocess import Preprocess


@pytest.fixture
def model(clip_folder: Path):
    return load(clip_folder)


def test_order_batches_and_report(model, files: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    sources = [*files, bad, *reversed(files), bad]
    done: list[int] = []
    found = encode_files(model, sources, batch_size=3, progress=done.append)
    assert found.paths == [*files, *reversed(files)]
    assert found.index == [0, 1, 2, 3, 5, 6, 7, 8]
    assert [key for key, _ in found.skipped] == [str(bad)] * 2
    assert all("bad.jpg" in reason for _, reason in found.skipped)
    torch.testing.assert_close(found.features[:4], found.features[4:].flip(0), rtol=1e-5, atol=1e-6)
    assert done[-1] == len(sources)
    assert done == sorted(done)
    unit = encode_files(model, files, normalize=True).features
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(4))


def test_nothing_readable_gives_no_rows(model, tmp_path: Path) -> None:
    found = encode_files(model, [tmp_path / "a.png"])
    assert found.features.shape == (0, 32)
    assert len(found) == 0
    assert encode_files(model, []).features.shape == (0, 32)


def test_raise_stops(model, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png"):
        encode_files(model, [files[0], tmp_path / "gone.png"], on_error="raise")
    for options in ({"batch_size": 0}, {"workers": 0}, {"on_error": "x"}):
        with pytest.raises(UsageError):
            encode_files(model, files, **options)  # type: ignore[arg-type]


def test_the_same_lazily_opened_picture_many_times(model, files: list[Path]) -> None:
    lazy = Image.open(files[0])
    found = encode_files(model, [lazy] * 12, batch_size=4, workers=4)
    torch.testing.assert_close(found.features, found.features[:1].expand(12, -1), rtol=1e-5, atol=1e-6)
    assert found.keys == [str(i) for i in range(12)]


def test_no_more_pictures_are_held_than_asked(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened, lock = [0], threading.Lock()
    original = Preprocess.pixels

    def counting(self, image):
        with lock:
            opened[0] += 1
        return original(self, image)

    monkeypatch.setattr(Preprocess, "pixels", counting)
    stream = encode.opened_ahead(Preprocess((32, 32)).pixels, files * 10, workers=3, ahead=5)
    for taken, _ in enumerate(stream, start=1):
        assert opened[0] <= taken + 5
    assert opened[0] == 40
