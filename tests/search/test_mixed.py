"""An index of pictures, texts and pictures with texts, and of models that compare otherwise than by cosine."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from binderclip.data import open_image
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.losses import SIMILARITIES
from binderclip.models import EncodedImages
from binderclip.search import SearchIndex
from binderclip.search.index import read_note
from binderclip.similarity import EmbeddingSet, EmbeddingTransform, GapRemoval, Transformed, Whitening

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "grey": (0.6, 0.6, 0.6)}
GAP = torch.tensor([0.0, 0.0, 0.0, 3.0])


class TwoClouds:
    """Colours as vectors, with pictures on one side of a wide gap and words on the other."""

    embed_dim = 4
    geometry = None
    name = fingerprint = "two-clouds"

    def encode_files(self, paths: list[Path], *, batch_size: int) -> EncodedImages:
        rows = [np.asarray(open_image(path), dtype=np.float32).reshape(-1, 3).mean(0) / 255 for path in paths]
        features = F.pad(torch.tensor(np.array(rows)), (0, 1)) + GAP
        return EncodedImages(features, list(paths), list(range(len(paths))), [])

    def encode_image(self, images: list[Path]) -> torch.Tensor:
        return self.encode_files(images, batch_size=1).features

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([(*COLOURS[text.split()[-1]], 0.0) for text in texts]) - GAP

    def with_transform(self, transform: EmbeddingTransform) -> TwoClouds:
        other = copy.copy(self)
        other.geometry = Transformed(transform, self.geometry)
        return other


def removal(model: TwoClouds) -> GapRemoval:
    colours = torch.tensor([(*colour, 0.0) for colour in COLOURS.values()])
    return GapRemoval().fit(EmbeddingSet(colours + GAP, "image"), EmbeddingSet(colours - GAP, "text"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Of each colour a picture, a text, and a picture with its text."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("red", "green", "blue"):
        pixel = tuple(round(255 * value) for value in COLOURS[name])
        for kind in ("picture", "both"):
            Image.new("RGB", (4, 4), pixel).save(folder / f"{kind}-{name}.png")
        (folder / f"both-{name}.txt").write_text(f"\nit is {name}\nand more\n", encoding="utf-8")
        (folder / f"text-{name}.md").write_text(f"this\nis {name}", encoding="utf-8")
    return folder


def test_the_gap_puts_texts_first_and_its_removal_the_right_colour(corpus: Path, tmp_path: Path) -> None:
    model = TwoClouds()
    plain = SearchIndex(tmp_path / "plain", model, mixed=True)
    assert plain.update(corpus).added == len(plain) == 9
    assert all(hit.path.name.startswith("text-") for hit in plain.query("red", top=3))
    closed = SearchIndex(tmp_path / "closed", model, mixed=True, transform=removal(model))
    closed.update(corpus)
    for name in ("red", "green", "blue"):
        hits = closed.query(name, top=3)
        assert {hit.path.name for hit in hits} == {f"picture-{name}.png", f"both-{name}.png", f"text-{name}.md"}
    picture = closed.query(corpus / "picture-blue.png", top=3)
    assert {hit.path.stem.split("-")[1] for hit in picture} == {"blue"}
    own = {hit.path.name: hit.score for hit in closed.query("red", top=9)}
    by_hand = removal(model)
    asked = by_hand.transform(model.encode_text(["red"]), "text")
    image, text = model.encode_image([corpus / "both-red.png"]), model.encode_text(["red"])
    assert own["both-red.png"] == pytest.approx(float(asked[0] @ by_hand.mixed(text, image)[0]), abs=1e-5)
    assert own["text-red.md"] == pytest.approx(1.0, abs=1e-5)


def test_the_index_keeps_its_transform_and_its_documents(corpus: Path, tmp_path: Path) -> None:
    model, path = TwoClouds(), tmp_path / "index"
    SearchIndex(path, model, mixed=True, transform=removal(model)).update(corpus)
    note = read_note(path)
    assert note is not None
    assert note["mixed"]
    assert note["transform"]
    again = SearchIndex(path, model)
    assert again.mixed
    assert isinstance(again.transform, GapRemoval)
    assert again.query("green", top=1)[0].score == pytest.approx(1.0, abs=1e-5)
    assert again.update(corpus).unchanged == 9
    (corpus / "both-green.txt").write_text("now red", encoding="utf-8")
    (corpus / "both-blue.txt").unlink()
    report = SearchIndex(path, model, transform=removal(model)).update(corpus)
    assert (report.changed, report.unchanged, report.removed) == (2, 7, 0)
    found = [hit.path.name for hit in SearchIndex(path, model).query("green", top=3)]
    assert "both-green.png" not in found[:2]
    assert SearchIndex(path, model, rebuild=True).update(corpus).added == 6
    assert not read_note(path)["transform"]
    assert not list(path.glob("*.safetensors"))


def test_what_does_not_go_together_is_refused(corpus: Path, tmp_path: Path) -> None:
    model, path = TwoClouds(), tmp_path / "index"
    SearchIndex(path, model, mixed=True, transform=removal(model)).update(corpus)
    with pytest.raises(UsageError, match="is of pictures and texts"):
        SearchIndex(path, model, mixed=False)
    other = GapRemoval().fit(EmbeddingSet(torch.eye(4), "image"), EmbeddingSet(-torch.eye(4), "text"))
    with pytest.raises(UsageError, match="with another transform"):
        SearchIndex(path, model, transform=other)
    bare = tmp_path / "bare"
    SearchIndex(bare, model).update(corpus)
    assert json.loads((bare / "binderclip-index.json").read_text())["format"] == 1
    with pytest.raises(UsageError, match="without a transform"):
        SearchIndex(bare, model, transform=other)
    with pytest.raises(UsageError, match="is of pictures alone"):
        SearchIndex(bare, model, mixed=True)
    with pytest.raises(UsageError, match="zca"):
        SearchIndex(tmp_path / "c", model, transform=Whitening(force=True, redundant="ridge").fit(
            EmbeddingSet(torch.eye(4), "image"), EmbeddingSet(torch.eye(4), "text")
        ))  # fmt: skip
    (path / "binderclip-transform.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="holds no transform"):
        SearchIndex(path, model)
    bent = TwoClouds()
    bent.geometry = SIMILARITIES["lorentz"]()  # type: ignore[assignment]
    with pytest.raises(NotSupported, match="by cosines alone, not by Lorentz"):
        SearchIndex(tmp_path / "d", bent, mixed=True)


def test_texts_that_say_nothing_are_named(corpus: Path, tmp_path: Path) -> None:
    (corpus / "empty.md").write_text(" \n", encoding="utf-8")
    (corpus / "noise.txt").write_bytes(b"\xff\xfe\xfd")
    report = SearchIndex(tmp_path / "index", TwoClouds(), mixed=True).update(corpus)
    assert report.added == 9
    told = {Path(path).name: reason for path, reason in report.skipped}
    assert told == {"empty.md": "is an empty text", "noise.txt": "is not a text in UTF-8"}


def test_captions_of_a_table_go_with_their_pictures(corpus: Path, tmp_path: Path) -> None:
    table = corpus / "captions.csv"
    table.write_text("file,caption\npicture-red.png,all blue\nboth-red.png,so green\n", encoding="utf-8")
    model, path = TwoClouds(), tmp_path / "index"
    SearchIndex(path, model, mixed=True, transform=removal(model)).update(corpus)
    found = {hit.path.name: hit.score for hit in SearchIndex(path, model).query("blue", top=9)}
    mixed = removal(model).mixed(model.encode_text(["blue"]), model.encode_image([corpus / "picture-red.png"]))
    asked = removal(model).transform(model.encode_text(["blue"]), "text")
    assert found["picture-red.png"] == pytest.approx(float(asked[0] @ mixed[0]), abs=1e-5)
    table.write_text("file,caption\npicture-red.png,all grey\nboth-red.png,so green\n", encoding="utf-8")
    report = SearchIndex(path, model).update(corpus)
    assert (report.changed, report.unchanged, report.added) == (1, 8, 0)


@pytest.mark.parametrize("name", [name for name in SIMILARITIES if name != "cosine"])
def test_hits_and_scores_are_those_of_the_geometry(name: str, corpus: Path, tmp_path: Path) -> None:
    model, geometry = TwoClouds(), SIMILARITIES[name]()
    model.geometry = geometry  # type: ignore[assignment]
    index = SearchIndex(tmp_path / "index", model)
    index.update(corpus)
    assert index.measure == "similarity"
    assert index.correction == f"similarities by {type(geometry).__name__}"
    files = sorted(corpus.glob("*.png"))
    images = geometry.embed(model.encode_image(files), "image")
    for query in ("grey", corpus / "both-red.png"):
        words = isinstance(query, str)
        raw = model.encode_text([query]) if words else model.encode_image([query])
        expected = geometry(images, geometry.embed(raw, "text" if words else "image"))[:, 0].detach()
        hits = {hit.path.name: hit.score for hit in index.query(query)}
        found = torch.tensor([hits[path.name] for path in files])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)
        scores = [hit.score for hit in index.query(query)]
        assert scores == sorted(scores, reverse=True)
