"""SAM-CLIP's training (p144): what moves in which stage, the two losses by themselves, one step of both gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.segment import MergedEncoder, MergeStage, train_merge
from binderclip.segment.promptable import PromptModel
from binderclip.segment.promptable.drawn import PromptTokens
from binderclip.segment.promptable.object_prompts import first_prompts
from binderclip.segment.trained.merging import (
    MERGE_STAGES,
    MaskRehearsal,
    StemMaps,
    merge_step,
    stage_frozen,
    text_distance,
)

JOINT = MergeStage(lr=1e-2, encoder_lr=0.1, rehearsal=10.0, sides=(32,))


@pytest.fixture
def merged(clip_model: Any, tiny: PromptModel) -> MergedEncoder:
    return MergedEncoder(clip_model, tiny, layers=1, hidden=20).eval()


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def boxes(count: int) -> list[torch.Tensor]:
    """Two objects in each picture but the first, which has none."""
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 8:30, 10:40], masks[1, 36:60, 20:50] = True, True
    return [masks[:0], *([masks] * (count - 1))]


def changed(before: dict[str, torch.Tensor], model: torch.nn.Module) -> set[str]:
    """First two names of what is another tensor now."""
    return {".".join(name.split(".")[:3]) for name, value in model.state_dict().items()
            if not torch.equal(value, before[name])}  # fmt: skip


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_first_and_last_stage_leave_the_segmenter_bit_for_bit(merged: MergedEncoder, clip_model: Any) -> None:
    before, teacher = state(merged), state(clip_model.backbone)
    found = train_merge(merged, pictures(6), stages=("probe", "resolution"), steps=(3, 2), batch=4)
    assert {name.split(".")[0] for name in changed(before, merged)} == {"layers", "mlp"}
    assert not changed(teacher, clip_model.backbone)
    assert set(found.losses) == {"probe", "resolution"}
    assert set(found.losses["probe"]) == {"text"}
    assert len(found.losses["probe"]["text"]) == 3
    assert not merged.training


@pytest.mark.parametrize("stem", [True, False])
def test_the_joint_stage_moves_all_but_what_draws_prompts(merged: MergedEncoder, stem: bool) -> None:
    before = state(merged)
    found = train_merge(
        merged, pictures(6), objects=boxes(6), stages={"joint": JOINT}, steps=2, batch=4, rehearsal_batch=3, stem=stem
    )
    moved = changed(before, merged)
    for kept in ("labels", "drawn", "prior", "fourier", "score"):
        assert f"segmenter.backbone.{kept}" not in moved
    assert ("segmenter.backbone.stem" in moved) == stem
    assert {f"segmenter.backbone.{name}" for name in ("neck", "blocks", "keys", "layers", "filters")} <= moved
    assert set(found.losses["joint"]) == {"text", "masks"}
    assert all(p.requires_grad for p in merged.segmenter.parameters())


def test_maps_that_are_kept_give_what_pixels_give(merged: MergedEncoder) -> None:
    images, rows = pictures(5), torch.tensor([3, 0, 3])
    kept, anew = (StemMaps(merged, images, kept=kept) for kept in (True, False))
    with torch.no_grad():
        assert torch.allclose(kept.coarse(rows, 32), anew.coarse(rows, 32), atol=1e-5)
        rehearsal = MaskRehearsal(original=merged.segmenter, prompts=3)
        levels = kept.levels(rows)
        assert anew.levels(rows) is None
        losses = [
            rehearsal(merged, images[rows], torch.Generator().manual_seed(1), boxes(6)[1:4], given)
            for given in (levels, None)
        ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-4)


def test_the_text_loss_is_one_minus_the_cosine(merged: MergedEncoder) -> None:
    images, wanted = pictures(3), torch.randn(3, 24)
    with torch.no_grad():
        level = StemMaps(merged, images, kept=False).coarse(torch.arange(3), 64)
        found = text_distance(merged, level, wanted)
        rows = F.normalize(merged.encode_image(images), dim=1) @ F.normalize(wanted, dim=1).T
    assert float(found) == pytest.approx(float(1 - rows.diag().mean()), abs=1e-5)


def test_rehearsal_is_focal_and_dice_against_the_masks_of_before(merged: MergedEncoder) -> None:
    """By hand, with the prompts that the same generator draws: twenty times focal plus dice of every mask token."""
    original, images, masks = copy.deepcopy(merged.segmenter), pictures(1), boxes(2)[1]
    with torch.no_grad():
        for parameter in merged.segmenter.parameters():
            parameter.mul_(1.1)
        found = MaskRehearsal(original=original, prompts=2)(merged, images, torch.Generator().manual_seed(3), [masks])
        generator = torch.Generator().manual_seed(3)
        drawn = masks[torch.randint(2, (2,), generator=generator)]
        asked = PromptTokens(*first_prompts(drawn, generator))
        pixels, rows = merged.pixels(images), torch.zeros(2, dtype=torch.long)
        wanted, logits = (
            net.decode(net.encode(pixels).rows(rows), asked)[0].double()
            for net in (original.backbone, merged.segmenter.backbone)
        )
        total = 0.0
        for p in range(2):
            for k in range(4):
                target, chance = wanted[p, k].sigmoid(), logits[p, k].sigmoid()
                entropy = -(target * chance.log() + (1 - target) * (1 - chance).log())
                focal = ((chance - target) ** 2 * entropy).mean()
                dice = ((chance - target) ** 2).sum() / ((chance**2).sum() + (target**2).sum() + 1)
                total += float(20 * focal + dice) / 8
    assert float(found) == pytest.approx(total, rel=1e-4)


def test_rehearsing_what_one_does_costs_nothing_and_moves_nothing(merged: MergedEncoder) -> None:
    """At student = teacher the masks are soft, and yet neither the loss nor any weight's gradient is more than 0."""
    original, images, masks = copy.deepcopy(merged.segmenter), pictures(2), boxes(3)[1:]
    weights = [p for p in merged.segmenter.parameters() if p.requires_grad]

    def rehearsed() -> tuple[float, float]:
        found = MaskRehearsal(original=original, prompts=2)(merged, images, torch.Generator().manual_seed(0), masks)
        moved = torch.autograd.grad(found, weights, allow_unused=True)
        return float(found.detach()), max(float(each.abs().max()) for each in moved if each is not None)

    network = original.backbone
    with torch.no_grad():
        clicks = PromptTokens(torch.full((1, 1, 2), 0.5), torch.ones(1, 1, dtype=torch.long))
        soft = network.decode(network.encode(merged.pixels(images[:1])), clicks)[0].sigmoid()
    assert float(((soft > 0.1) & (soft < 0.9)).float().mean()) > 0.5
    loss, gradient = rehearsed()
    assert abs(loss) < 1e-5
    assert gradient < 1e-5
    with torch.no_grad():
        for parameter in weights:
            parameter.mul_(1.1)
    loss, gradient = rehearsed()
    assert loss > 1e-4
    assert gradient > 1e-3


