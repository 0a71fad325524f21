"""SAM-CLIP's encoder (p144, arXiv 2310.15308): a head on a segmenter's map, label maps by both heads, folders."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.segment import MergedEncoder, Prompts, load_promptable, open_head
from binderclip.segment.promptable import OracleSegmenter, PromptModel, PromptNetwork
from binderclip.segment.trained.merged import sampled_cells


@pytest.fixture
def merged(clip_model: Any, tiny: PromptModel) -> MergedEncoder:
    return MergedEncoder(clip_model, tiny, layers=2, hidden=20).eval()


def picture(seed: int = 0, side: int = 64) -> torch.Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_head_starts_as_copies_of_the_last_block_and_the_segmenter_is_a_copy(
    merged: MergedEncoder, tiny: PromptModel
) -> None:
    last = tiny.backbone.blocks[-1].state_dict()
    for layer in merged.layers:
        for name, value in layer.state_dict().items():
            assert torch.equal(value, last[name])
    assert merged.layers[0].attn.qkv.weight is not merged.layers[1].attn.qkv.weight
    own = dict(merged.segmenter.named_parameters())
    assert all(own[name] is not value for name, value in tiny.named_parameters())


def test_the_three_parts_of_a_segmenter_are_all_of_it(tiny: PromptModel) -> None:
    """What `encode` reaches is the encoder; what a decoding reaches of the rest is prompts and decoder."""
    network = copy.deepcopy(tiny.backbone)
    encoder, prompts, decoder = network.parts()
    ids = [id(p) for part in (*encoder, *prompts, *decoder) for p in part.parameters()]
    assert sorted(ids) == sorted(id(p) for p in network.parameters())
    levels = network.encode(torch.rand(1, 3, 64, 64))
    reached = torch.autograd.grad(
        sum(x.square().sum() for x in (levels.coarse, levels.middle, levels.fine, *(k[:, :1] for k in levels.keys))),
        list(network.parameters()),
        allow_unused=True,
    )
    found = {id(p) for p, g in zip(network.parameters(), reached, strict=True) if g is not None}
    assert found == {id(p) for part in encoder for p in part.parameters()}


def test_where_the_cells_stand_does_not_matter_to_the_maximum(merged: MergedEncoder) -> None:
    """The head's blocks have no positions and the maximum has no order."""
    coarse = torch.randn(2, 32, 4, 5)
    order = torch.randperm(20)
    shuffled = coarse.flatten(2)[:, :, order].unflatten(2, (4, 5))
    with torch.no_grad():
        assert torch.allclose(merged.pooled(shuffled), merged.pooled(coarse), atol=1e-5)
        assert torch.allclose(
            merged.dense(shuffled).flatten(2), merged.dense(coarse).flatten(2)[:, :, order], atol=1e-5
        )


def test_cells_pass_the_same_layers_as_pictures(merged: MergedEncoder) -> None:
    """Of a single cell, picture and map are the same; the mean over cells would not be the maximum."""
    with torch.no_grad():
        one = torch.randn(3, 32, 1, 1)
        assert torch.allclose(merged.dense(one)[..., 0, 0], merged.pooled(one), atol=1e-6)
        pixels = merged.pixels(picture())
        by_hand = merged.segmenter.backbone.encode(pixels).coarse.flatten(2).mT
        for block in merged.layers:
            by_hand = block(by_hand)
        norm, first, _, second, _, third = merged.mlp
        x = F.layer_norm(by_hand.amax(1), (32,), norm.weight, norm.bias)
        for layer in (first, second):
            x = F.gelu(F.linear(x, layer.weight, layer.bias))
        assert torch.allclose(merged.encode_image(picture()), F.linear(x, third.weight, third.bias), atol=1e-5)
        assert merged.encode_image(picture(), normalize=True).norm() == pytest.approx(1.0, abs=1e-5)


def test_it_clicks_like_the_segmenter_it_was_made_of(merged: MergedEncoder, tiny: PromptModel) -> None:
    asked = Prompts.of(points=[(20, 30)])
    with torch.no_grad():
        one, other = (each.predict(each.encode(picture()), asked) for each in (merged.segmenter, tiny))
    assert torch.equal(one.logits, other.logits)


def test_log_odds_are_those_of_a_softmax_of_cosines(merged: MergedEncoder) -> None:
    text = F.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(1)), dim=1)
    with torch.no_grad():
        coarse = merged.segmenter.encode(picture()).features.coarse
        odds = merged.log_odds(coarse, text, scale=5.0)
        dense = merged.dense(coarse)[0]
        for y, x in ((0, 0), (3, 6)):
            cosines = torch.stack([F.cosine_similarity(dense[:, y, x], t, dim=0) for t in text])
            chance = (5 * cosines).exp() / (5 * cosines).exp().sum()
            assert torch.allclose(odds[:, y, x], (chance / (1 - chance)).log(), atol=1e-3)
        assert merged.log_odds(coarse, text, scale=1e6).abs().max() <= 10


