"""p171 (MTA-CLIP): the decoder of masks and texts against its parts by hand, and a head that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip.errors import CheckpointError, DataError, UsageError
from binderclip.losses.dense.mask_sets import MaskSetLoss
from binderclip.segment import MTACLIP, MaskTextDecoder, train_mta_clip
from binderclip.segment.trained.mask_text_decoder import PatchPyramid
from binderclip.segment.trained.mta_clip import mta_clip_task
from binderclip.segment.trained.tuned import embed_once

CLASSES = ("red", "blue")
TINY: dict[str, Any] = {"queries": 4, "width": 16, "layers": 2, "heads": 2, "hidden": 32, "prompts": 2, "n_ctx": 2}


def halves(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of 32 px whose left or right part is red and the rest blue, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.zeros(count, 3, 32, 32), torch.zeros(count, 32, 32, dtype=torch.long)
    for row in range(count):
        edge = int(torch.randint(8, 25, (), generator=generator))
        red = (torch.arange(32) < edge) == bool(torch.randint(0, 2, (), generator=generator))
        labels[row] = (~red).long()
        images[row, 0], images[row, 2] = red.float(), (~red).float()
    return images, labels


def test_a_layer_is_masked_attention_then_attention_among_all_then_feed_forward() -> None:
    """One token and one head at a time, with softmax written out."""
    torch.manual_seed(0)
    net = MaskTextDecoder(8, 2, queries=2, layers=1, levels=1, heads=1, hidden=8).eval()
    maps, pixels, texts = torch.randn(1, 8, 2, 2), torch.randn(1, 8, 4, 4), torch.randn(1, 8)
    with torch.no_grad():
        found = net([maps], pixels, texts)
        tokens = torch.cat([net.queries, texts])
        places = torch.cat([net.places, torch.zeros(1, 8)])
        masks = torch.einsum("zc,chw->zhw", net.embed(net.norm(tokens)), pixels[0])
        small = F.interpolate(masks[None], (2, 2), mode="bilinear", align_corners=False)[0].flatten(1)
        keys, values = (part[0] for part in net._memory(maps, net.level[0]))

        def attend(layer: Any, queries: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> Any:
            wq, wk, wv = layer.in_proj_weight.chunk(3)
            bq, bk, bv = layer.in_proj_bias.chunk(3)
            scores = (queries @ wq.T + bq) @ (k @ wk.T + bk).T / 8**0.5
            scores = scores.masked_fill(~seen, -torch.inf)
            return layer.out_proj(scores.softmax(-1) @ (v @ wv.T + bv))

        seen = torch.stack([own >= 0 if (own >= 0).any() else torch.ones_like(own, dtype=torch.bool) for own in small])
        tokens = net.norms[0](tokens + attend(net.look[0], tokens + places, keys, values, seen))
        asked, whole = tokens + places, torch.ones(3, 3, dtype=torch.bool)
        tokens = net.norms[1](tokens + attend(net.mix[0], asked, asked, tokens, whole))
        tokens = net.norms[2](tokens + net.feed[0](tokens))
        assert torch.allclose(found.queries[0], tokens[:2], atol=1e-5)
        assert torch.allclose(found.texts[0], tokens[2:], atol=1e-5)
        last = torch.einsum("zc,chw->zhw", net.embed(net.norm(tokens)), pixels[0])
    assert torch.allclose(found.layers[-1].masks[0], last[:2], atol=1e-5)
    assert len(found.layers) == 2
    assert not torch.allclose(found.layers[0].masks, found.layers[1].masks)


def test_a_mask_that_is_empty_hides_nothing() -> None:
    net = MaskTextDecoder(8, 2, queries=2, layers=1, levels=1, heads=2, hidden=8)
    masks = torch.stack([torch.full((4, 4), -1.0), F.pad(torch.full((2, 2), 9.0), (0, 2, 0, 2), value=-9.0)])[None]
    hidden = net._hidden(masks, torch.zeros(1, 8, 2, 2))
    assert hidden.shape == (2, 2, 4)
    assert not hidden[:, 0].any()
    assert hidden[0, 1].tolist() == [False, True, True, True]


def test_without_text_tokens_the_queries_are_alone_and_their_order_is_free() -> None:
    torch.manual_seed(1)
    net = MaskTextDecoder(16, 3, queries=4, layers=3, heads=2, hidden=16).eval()
    maps = [torch.randn(2, 16, side, side) for side in (1, 2, 4)]
    pixels = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        before = net(maps, pixels, torch.zeros(0, 16))
        told = net(maps, pixels, torch.randn(5, 16))
        assert before.texts.shape == (2, 0, 16)
        assert told.texts.shape == (2, 5, 16)
        assert torch.equal(before.layers[0].masks, told.layers[0].masks)
        assert not torch.allclose(before.queries, told.queries, atol=1e-3)
        order = torch.tensor([2, 0, 3, 1])
        net.queries.copy_(net.queries[order].clone())
        net.places.copy_(net.places[order].clone())
        after = net(maps, pixels, torch.zeros(0, 16))
    assert torch.allclose(after.layers[-1].masks, before.layers[-1].masks[:, order], atol=1e-4)
    with pytest.raises(UsageError, match="looks at 3 maps"):
        net(maps[:2], pixels, torch.zeros(0, 16))


def test_the_pyramid_has_four_grids_and_the_coarse_ones_reach_the_fine() -> None:
    torch.manual_seed(2)
    net = PatchPyramid(12, 8)
    found = net(torch.randn(2, 12, 5, 3))
    assert [tuple(each.shape[-2:]) for each in found] == [(3, 2), (5, 3), (10, 6), (20, 12)]
    found[-1].square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in net.lateral[0].parameters() if p.grad is not None)
    assert net.lateral[0][0].weight.grad is not None  # type: ignore[union-attr,index]
    # The channels of the released ViTDet: whole on the two coarse grids, then a half and a quarter.
    assert [each[0].in_channels for each in PatchPyramid(64, 8).lateral] == [64, 64, 32, 16]  # type: ignore[index]


def test_it_learns_from_few_pictures_and_comes_back_from_disk(clip_model: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in clip_model.state_dict().items()}
    head = MTACLIP(clip_model, CLASSES, blocks=1, size=32, **TINY)
    tower = {name: value.clone() for name, value in head.visual.state_dict().items()}
    trained = train_mta_clip(head, *halves(24, 0), steps=60, batch=6, lr=3e-3)
    assert np.mean(trained.losses[-5:]) < 0.6 * np.mean(trained.losses[:5])
    assert np.mean(trained.alignment[-5:]) < np.mean(trained.alignment[:5])
    images, labels = halves(8, 1)
    found = trained.head.class_scores(trained.head.pixels(images))
    full = F.interpolate(found, (32, 32), mode="bilinear", align_corners=False).argmax(1)
    assert float((full == labels).float().mean()) > 0.8
    # The model that was given is as it was; of the copy only the last block and norm have moved.
    assert all(torch.equal(value, before[name]) for name, value in clip_model.state_dict().items())
    moved = {name for name, value in trained.head.visual.state_dict().items() if not torch.equal(value, tower[name])}
    assert moved
    assert moved <= {name for name, p in trained.head.visual.named_parameters() if p.requires_grad}
    trained.head.save(tmp_path / "head")
    again = MTACLIP.open(tmp_path / "head", clip_model)
    assert torch.equal(again.class_scores(again.pixels(images)), found)
    answer = again.segment(images[0])
    assert answer.classes == CLASSES
    assert float((answer.labels == labels[0]).float().mean()) > 0.8
    only = again.segment(images[0], ["blue"])
    assert set(only.labels.unique().tolist()) == {0}


def test_text_keeps_what_it_meant_and_alone_where_it_is_not_looked_at(clip_model: Any) -> None:
    head = MTACLIP(clip_model, CLASSES, blocks=0, size=32, **TINY).eval()
    plain = MTACLIP(clip_model, CLASSES, blocks=0, size=32, text_tokens=False, **TINY).eval()
    pixels = head.pixels(halves(2, 3)[0])
    with torch.no_grad():
        own, met = head.texts(), head(pixels)
        assert torch.allclose(met.texts, head.project(met.decoded.texts).unflatten(1, (2, 2)) + own, atol=1e-6)
        assert torch.equal(plain(pixels).texts, plain.texts().expand(2, -1, -1, -1))
    assert not [name for name, p in head.named_parameters() if name.startswith("visual.") and p.requires_grad]
    assert torch.allclose(own.norm(dim=-1), torch.ones(2, 2))


def test_every_parameter_is_reached(clip_model: Any) -> None:
    """What the tower may move is what the maps are made of."""
    head = MTACLIP(clip_model, CLASSES, blocks=1, size=32, **TINY).train()
    task = mta_clip_task(head, *halves(4, 7), batch=4)
    task.step(next(iter(task.batches)))[0].backward()
    asked = {name: p for name, p in head.named_parameters() if p.requires_grad}
    assert any(name.startswith("visual.") for name in asked)
    idle = [name for name, p in asked.items() if p.grad is None or not float(p.grad.abs().sum())]
    assert idle == []


@pytest.mark.parametrize("blocks", [0, 1])
def test_blocks_that_do_not_learn_are_run_once(clip_model: Any, blocks: int) -> None:
    """The loss is that of the whole tower; what becomes of the first blocks afterwards is of no account."""
    head = MTACLIP(clip_model, CLASSES, blocks=blocks, size=32, **TINY).train()
    images, labels = halves(4, 8)
    task, rows = mta_clip_task(head, images, labels, batch=4), torch.tensor([2, 0, 1, 3])

    def loss() -> float:
        return float(task.step((0, rows))[0].detach())

    first = loss()
    whole = MTACLIP(clip_model, CLASSES, blocks=None, size=32, **TINY).train()
    again = mta_clip_task(whole, images, labels, batch=4).step((0, rows))[0]
    assert first == pytest.approx(float(again.detach()), rel=1e-4)
    own = head.model.image_tower.blocks
    with torch.no_grad():
        for block in own[: len(own) - blocks]:
            for parameter in block.module.parameters():
                parameter.zero_()
        assert loss() == pytest.approx(first, rel=1e-5)
        for parameter in own[-1].module.parameters():
            parameter.zero_()
    assert (loss() != pytest.approx(first, rel=1e-5)) == bool(blocks)


@pytest.mark.parametrize("blocks", [0, 1])
def test_tokens_that_are_known_stand_for_the_pictures(clip_model: Any, blocks: int) -> None:
    """The same loss whatever the pictures are, and the same scores from tokens as from pixels."""
    head = MTACLIP(clip_model, CLASSES, blocks=blocks, size=32, **TINY).train()
    images, labels = halves(4, 10)
    start, rows = clip_model.image_tower.depth - blocks, torch.tensor([3, 1])
    tokens = embed_once(clip_model, head.pixels, images, blocks=start)
    told = mta_clip_task(head, torch.zeros_like(images), labels, tokens=tokens).step((0, rows))[0]
    own = mta_clip_task(head, images, labels).step((0, rows))[0]
    assert float(told.detach()) == pytest.approx(float(own.detach()), rel=1e-5)
    assert torch.allclose(head.class_scores(tokens, start), head.class_scores(head.pixels(images)), atol=1e-5)
    short = tokens.with_x(tokens.x[:3])
    with pytest.raises(UsageError, match="tokens of 3 pictures for 4"):
        mta_clip_task(head, images, labels, tokens=short)
    whole = MTACLIP(clip_model, CLASSES, blocks=None, size=32, **TINY)
    with pytest.raises(UsageError, match="none where the whole"):
        mta_clip_task(whole, images, labels, tokens=tokens)


def test_masks_are_compared_at_another_side(clip_model: Any) -> None:
    """Labels of blocks of 4 pixels lose nothing at a quarter of their side, where masks have no more pixels."""
    head = MTACLIP(clip_model, CLASSES, blocks=0, size=32, **TINY).train()
    images, labels = halves(3, 9)
    coarse = labels[:, ::4, ::4]
    rows = torch.arange(3)
    found = mta_clip_task(head, images, coarse.repeat_interleave(4, 1).repeat_interleave(4, 2), mask_side=8)
    with torch.no_grad():
        loss, parts = found.step((0, rows))
        out = head(head.pixels(images))
        costs = MaskSetLoss()
        total = sum(
            costs(
                F.interpolate(each.masks, (8, 8), mode="bilinear", align_corners=False), each.classes,
                [own.unique() for own in coarse], [own == own.unique()[:, None, None] for own in coarse],
            )
            for each in out.decoded.layers
        )  # fmt: skip
    assert float(loss - parts["alignment"]) == pytest.approx(float(total), rel=1e-4)
    with pytest.raises(UsageError, match="mask_side must be at least 1"):
        mta_clip_task(head, images, labels, mask_side=0)


def test_queries_that_are_their_class_give_back_the_label_map(clip_model: Any) -> None:
    head = MTACLIP(clip_model, CLASSES, blocks=0, size=32, **(TINY | {"queries": 2}))
    labels = torch.randint(0, 2, (1, 32, 32), generator=torch.Generator().manual_seed(4))

    class Told(nn.Module):
        def forward(self, *_: Any) -> Any:
            from binderclip.segment.trained.mask_text_decoder import DecodedMasks
            from binderclip.segment.trained.panoptic import MaskPrediction

            masks = 100 * (torch.stack([labels == 0, labels == 1], 1).float() - 0.5)
            last = MaskPrediction(masks, 100 * torch.eye(3)[None, :2])
            return DecodedMasks([last], torch.zeros(1, 2, 16), torch.zeros(1, 4, 16))

    head.decoder = Told()  # type: ignore[assignment]
    assert torch.equal(head.class_scores(head.pixels(halves(1, 5)[0])).argmax(1), labels)


def test_what_cannot_be_trained_is_said(clip_model: Any, tmp_path: Path) -> None:
    for wrong, said in (
        ({"classes": ["red", "red"]}, "two different names"),
        ({"width": 12}, "multiple of 8"),
        ({"size": 30}, "multiple of the patch"),
        ({"blocks": 9}, "blocks must be"),
        ({"heads": 3}, "multiple of heads"),
    ):
        with pytest.raises(UsageError, match=said):
            MTACLIP(clip_model, **({"classes": CLASSES, "size": 32} | TINY | wrong))  # type: ignore[arg-type]
    head = MTACLIP(clip_model, CLASSES, blocks=0, size=32, **TINY)
    images, labels = halves(2, 6)
    with pytest.raises(UsageError, match="do not belong together"):
        train_mta_clip(head, images, labels[:, :8])
    with pytest.raises(UsageError, match="none of the classes"):
        head.segment(images[0], ["red", "green"])
    with pytest.raises(DataError):
        head.segment(tmp_path / "none.png")
    head.save(tmp_path / "head")
    (tmp_path / "head" / "config.json").write_text('{"binderclip": {"kind": "vision"}}')
    with pytest.raises(CheckpointError):
        MTACLIP.open(tmp_path / "head", clip_model)


def test_weights_of_the_alignment_and_of_the_towers_rate(clip_model: Any) -> None:
    head = MTACLIP(clip_model, CLASSES, blocks=1, size=32, **TINY).train()
    images, labels = halves(4, 7)
    rows = torch.tensor([2, 0, 1, 3])

    def judged(**settings: Any) -> tuple[float, float]:
        loss, parts = mta_clip_task(head, images, labels, **settings).step((0, rows))
        return float(loss.detach()), float(parts["alignment"])

    whole, aligned = judged(alignment=2.5)
    assert whole - judged(alignment=0.0)[0] == pytest.approx(2.5 * aligned, rel=1e-4)
    assert aligned > 0
    rates = [group.get("lr_scale", 1.0) for group in mta_clip_task(head, images, labels, tower_lr=0.03).groups]
    assert rates == [1.0, 0.03]
