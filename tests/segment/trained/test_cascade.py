"""Cascade-CLIP (p077, arXiv 2406.00670): groups, decoders without classes, learning on seen classes alone, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.losses.dense.text_masks import FocalDice
from binderclip.segment import CascadeCLIP, TextQueryDecoder, train_cascade
from binderclip.segment.trained.cascade import cascade_task, default_groups, outputs_once, seen_penalised
from binderclip.segment.trained.text_query_decoder import QueryAttention
from binderclip.segment.trained.tuned import embed_once

CLASSES = ("red", "blue", "lime")


def head(model: Any, **settings: Any) -> CascadeCLIP:
    torch.manual_seed(0)
    return CascadeCLIP(model, **{"prompts": 2, "layers": 2, "heads": 4, "size": 32} | settings).eval()


def halves(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of 32 px in two colours of three, left and right."""
    generator = torch.Generator().manual_seed(seed)
    paint = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])
    images, labels = torch.empty(count, 3, 32, 32), torch.empty(count, 32, 32, dtype=torch.long)
    for row in range(count):
        left, right = torch.randperm(3, generator=generator)[:2].tolist()
        cut = 8 * int(torch.randint(1, 4, (), generator=generator))
        for label, columns in ((left, slice(0, cut)), (right, slice(cut, 32))):
            images[row, :, :, columns] = paint[label][:, None, None]
            labels[row, :, columns] = label
    return images, labels


def test_attention_and_its_scores_are_pytorchs() -> None:
    torch.manual_seed(0)
    ours, theirs = QueryAttention(12, 3), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    layers = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([each.weight.data for each in layers])
    theirs.in_proj_bias.data = torch.cat([each.bias.data for each in layers])
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, features = torch.randn(2, 4, 12), torch.randn(2, 7, 12)
    out, scores = ours.attended(queries, features), ours(queries, features)
    want, weights = theirs(queries, features, features, average_attn_weights=False)
    assert torch.allclose(out, want, atol=1e-5)
    for b in range(2):
        per_head = [
            (ours.query(queries)[b, :, h : h + 4] @ ours.key(features)[b, :, h : h + 4].T) / 2 for h in (0, 4, 8)
        ]
        assert torch.allclose(scores[b], torch.stack(per_head), atol=1e-5)
        assert torch.allclose(weights[b], torch.stack(per_head).softmax(-1), atol=1e-5)


def test_groups_of_the_paper_and_of_shallow_towers() -> None:
    assert default_groups(12) == ((5, 6, 7), (8, 9, 10), (11,))
    assert default_groups(4) == ((0, 1), (2,), (3,))
    assert default_groups(3) == ((0,), (1,), (2,))
    with pytest.raises(UsageError, match="2 blocks has no three groups"):
        default_groups(2)


def test_no_parameter_knows_a_class(clip_model: Any) -> None:
    net = head(clip_model)
    images, _ = halves(2, 0)
    text = F.normalize(torch.randn(5, 24, generator=torch.Generator().manual_seed(0)), dim=1)
    with torch.no_grad():
        pixels = net.pixels(images)
        order = torch.tensor([3, 1, 4, 0, 2])
        before = net(pixels, text)
        assert before.shape == (2, 5, 4, 4)
        assert torch.allclose(net(pixels, text[order]), before[:, order], atol=1e-5)
        # Queries do not see each other.
        assert torch.allclose(net(pixels, text[:2]), before[:, :2], atol=1e-5)


def test_features_of_a_fresh_head_are_the_towers_own(clip_model: Any) -> None:
    """Without prompts each block goes through the tower's last norm and projection, weighted by exp(-n^2 / 2)."""
    net = head(clip_model, prompts=0, groups=[[0, 1], [2]])
    tower = clip_model.image_tower
    images, _ = halves(1, 1)
    with torch.no_grad():
        pixels = net.pixels(images)
        (group, last), picture = net.features(net.outputs(net.model.image_tower.embed(pixels)))
        plain = [tower.run(tower.embed(pixels), stop=stop).x for stop in (1, 2, 3)]
        normed = [F.layer_norm(x, x.shape[-1:], eps=1e-6) for x in plain]
        blocks = [F.normalize(tower.project(tower.norm(x))[:, tower.prefix :], dim=-1) for x in normed]
        assert torch.allclose(group, math.exp(-0.5) * blocks[0] + blocks[1], atol=1e-4)
        assert torch.allclose(last, blocks[2], atol=1e-4)
        whole = F.normalize(tower.project(tower.norm(normed[2][:, 0])), dim=-1)
        assert torch.allclose(picture, whole, atol=1e-4)


