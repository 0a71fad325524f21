"""The measure of the last attention: closed forms on attention that is made by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.errors import NotSupported, UsageError
from binderclip.evaluate.dense.last_attention import _auroc, last_attention
from binderclip.models import load


@pytest.fixture(scope="module")
def made() -> Any:
    return scenes(3, 3, 128, vocabulary=vocabulary("captions", split="test"), objects=2, area=(0.1, 0.3))


def test_area_is_scikit_learns_with_ties() -> None:
    torch.manual_seed(0)
    scores, right = torch.randint(0, 6, (200,)).float(), torch.rand(200) < 0.3
    assert _auroc(scores, right) == pytest.approx(roc_auc_score(right.numpy(), scores.numpy()))


def test_without_queries_attention_is_uniform(made: Any) -> None:
    model = load("small")
    qkv = model.backbone.visual.trunk.blocks[-1].attn.qkv
    with torch.no_grad():
        qkv.weight[:512] = 0
        qkv.bias[:512] = 0
    found = last_attention(model, made.images, made.visible)
    assert found.density == pytest.approx(1, abs=1e-5)
    assert found.entropy == pytest.approx(1, abs=1e-5)
    assert [found.auroc[name] for name in ("qq", "kk", "qk")] == [0.5] * 3
    assert found.auroc["vv"] > 0.7


def test_planted_attention_is_found(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every token looks at object patches alone: density is one over their share, entropy that of their number."""
    model = load("small")
    block = model.image_tower.blocks[-1]
    cover = torch.nn.functional.adaptive_avg_pool2d(made.visible.float(), (8, 8)).flatten(2).amax(1) >= 0.5

    def weights(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
        row = torch.cat([torch.zeros(len(cover), 1), cover / cover.sum(1, keepdim=True)], 1)
        return row[:, None, None].expand(-1, q.shape[1], q.shape[2], -1)

    monkeypatch.setattr(block, "weights", weights)
    found = last_attention(model, made.images, made.visible, batch_size=3)
    share = cover.float().mean(1)
    assert found.density == pytest.approx(float((1 / share).mean()), rel=1e-4)
    assert found.entropy == pytest.approx(float(cover.sum(1).float().log().mean()) / math.log(65), rel=1e-4)


def test_scenes_one_by_one_measure_the_same(made: Any) -> None:
    model = load("small")
    whole, single = (last_attention(model, made.images, made.visible, batch_size=size) for size in (32, 1))
    assert single.density == pytest.approx(whole.density, rel=1e-4)
    assert single.auroc == pytest.approx(whole.auroc, abs=1e-4)


def test_errors_say_what_would_be_right(made: Any) -> None:
    model = load("small")
    with pytest.raises(UsageError, match="as many of both"):
        last_attention(model, made.images, made.visible[:1])
    with pytest.raises(UsageError, match="object of two patches"):
        last_attention(model, made.images, torch.zeros_like(made.visible))
    with pytest.raises(NotSupported, match="not supported"):
        last_attention(load("small-b"), made.images, made.visible)
