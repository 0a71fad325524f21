"""p161 (SegCLIP): a tower that groups patches, held to its parts by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.layers.semantic_grouping import GroupedPatches
from binderclip.segment import SegCLIP, SegCLIPObjective
from binderclip.segment.trained.segclip import GroupedPicture

TINY: dict[str, Any] = {"groups": 3, "layers": 1, "heads": 2}


@torch.no_grad()
def test_the_last_blocks_see_groups_and_their_maximum_is_the_picture(clip_model: Any) -> None:
    head = SegCLIP(clip_model, **TINY).eval()
    pixels, tower = head.pixels(torch.rand(2, 3, 32, 32)), head.model.image_tower
    found = head(pixels)
    x = tower.embed(pixels).x[:, 1:]  # without the class token
    for block in tower.blocks[:2]:
        x = block(x)
    groups = head.grouping(x)
    tokens = tower.blocks[2](groups.tokens)
    assert torch.allclose(found.groups, tower.head(tokens), atol=1e-5)
    assert torch.allclose(found.pictures, tower.head(tokens.max(1).values), atol=1e-5)
    assert torch.allclose(found.patches.soft, groups.soft, atol=1e-5)
    assert not torch.allclose(found.pictures, tower(pixels), atol=1e-2)


@torch.no_grad()
def test_a_group_is_what_suits_it_among_what_suits_the_picture(clip_model: Any) -> None:
    head = SegCLIP(clip_model, **TINY).eval()
    pictures, groups, text = torch.randn(2, 24), torch.randn(2, 3, 24), F.normalize(torch.randn(4, 24), dim=1)
    patches = GroupedPatches(groups, torch.ones(2, 3, 1), torch.ones(2, 3, 1))
    found = head.class_probabilities(GroupedPicture(pictures, groups, patches), text, top=2)
    scale = min(100.0, math.exp(float(head.model.logit_scale)))
    for b in range(2):
        whole = [float(F.cosine_similarity(pictures[b], text[c], dim=0)) for c in range(4)]
        best = sorted(range(4), key=lambda c: -whole[c])[:2]
        for g in range(3):
            powers = [math.exp(scale * float(F.cosine_similarity(groups[b, g], text[c], dim=0))) for c in range(4)]
            for c in range(4):
                wanted = powers[c] / sum(powers) * (powers[c] / sum(powers[k] for k in best) if c in best else 0)
                assert float(found[b, g, c]) == pytest.approx(wanted, abs=1e-5)


def test_labels_are_those_of_the_groups_and_background_is_what_no_class_reaches(clip_model: Any) -> None:
    """Three vertical stripes; the text of each class is its group's, but for one group that has none."""
    head = SegCLIP(clip_model, **TINY).eval()
    stripes = torch.tensor([0, 1, 1, 2]).expand(4, 4).flatten()
    hard = F.one_hot(stripes, 3).mT.float()[None]
    axes = torch.eye(24)
    groups = torch.stack([axes[0], axes[1], axes[2]])[None]
    head.forward = lambda _: GroupedPicture(axes[:3].sum(0)[None], groups, GroupedPatches(groups, hard, hard))  # type: ignore[method-assign]
    head.text_of = lambda names: axes[[{"cat": 0, "dog": 1}[name] for name in names]]  # type: ignore[method-assign]
    picture = torch.rand(3, 8, 8)
    found = head.segment(picture, ["background", "dog", "cat"])
    assert found.background
    assert found.labels.tolist() == [[2, 2, 1, 1, 1, 1, 0, 0]] * 8
    assert found.scores.shape == (3, 4, 4)
    assert torch.equal(found.scores.argmax(0), torch.tensor([2, 1, 1, 0]).expand(4, 4))
    # Without a background every pixel has a class; with a threshold of 0 no pixel is background.
    plain = head.segment(picture, ["dog", "cat"])
    assert not plain.background
    assert plain.labels[:, :6].tolist() == [[1, 1, 0, 0, 0, 0]] * 8
    assert 0 not in head.segment(picture, ["background", "dog", "cat"], threshold=0).labels
    with pytest.raises(UsageError, match="name a class"):
        head.segment(picture, ["background"])


def test_what_cannot_be_trained_is_said(clip_model: Any) -> None:
    for wrong, said in (
        ({"tail": 3}, "tail must be 1 to 2"),
        ({"blocks": 3}, "blocks must be 0 to 2"),
        ({"size": 30}, "multiple of the patch"),
        ({"heads": 5}, "multiple of heads"),
    ):
        with pytest.raises(UsageError, match=said):
            SegCLIP(clip_model, **(TINY | wrong))


def test_where_no_group_is_sure_the_surest_is_no_background(clip_model: Any) -> None:
    """The bound is min(threshold, largest chance), as the paper has it."""
    head = SegCLIP(clip_model, **TINY).eval()
    stripes = torch.tensor([0, 1, 1, 2]).expand(4, 4).flatten()
    hard, axes = F.one_hot(stripes, 3).mT.float()[None], torch.eye(24)
    groups = axes[:3][None]
    head.forward = lambda _: GroupedPicture(axes[:1], groups, GroupedPatches(groups, hard, hard))  # type: ignore[method-assign]
    head.text_of = lambda names: axes[: len(names)]  # type: ignore[method-assign]
    chances = torch.tensor([[[0.6, 0.1], [0.2, 0.3], [0.1, 0.1]]])
    head.class_probabilities = lambda *_, **__: chances  # type: ignore[method-assign]
    found = head.segment(torch.rand(3, 8, 8), ["background", "dog", "cat"])
    assert found.labels.unique().tolist() == [0, 1]
    assert (found.labels[:, 0] == 1).all()
    assert (found.labels[:, 3:] == 0).all()


@pytest.mark.parametrize(("ratio", "seen"), [(0.25, 12), (0.5, 8), (0.75, 4)])
def test_so_many_patches_are_hidden_from_the_reconstruction(clip_model: Any, ratio: float, seen: int) -> None:
    head, shown = SegCLIP(clip_model, **TINY).eval(), []
    head.grouping.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].shape[1]))
    pixels = head.pixels(torch.rand(2, 3, 32, 32))
    head.reconstruct(pixels, ratio=ratio)
    assert shown == [seen]
    shown.clear()
    SegCLIPObjective(superpixels=0, ratio=ratio)(head, pixels, torch.rand(2, 24))
    assert shown == [16, seen]
