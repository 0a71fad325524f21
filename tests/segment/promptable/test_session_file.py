"""Sessions that were written and read again."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.segment.promptable import InteractiveSession, OracleSegmenter, load_session, save_session


@pytest.fixture
def clicked(tiny, tmp_path):
    """A session with every kind of action, one of them undone, on a picture in a file."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    session = InteractiveSession(tiny, tmp_path / "a.png")
    session.click(20.5, 20.5)
    session.box(10, 8, 40.25, 40)
    session.scribble([(12, 12), (30, 30)], positive=False)
    rough = torch.zeros(48, 70, dtype=torch.bool)
    rough[5:20, 10:33] = True
    session.rough(rough)
    session.click(60.5, 40.5, positive=False)
    session.undo()
    return session


def test_a_session_comes_back_with_its_masks_and_what_was_undone(clicked, tiny, tmp_path):
    path = save_session(clicked, tmp_path / "s.json", model="tiny")
    again = load_session(path, tiny)
    assert [a.kind for a in again.actions] == ["click", "box", "scribble", "mask"]
    assert again.clicks == clicked.clicks
    for ours, theirs in zip(again.history, clicked.history, strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(again.redo(), clicked.redo())


def test_the_file_holds_the_mask_as_coco_counts_it(clicked, tmp_path):
    coco = pytest.importorskip("pycocotools.mask")
    document = json.loads(save_session(clicked, tmp_path / "s.json").read_text())
    counts = coco.frPyObjects(document["mask"], 48, 70)
    assert np.array_equal(coco.decode(counts).astype(bool), clicked.mask.numpy())


def test_it_is_encoded_once(blobs, tmp_path):
    session = InteractiveSession(OracleSegmenter(blobs), torch.rand(3, 40, 60))
    session.click(10.5, 10.5)
    session.click(8.5, 30.5)
    path = save_session(session, tmp_path / "s.json")
    oracle = OracleSegmenter(blobs)
    with pytest.raises(UsageError, match="names no picture"):
        load_session(path, oracle)
    again = load_session(path, oracle, torch.rand(3, 40, 60))
    assert oracle.encoded == 1
    assert torch.equal(again.mask, session.mask)


def test_a_picture_that_moved_with_its_session_is_found(clicked, tiny, tmp_path, monkeypatch):
    clicked.image = "a.png"
    path = save_session(clicked, tmp_path / "s.json")
    monkeypatch.chdir(tmp_path.parent)
    assert load_session(path, tiny).size == (48, 70)


def test_what_is_no_session_is_refused(clicked, tiny, blobs, tmp_path):
    path = save_session(clicked, tmp_path / "s.json")
    with pytest.raises(UsageError, match="70 x 48 pixels, this one has 60 x 40"):
        load_session(path, OracleSegmenter(blobs), torch.rand(3, 40, 60))
    whole = json.loads(path.read_text())
    broken = [
        "{", "[]", json.dumps({"format": "other"}),
        json.dumps(whole | {"size": 3}),
        json.dumps(whole | {"actions": [{"kind": "spell"}]}),
        json.dumps(whole | {"actions": [{"kind": "click", "clicks": []}]}),
        json.dumps(whole | {"actions": [{"kind": "mask", "mask": {"size": [48, 70], "counts": [5]}}]}),
    ]  # fmt: skip
    for text in broken:
        path.write_text(text)
        with pytest.raises(DataError):
            load_session(path, tiny)
    with pytest.raises(DataError, match="cannot read"):
        load_session(tmp_path / "none.json", tiny)
    with pytest.raises(DataError, match="cannot write"):
        save_session(clicked, tmp_path / "no" / "s.json")