def test_a_group_with_all_weight_on_the_last_block_is_that_block_alone(clip_model: Any) -> None:
    mixed, alone = head(clip_model, groups=[[0, 1, 2]]), head(clip_model, groups=[[2]])
    mixed.load_state_dict(alone.state_dict(), strict=False)
    images, _ = halves(1, 8)
    text = F.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(2)), dim=1)
    with torch.no_grad():
        pixels = alone.pixels(images)
        assert not torch.allclose(mixed(pixels, text), alone(pixels, text), atol=1e-3)
        mixed.weights["0"].copy_(torch.tensor([0.0, 0.0, 1.0]))
        assert torch.allclose(mixed(pixels, text), alone(pixels, text), atol=1e-5)


def test_the_answer_is_the_sum_of_the_groups(clip_model: Any) -> None:
    net = head(clip_model)
    images, _ = halves(2, 2)
    text = F.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(1)), dim=1)
    with torch.no_grad():
        pixels = net.pixels(images)
        maps, picture = net.features(net.outputs(net.model.image_tower.embed(pixels)))
        total = torch.zeros(2, 3, 16)
        for place in range(3):
            related = torch.stack([torch.cat([g * t, t]) for g in picture for t in text]).view(2, 3, 48)
            total += net.decoders[place](net.query[place](related), maps[place])
        assert torch.allclose(net(pixels, text).flatten(2), total, atol=1e-4)


def test_prompts_enter_every_block_and_are_replaced(clip_model: Any) -> None:
    net = head(clip_model)
    images, _ = halves(1, 3)
    pixels = net.pixels(images)
    before, _ = net.features(net.outputs(net.model.image_tower.embed(pixels)))
    for block in range(3):
        changed = head(clip_model)
        with torch.no_grad():
            changed.prompts[block] += 1.0
        after, _ = changed.features(changed.outputs(changed.model.image_tower.embed(pixels)))
        for group in range(3):  # groups (0), (1), (2): a prompt is seen from its block on
            same = torch.allclose(before[group], after[group], atol=1e-6)
            assert same == (group < block), (block, group)


def test_it_learns_seen_classes_and_ignores_pixels_of_unseen_ones(clip_model: Any) -> None:
    images, labels = halves(16, 4)
    before = {name: value.clone() for name, value in clip_model.backbone.state_dict().items()}
    trained = train_cascade(
        head(clip_model), images, labels, CLASSES, unseen=("lime",), steps=130, batch=8, lr=3e-3, seed=1
    )
    assert np.mean(trained.losses[-5:]) < 0.6 * np.mean(trained.losses[:5])
    assert all(torch.equal(before[name], value) for name, value in clip_model.backbone.state_dict().items())
    assert all(parameter.requires_grad for parameter in clip_model.parameters())
    # What stands at pixels of the unseen class does not matter.
    other = labels.masked_fill(labels == 2, -1)
    again = train_cascade(head(clip_model), images, other, CLASSES, unseen=("lime",), steps=3, batch=4, seed=1)
    first = train_cascade(head(clip_model), images, labels, CLASSES, unseen=("lime",), steps=3, batch=4, seed=1)
    assert np.allclose(again.losses, first.losses)
    told = train_cascade(
        head(clip_model), images, labels, CLASSES, unseen=("lime",), transductive=True, steps=4, batch=4, seed=1
    )
    assert np.isfinite(told.losses).all()


def test_the_penalty_of_seen_classes_by_hand() -> None:
    logits = torch.tensor([[[0.2, 3.0]], [[0.0, 0.0]]])
    seen = torch.tensor([True, False])
    assert seen_penalised(logits, seen, 0.0).tolist() == [[0, 0]]
    assert seen_penalised(logits, seen, 0.1).tolist() == [[1, 0]]  # 0.55 - 0.1 < 0.5, 0.95 - 0.1 > 0.5


def test_the_head_knows_what_training_saw_unless_it_saw_all(clip_model: Any, tmp_path: Path) -> None:
    images, labels = halves(4, 5)
    net = head(clip_model)
    assert net.seen == ()
    train_cascade(net, images, labels, CLASSES, unseen=("lime",), steps=2, batch=2)
    assert net.seen == tuple(name for name in CLASSES if name != "lime")
    again = CascadeCLIP.open(net.save(tmp_path / "own"), clip_model)
    assert again.seen == net.seen
    told = again.segment(images[0], CLASSES, seen=net.seen)
    assert torch.equal(again.segment(images[0], CLASSES).labels, told.labels)
    # The paper subtracts nothing after self-training.
    train_cascade(net, images, labels, CLASSES, unseen=("lime",), transductive=True, steps=2, batch=2)
    assert net.seen == ()