def test_label_maps_are_the_argmax_of_cells_or_what_the_decoder_draws(
    merged: MergedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked are the classes that occur, with their own map and clicks inside it; the others keep their map."""
    odds = torch.full((3, 8, 8), -4.0)
    odds[0, :, :4], odds[1, :, 4:] = 3.0, 2.0
    monkeypatch.setattr(MergedEncoder, "log_odds", lambda self, coarse, text, scale: odds.clone())
    seen: list[Prompts] = []

    def answer(state: Any, prompts: Prompts, *, multimask: bool) -> Any:
        seen.append(prompts)
        logits = torch.full((len(prompts), 1, 64, 64), -1.0)
        logits[0, :, :16] = 9.0  # the first class: the upper quarter
        logits[1, :, 16:] = 9.0
        return type("Found", (), {"logits": logits})

    merged.segmenter.predict = answer  # type: ignore[method-assign]
    plain = merged.segment(picture(), ["a", "b", "c"], refine=False)
    assert not seen
    assert (plain.labels[:, :28] == 0).all()
    assert (plain.labels[:, 36:] == 1).all()
    drawn = merged.segment(picture(), ["a", "b", "c"], points=2)
    assert (drawn.labels[:16] == 0).all()
    assert (drawn.labels[16:] == 1).all()
    (asked,) = seen
    assert torch.equal(asked.masks, odds[:2])  # type: ignore[arg-type]
    places: Any = asked.points
    assert places.shape == (2, 2, 2)
    assert (places[0, :, 0] < 32).all()
    assert (places[1, :, 0] > 32).all()
    assert (asked.labels == 1).all()  # type: ignore[union-attr]


def test_clicks_are_different_cells_and_fewer_where_there_are_fewer() -> None:
    there = torch.zeros(2, 4, 8, dtype=torch.bool)
    there[0, 1, 2] = there[0, 3, 7] = True
    there[1] = True
    places, labels = sampled_cells(there, 3, torch.Generator().manual_seed(0))
    assert labels.tolist() == [[1, 1, -1], [1, 1, 1]]
    assert {tuple(p) for p in places[0, :2].tolist()} == {(2.5 / 8, 1.5 / 4), (7.5 / 8, 3.5 / 4)}
    assert len({tuple(p) for p in places[1].tolist()}) == 3


def test_its_folder_opens_as_a_head_and_its_segmenter_as_a_segmenter(
    merged: MergedEncoder, clip_model: Any, tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in merged.parameters():
            parameter.add_(0.01)
    merged.save(tmp_path / "head")
    again = open_head(tmp_path / "head", clip_model)
    assert isinstance(again, MergedEncoder)
    assert torch.equal(again.encode_image(picture()), merged.encode_image(picture()))
    assert torch.equal(again.segment(picture(), ["x", "y"]).labels, merged.segment(picture(), ["x", "y"]).labels)
    clicks = load_promptable(tmp_path / "head" / "segmenter")
    asked = Prompts.of(points=[(20, 30)])
    found = [each.predict(each.encode(picture()), asked).logits for each in (clicks, merged.segmenter)]
    assert torch.equal(*found)
    (tmp_path / "head/segmenter/model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        open_head(tmp_path / "head", clip_model)


def test_what_cannot_be_merged_or_asked_is_refused(clip_model: Any, tiny: PromptModel, merged: MergedEncoder) -> None:
    with pytest.raises(NotSupported, match="only segmenters like small-sam"):
        MergedEncoder(clip_model, OracleSegmenter(torch.ones(1, 8, 8) > 0))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="layers must not be negative"):
        MergedEncoder(clip_model, tiny, layers=-1)
    flat = {"side": 64, "width": 32, "heads": 2, "blocks": 0, "layers": 1}
    with pytest.raises(UsageError, match="no transformer block"):
        MergedEncoder(clip_model, PromptModel(PromptNetwork(**flat), settings=flat), layers=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="multiple of 8"):
        merged.pixels(picture(), 60)
    for wrong in ({"points": 0}, {"threshold": 1.0}):
        with pytest.raises(UsageError, match="labels and points"):
            merged.segment(picture(), ["a"], **wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="labels and points"):
        merged.segment(picture(), [])
