"""The image index, with a model whose features are known: the mean colour."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import open_image
from binderclip.errors import CheckpointError, DataError, UsageError
from binderclip.models import EncodedImages, load
from binderclip.search import SearchIndex

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class MeanColour:
    """Encodes a picture as its mean colour and a word as that colour; counts what it encodes."""

    embed_dim = 3
    geometry = None

    def __init__(self, name: str = "mean-colour") -> None:
        self.name = self.fingerprint = name
        self.encoded: list[str] = []

    def encode_files(self, paths: list[Path], *, batch_size: int) -> EncodedImages:
        rows, index, skipped = [], [], []
        for position, path in enumerate(paths):
            try:
                pixels = np.asarray(open_image(path), dtype=np.float32)
            except DataError as error:
                skipped.append((str(path), str(error)))
                continue
            self.encoded.append(path.name)
            rows.append(pixels.reshape(-1, 3).mean(0))
            index.append(position)
        features = torch.tensor(np.array(rows)) if rows else torch.zeros(0, 3)
        return EncodedImages(features, [paths[i] for i in index], index, skipped)

    def encode_image(self, images: list[Path], *, normalize: bool = False) -> torch.Tensor:
        return torch.nn.functional.normalize(self.encode_files(images, batch_size=1).features, dim=-1)

    def encode_text(self, texts: list[str], *, normalize: bool = False) -> torch.Tensor:
        return torch.tensor([COLOURS[text] for text in texts])


def paint(path: Path, colour: tuple[int, int, int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for number in range(20):
        paint(root / f"sub{number % 2}" / f"{number}.png", tuple(int(v) for v in rng.integers(1, 256, 3)))
    paint(root / "it's red.png", (250, 5, 5))
    return root


def brute_force(folder: Path, vector: tuple[float, ...]) -> list[tuple[float, Path]]:
    scored = []
    for path in folder.rglob("*.png"):
        mean = np.asarray(Image.open(path), dtype=np.float64).reshape(-1, 3).mean(0)
        scored.append((float(mean @ np.array(vector) / np.linalg.norm(mean)), path))
    return sorted(scored, reverse=True)


def test_query_gives_the_nearest_by_cosine(folder: Path, tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "index", MeanColour())
    assert index.update(folder, batch_size=6).added == 21
    assert index.measure == "cosine"
    assert index.correction == ""
    for word, vector in COLOURS.items():
        hits = index.query(word, top=5)
        expected = brute_force(folder, vector)[:5]
        assert [hit.path for hit in hits] == [path for _, path in expected]
        np.testing.assert_allclose([hit.score for hit in hits], [score for score, _ in expected], atol=1e-5)
    assert index.query(folder / "it's red.png", top=1)[0].path.name == "it's red.png"


def test_only_new_and_changed_files_are_encoded_again(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    SearchIndex(place, MeanColour()).update(folder)
    paint(folder / "new.png", (1, 2, 3))
    paint(folder / "sub0" / "0.png", (0, 0, 255))
    (folder / "sub1" / "1.png").unlink()
    (folder / "it's red.png").unlink()
    touched = folder / "sub0" / "2.png"
    os.utime(touched, ns=(1, 1))
    model = MeanColour()
    report = SearchIndex(place, model).update(folder)
    assert sorted(model.encoded) == ["0.png", "new.png"]
    assert (report.added, report.changed, report.removed, report.unchanged) == (1, 1, 2, 18)
    index = SearchIndex(place, model)
    assert len(index) == 20
    assert index.query("blue", top=1)[0].path.name == "0.png"


def test_unreadable_files_are_skipped_and_named(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    index = SearchIndex(tmp_path / "index", MeanColour())
    report = index.update(folder)
    assert [Path(path).name for path, _ in report.skipped] == ["broken.png"]
    assert len(index) == 21
    # A picture that breaks later leaves the index, so that nothing stale is found.
    (folder / "it's red.png").write_bytes(b"gone bad")
    index.update(folder)
    assert "it's red.png" not in {hit.path.name for hit in index.query("red", top=50)}


def test_another_model_or_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    SearchIndex(tmp_path / "index", MeanColour()).update(folder)
    with pytest.raises(UsageError, match="was made with model 'mean-colour'"):
        SearchIndex(tmp_path / "index", MeanColour("other"))
    newer = MeanColour()
    newer.fingerprint = "newer"
    with pytest.raises(UsageError, match="other weights of 'mean-colour' than it has now"):
        SearchIndex(tmp_path / "index", newer)
    with pytest.raises(UsageError, match="is of"):
        SearchIndex(tmp_path / "index", MeanColour()).update(tmp_path)


def test_bad_places_give_short_errors(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no images in"):
        SearchIndex(tmp_path / "index", MeanColour()).update(empty)
    with pytest.raises(DataError, match="there is no folder"):
        SearchIndex(tmp_path / "index", MeanColour()).update(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="not a binderclip index"):
        SearchIndex(folder, MeanColour())
    with pytest.raises(UsageError, match="is empty"):
        SearchIndex(tmp_path / "index", MeanColour()).query("red")


def test_a_damaged_note_is_refused(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    SearchIndex(place, MeanColour()).update(folder)
    note = place / "binderclip-index.json"
    note.write_text(json.dumps({"format": 99}))
    with pytest.raises(CheckpointError, match="--rebuild"):
        SearchIndex(place, MeanColour())


def test_a_file_that_changes_while_it_is_encoded_is_found_changed_next_time(folder: Path, tmp_path: Path) -> None:
    class Slow(MeanColour):
        def encode_files(self, paths: list[Path], *, batch_size: int) -> EncodedImages:
            found = super().encode_files(paths, batch_size=batch_size)
            for path in paths:
                if path.name == "it's red.png":
                    # The same size and other bytes, so that only time and content tell.
                    data = bytearray(path.read_bytes())
                    data[-20] ^= 1
                    path.write_bytes(bytes(data))
            return found

    SearchIndex(tmp_path / "index", Slow()).update(folder)
    report = SearchIndex(tmp_path / "index", MeanColour()).update(folder)
    assert (report.changed + len(report.skipped), report.unchanged) == (1, 20)


def test_a_file_that_goes_while_others_are_encoded_is_skipped(folder: Path, tmp_path: Path) -> None:
    class Deletes(MeanColour):
        def encode_files(self, paths: list[Path], *, batch_size: int) -> EncodedImages:
            (folder / "sub1" / "9.png").unlink(missing_ok=True)
            return super().encode_files(paths, batch_size=batch_size)

    report = SearchIndex(tmp_path / "index", Deletes()).update(folder, batch_size=4)
    assert [Path(path).name for path, _ in report.skipped] == ["9.png"]
    assert report.added == 20


def test_an_interrupted_update_keeps_the_batches_it_did(folder: Path, tmp_path: Path) -> None:
    class Interrupted(MeanColour):
        def encode_files(self, paths: list[Path], *, batch_size: int) -> EncodedImages:
            if len(self.encoded) >= 12:
                raise KeyboardInterrupt
            return super().encode_files(paths, batch_size=batch_size)

    with pytest.raises(KeyboardInterrupt):
        SearchIndex(tmp_path / "index", Interrupted()).update(folder, batch_size=6)
    model = MeanColour()
    index = SearchIndex(tmp_path / "index", model)
    assert len(index) == 12
    report = index.update(folder, batch_size=6)
    assert (report.unchanged, report.added, len(model.encoded)) == (12, 9, 9)
    assert len({hit.path for hit in index.query("red", top=50)}) == 21


def test_rebuild_starts_anew_with_any_model_and_folder(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    SearchIndex(place, MeanColour()).update(folder)
    other = MeanColour("other")
    rebuilt = SearchIndex(place, other, rebuild=True)
    assert rebuilt.update(folder / "sub0").added == 10
    assert len(SearchIndex(place, other)) == 10
    assert rebuilt.update(folder / "sub0").unchanged == 10
    (place / "binderclip-index.json").write_text("{}")
    assert SearchIndex(place, MeanColour(), rebuild=True).update(folder).added == 21
    with pytest.raises(CheckpointError, match="not a binderclip index"):
        SearchIndex(folder, MeanColour(), rebuild=True)


def test_a_lost_table_is_a_short_error(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "index"
    SearchIndex(place, MeanColour()).update(folder)
    shutil.rmtree(place / "images.lance")
    with pytest.raises(CheckpointError, match="damaged; index again with --rebuild"):
        SearchIndex(place, MeanColour())
    assert SearchIndex(place, MeanColour(), rebuild=True).update(folder).added == 21


def test_writers_wait_for_each_other(folder: Path, tmp_path: Path) -> None:
    place, entered, leave = tmp_path / "index", threading.Event(), threading.Event()

    class Waits(MeanColour):
        def encode_files(self, paths: list[Path], *, batch_size: int) -> EncodedImages:
            entered.set()
            assert leave.wait(60)
            return super().encode_files(paths, batch_size=batch_size)

    first, second = Waits(), MeanColour()
    late = SearchIndex(place, second)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(SearchIndex(place, first).update, folder, batch_size=5)
        assert entered.wait(60)
        # Added once the first writer has listed the folder: the second finds this one only.
        paint(folder / "late.png", (9, 9, 9))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            two = pool.submit(late.update, folder, batch_size=5)
            while not said and not two.done():
                time.sleep(0.01)
            leave.set()
            assert one.result(60).added == 21
            report = two.result(60)
    assert "another process is writing" in str(said[0].message)
    assert (report.added, report.unchanged, report.removed) == (1, 21, 0)
    assert second.encoded == ["late.png"]
    assert len(late) == 22


@pytest.mark.parametrize("name", ["small", "everyday"])
def test_its_vectors_are_those_of_the_pictures_that_are_as_they_were(tmp_path: Path, name: str) -> None:
    model = load(name)
    for number, colour in enumerate(COLOURS.values()):
        paint(tmp_path / "pictures" / f"{number}.png", tuple(int(200 * value) for value in colour))  # type: ignore[arg-type]
    index = SearchIndex(tmp_path / "index", model)
    assert index.embeddings()[0] == []
    index.update(tmp_path / "pictures")
    paint(tmp_path / "pictures" / "1.png", (9, 90, 200))
    paths, rows = index.embeddings()
    assert sorted(path.name for path in paths) == ["0.png", "2.png"]
    torch.testing.assert_close(rows, model.encode_image(paths, normalize=True), atol=1e-5, rtol=1e-4)


def test_words_minus_words_are_a_difference_of_unit_embeddings(tmp_path: Path) -> None:
    pictures = {"red": (200, 0, 0), "both": (200, 200, 0), "green": (0, 200, 0)}
    for name, colour in pictures.items():
        paint(tmp_path / "pictures" / f"{name}.png", colour)
    index = SearchIndex(tmp_path / "index", MeanColour())  # type: ignore[arg-type]
    index.update(tmp_path / "pictures")
    asked = np.array([1.0, -0.75, 0.0])
    hits = index.query("red", minus="green", minus_weight=0.75)
    assert [hit.path.stem for hit in hits] == ["red", "both", "green"]
    for hit in hits:
        row = np.array(pictures[hit.path.stem], float)
        expected = row @ asked / np.linalg.norm(row) / np.linalg.norm(asked)
        assert hit.score == pytest.approx(expected, abs=1e-5)
    assert [hit.score for hit in index.query("red", minus="green", minus_weight=0)] == pytest.approx(
        [hit.score for hit in index.query("red")]
    )
    with pytest.raises(UsageError, match="nothing is left of what is asked without 'red'"):
        index.query("red", minus="red", minus_weight=1)
    with pytest.raises(UsageError, match="what is asked is an image"):
        index.query(tmp_path / "pictures" / "red.png", minus="green")
    with pytest.raises(UsageError, match="minus_weight"):
        index.query("red", minus="green", minus_weight=2)