def test_a_saved_head_answers_as_before(clip_model: Any, tmp_path: Path) -> None:
    net = head(clip_model)
    again = CascadeCLIP.open(net.save(tmp_path / "own"), clip_model)
    picture = halves(1, 5)[0][0]
    one, two = (each.segment(picture, CLASSES, seen=("red",)) for each in (net, again))
    assert torch.equal(one.labels, two.labels)
    assert one.classes == CLASSES
    assert one.size == (32, 32)
    assert not any("backbone" in name for name in net.state_dict())
    with pytest.raises(CheckpointError, match="holds no model of this format"):
        CascadeCLIP.open(tmp_path, clip_model)


def test_mistakes(clip_model: Any) -> None:
    images, labels = halves(2, 6)
    net = head(clip_model)
    for groups in ([], [[0, 0], [2]], [[], [2]], [[5], [2]], [[0, 2], [2]]):
        with pytest.raises(UsageError, match="are to be different blocks of 0 to 2"):
            head(clip_model, groups=groups)
    with pytest.raises(UsageError, match="no multiple of the patch of 8"):
        head(clip_model, size=30)
    with pytest.raises(UsageError, match="heads divide the width"):
        TextQueryDecoder(24, heads=5)
    with pytest.raises(UsageError, match="'grey' is none of the classes"):
        train_cascade(net, images, labels, CLASSES, unseen=("grey",))
    with pytest.raises(UsageError, match="nothing is left to learn from"):
        train_cascade(net, images, labels, CLASSES, unseen=CLASSES)
    with pytest.raises(UsageError, match="do not belong together"):
        train_cascade(net, images, labels[:1], CLASSES)
    with pytest.raises(UsageError, match="'grey' is none of the labels"):
        net.segment(images[0], CLASSES, seen=("grey",))


def test_every_parameter_is_reached(clip_model: Any) -> None:
    """The scores of the last layer are the answer: it has nothing else that training could not reach."""
    net = head(clip_model)
    images, _ = halves(2, 9)
    net(net.pixels(images), F.normalize(torch.randn(3, 24), dim=1)).square().sum().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not float(p.grad.abs().sum())]
    # A key's bias adds the same to every patch only within a softmax; the answer is before it.
    assert [name for name in idle if not name.endswith("key.bias")] == []


def test_without_prompts_the_tower_runs_once_and_nothing_else_changes(
    clip_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = halves(5, 3)
    net = head(clip_model, prompts=0)
    tokens = embed_once(clip_model, net.pixels, images)
    rows, text = torch.tensor([4, 1, 4]), net.text_of(CLASSES)
    with torch.no_grad():
        kept = outputs_once(net, tokens, at_once=2).rows(rows)
        assert torch.allclose(net(kept, text), net(net.pixels(images[rows]), text), atol=1e-5)
    runs = []
    run = CascadeCLIP.outputs
    monkeypatch.setattr(CascadeCLIP, "outputs", lambda self, given: runs.append(len(given.x)) or run(self, given))
    losses = [
        train_cascade(head(clip_model, prompts=0), images, labels, CLASSES, steps=3, batch=2, tokens=given).losses
        for given in (None, tokens)
    ]
    assert runs == [5, 5]
    assert np.array_equal(*losses)
    train_cascade(head(clip_model, prompts=2), images, labels, CLASSES, steps=3, batch=2, tokens=tokens)
    assert runs == [5, 5, 2, 2, 2]


def test_guesses_become_labels_in_the_second_half_and_ignored_pixels_where_the_code_has_them(clip_model: Any) -> None:
    images, labels = halves(6, 7)
    options: dict[str, Any] = {"unseen": ("lime",), "steps": 4, "batch": 4, "seed": 1}
    plain, told = (
        train_cascade(head(clip_model), images, labels, CLASSES, transductive=each, **options).losses
        for each in (False, True)
    )
    assert np.array_equal(plain[:2], told[:2])
    assert not np.isclose(plain[2:], told[2:]).any()
    rows = torch.arange(6)
    for released in (False, True):
        net = head(clip_model, prompts=0)
        task = cascade_task(net, images, labels, CLASSES, steps=1, unseen=("lime",), released=released)
        with torch.no_grad():
            found = task.step((0, rows))[0]
            logits = net(net.pixels(images), net.text_of(CLASSES[:2]))
            full = F.interpolate(logits, (32, 32), mode="bilinear", align_corners=False)
            wanted = FocalDice(released=released)(full, labels.masked_fill(labels == 2, -1))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