def test_without_masks_the_places_are_those_that_the_segmenter_of_before_finds(
    merged: MergedEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PromptTokens] = []
    original = copy.deepcopy(merged.segmenter)
    decode = original.backbone.decode

    def noting(levels: Any, prompts: PromptTokens) -> Any:
        asked.append(prompts)
        logits, scores = decode(levels, prompts)
        if len(asked) == 1:
            logits = torch.full_like(logits, -1.0)
            logits[1:, 0, 8:16, 20:28] = 1.0  # nothing for the first prompt
        return logits, scores

    monkeypatch.setattr(original.backbone, "decode", noting)
    MaskRehearsal(original=original, prompts=4)(merged, pictures(2), torch.Generator().manual_seed(0))
    places, given = asked
    assert places.points.shape == (8, 1, 2)
    assert len(given.points) == 7
    clicks = given.points[given.labels[:, 0] == 1, 0]
    assert len(clicks)
    assert ((clicks >= torch.tensor([20, 8]) / 32) & (clicks <= torch.tensor([28, 16]) / 32)).all()


def test_two_backward_passes_are_one_of_the_weighted_sum(merged: MergedEncoder) -> None:
    images, wanted, masks = pictures(4), torch.randn(4, 24), boxes(5)[1:]
    original = copy.deepcopy(merged.segmenter)
    rehearsal, seen = MaskRehearsal(original=original, prompts=2), StemMaps(merged, images, kept=False)
    rows, gradients = torch.arange(4), []

    def text(side: int) -> torch.Tensor:
        return text_distance(merged, seen.coarse(rows, side), wanted)

    def again(generator: torch.Generator) -> torch.Tensor:
        return rehearsal(merged, images, generator, masks)

    with stage_frozen(merged, JOINT) as (groups, moves):
        assert moves
        learning = [p for group in groups for p in group["params"]]
        total, parts = merge_step(
            merged, JOINT, text, again, torch.Generator().manual_seed(5), lambda loss: loss.backward()
        )
        gradients.append([None if p.grad is None else p.grad.clone() for p in learning])
        merged.zero_grad()
        generator = torch.Generator().manual_seed(5)
        torch.randint(1, (), generator=generator)  # the side
        whole = text(32) + 10 * again(generator)
        whole.backward()
        gradients.append([p.grad for p in learning])
    assert float(total) == pytest.approx(float(whole.detach()), rel=1e-5)
    assert float(parts["text"] + 10 * parts["masks"]) == pytest.approx(float(whole.detach()), rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.allclose(one, other, atol=1e-5)


def test_the_papers_stages_and_sides(merged: MergedEncoder) -> None:
    probe, joint, resolution = (MERGE_STAGES[name] for name in ("probe", "joint", "resolution"))
    assert (probe.lr, joint.lr, joint.encoder_lr, joint.rehearsal, resolution.lr) == (8e-4, 4e-5, 0.1, 10.0, 8e-4)
    assert probe.encoder_lr == resolution.encoder_lr == probe.rehearsal == resolution.rehearsal == 0
    assert probe.sides_of(merged) == (32, 48)
    assert resolution.sides_of(merged) == (32, 48, 64)


def test_what_cannot_be_trained_is_refused(merged: MergedEncoder) -> None:
    images = pictures(2)
    for given, words in (
        ({"stages": ("probe", "next")}, "unknown stage 'next'"),
        ({"stages": ()}, "no stage"),
        ({"steps": (1, 2)}, "2 numbers of steps"),
        ({"objects": boxes(3)}, "masks of 3 pictures for 2"),
        ({"embeddings": torch.ones(3, 24)}, "embeddings are"),
        ({"rehearsed": images[:0]}, "one at least"),
        ({"prompts": 0}, "prompts must be at least 1"),
    ):
        with pytest.raises(UsageError, match=words):
            train_merge(merged, images, **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="lr must be positive"):
        MergeStage(lr=0.0)
    with pytest.raises(UsageError, match="multiples of 8"):
        MergeStage(lr=1.0, sides=(12,))
