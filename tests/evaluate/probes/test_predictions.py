"""`predict`: the pictures go through the model once, and the table says what `classify` says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import ImageTextDataset, load_data
from binderclip.errors import DataError, UsageError
from binderclip.evaluate import predict
from binderclip.models import build


def test_scores_are_those_of_classify_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = build({"embed_dim": 6, "vision_cfg": vision, "text_cfg": text}, name="narrow")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in range(5)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    rows = ["file,caption,label,place", *(f"{n}.png,a,{'cat' if n % 2 else 'dog'},{n % 2}" for n in range(5))]
    (tmp_path / "captions.csv").write_text("\n".join([*rows, "broken.png,a,cat,1"]), encoding="utf-8")
    data = load_data(str(tmp_path))
    assert isinstance(data, ImageTextDataset)
    done: list[int] = []
    found = predict(model, data, ["dog", "cat", "ape"], templates="photo", batch_size=2, progress=done.append)
    peer = model.classify(pictures, ["dog", "cat", "ape"], templates="photo")
    np.testing.assert_allclose(found.table.scores, peer.logits.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(found.table.probabilities(), peer.probs.detach().numpy(), atol=1e-5)
    assert found.table.target.tolist() == [0, 1, 0, 1, 0]
    assert [str(value) for value in found.table.attributes["place"]] == ["0", "1", "0", "1", "0"]
    assert [Path(key).name for key, _ in found.skipped] == ["broken.png"]
    assert (len(found.data), found.features.shape, found.table.model) == (5, (5, 6), "narrow")
    assert done
    own = predict(model, data, limit=2).table
    assert (len(own), set(own.classes)) == (2, {"cat", "dog"})
    with pytest.raises(UsageError, match="the data has no classes"):
        predict(model, ImageTextDataset([pictures[0]], ["a"], ["k"]))
    with pytest.raises(DataError, match="no picture can be read"):
        predict(model, data.where(key=lambda key: "broken" in key))
