"""Signals of a model: scores against the model's own cosines, the masked score of p102 against re-scored captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from binderclip.curate import (
    SIGNALS,
    ClipScore,
    CurationPipeline,
    DatasetTable,
    LateModel,
    MaskedTextScore,
    MeanRankTopFraction,
    ScoreTopFraction,
    Shard,
    computed_columns,
    keys_of,
    model_signals,
)
from binderclip.curate.engine.rule import fill_column
from binderclip.curate.engine.store import ColumnStore
from binderclip.curate.signals.table import standard_signals
from binderclip.data import ImageTextDataset, load_data
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, load

from ..pools import ListTable, made_pool

CAPTIONS = ["a face", "a face 12", "7", "a 4x4 car", "", "moon, 2019"]


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    return load("small").eval()


@pytest.fixture(scope="module")
def data() -> ImageTextDataset:
    few = load_data("noto-emoji", split="val")[:6]
    pictures = [*[few.encoded(i) for i in range(5)], b"no picture"]
    return ImageTextDataset(pictures, CAPTIONS, [f"k{i}" for i in range(6)])


def filled(data: ImageTextDataset, model: ImageTextModel, root: Path) -> Shard:
    table = DatasetTable(data)
    shard = table.load(table.ids[0])
    for name in ("clip_score", "masked_clip_score"):
        fill_column(shard, name, model_signals(model, root=root), ColumnStore())
    return shard


def test_scores_are_the_models_cosines(data: ImageTextDataset, model: ImageTextModel, tmp_path: Path) -> None:
    shard = filled(data, model, tmp_path)
    with torch.no_grad():
        images = model.encode_image([data.encoded(i) for i in range(5)], normalize=True)
        texts = model.encode_text([text or "x" for text in CAPTIONS], normalize=True)
        cleaned = model.encode_text(["a face", "moon,"], normalize=True)
    want = (images * texts[:5]).sum(1).numpy()
    score, masked = shard.columns["clip_score"], shard.columns["masked_clip_score"]
    assert np.allclose(score[:4], want[:4], atol=1e-5)
    assert np.isnan(score[4:]).all()  # no caption, no picture
    # p102: only the text changes, and only where there is a number.
    assert masked[0] == score[0]
    assert masked[3] == score[3]
    assert masked[1] == pytest.approx(float(images[1] @ cleaned[0]), abs=1e-5)
    assert abs(masked[1] - score[1]) > 1e-4
    assert np.isnan(masked[[2, 4, 5]]).all()


def test_features_are_computed_once_for_each_content(
    data: ImageTextDataset, model: ImageTextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = filled(data, model, tmp_path)
    monkeypatch.setattr(type(model), "encode_text", lambda *_, **__: pytest.fail("encoded again"))
    seen = []
    encode = type(model).encode_files
    monkeypatch.setattr(type(model), "encode_files", lambda self, s, **o: seen.extend(s) or encode(self, s, **o))
    again = filled(data, model, tmp_path)
    assert np.array_equal(again.columns["clip_score"], first.columns["clip_score"], equal_nan=True)
    assert seen == [b"no picture"]


def test_a_model_is_loaded_when_it_is_needed(data: ImageTextDataset, model: ImageTextModel, tmp_path: Path) -> None:
    loads = []
    signals = model_signals(LateModel(lambda: loads.append(1) or model), root=tmp_path)
    e = np.eye(2, 3)
    for there, missing in (
        ({"image_embedding": e, "caption_embedding": e}, {"clip_score"}),
        ({"clip_score": np.ones(2)}, set()),
        ({"image_embedding": e}, {"clip_score", "caption_embedding"}),
        ({}, {"clip_score", "caption_embedding", "image_embedding"}),
    ):
        shard = Shard("0", keys_of(["a", "b"]), {"text": ["a", "b"], **there})
        assert computed_columns(shard, ["clip_score", "words"], signals) == missing
        if missing <= {"clip_score"}:
            fill_column(shard, "clip_score", signals, ColumnStore())
    assert not loads
    table = DatasetTable(data)
    late, want = table.load(table.ids[0]), filled(data, model, tmp_path)
    fill_column(late, "masked_clip_score", signals, ColumnStore())
    assert np.array_equal(late.columns["masked_clip_score"], want.columns["masked_clip_score"], equal_nan=True)
    assert loads == [1]


def test_every_signal_is_described() -> None:
    assert set(SIGNALS) == set(standard_signals()) | set(model_signals(LateModel(lambda: pytest.fail("loaded"))))


def test_columns_of_the_data_can_be_scored() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 4)).astype(np.float16), rng.normal(size=(5, 4)).astype(np.float16)
    shard = Shard("0", keys_of(list("abcde")), {"l14_img": a, "l14_txt": b})
    want = functional.cosine_similarity(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert np.allclose(ClipScore("l14_img", "l14_txt")(shard), want.numpy(), atol=1e-12)
    shard.columns["l14_txt"] = np.arange(5)
    with pytest.raises(UsageError, match="does not hold embeddings"):
        ClipScore("l14_img", "l14_txt")(shard)


def test_numbers_added_at_random_do_not_change_who_is_kept(model: ImageTextModel, tmp_path: Path) -> None:
    """p102's own check: if numbers say nothing about the pairing, the masked score does not see them."""
    part = load_data("noto-emoji", split="val")[:40]
    noisy = [f"{text} {37 * i % 100}" if i % 3 == 0 else text for i, text in enumerate(part.captions)]
    kept = {}
    for name, captions in (("plain", part.captions), ("noisy", noisy)):
        table = DatasetTable(ImageTextDataset([part.encoded(i) for i in range(40)], captions, part.keys))
        signals = model_signals(model, root=tmp_path)
        for column in ("clip_score", "masked_clip_score"):
            rule = ScoreTopFraction(column=column, fraction=0.4)
            kept[name, column] = CurationPipeline([rule], signals).run(table).selection
    assert kept["noisy", "masked_clip_score"] == kept["plain", "masked_clip_score"] == kept["plain", "clip_score"]
    assert kept["noisy", "clip_score"] != kept["plain", "clip_score"]
    assert MaskedTextScore(model).needs == ("image_embedding", "text")


def test_mean_rank_is_that_of_scipy() -> None:
    from scipy.stats import rankdata

    columns, names = made_pool(200)
    rule = MeanRankTopFraction(columns=["score", "other"], fraction=0.25)
    mean = rankdata(columns["score"]) + rankdata(columns["other"])
    for shards in (1, 3, 17):
        kept = CurationPipeline([rule]).run(ListTable(columns, names, shards)).selection
        assert len(kept) == 50
        cut = np.sort(mean)[-50]
        assert all(name in kept for name, value in zip(names, mean, strict=True) if value > cut)
        assert all(value >= cut for name, value in zip(names, mean, strict=True) if name in kept)
    for wrong in ("score", ["a"]):
        with pytest.raises(UsageError, match="two scores or more"):
            MeanRankTopFraction(columns=wrong, fraction=0.1)
