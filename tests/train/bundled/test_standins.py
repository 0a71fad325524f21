"""The stages behind `small-sam` and `small-dino`: runs of a few steps, exact resume, and the pieces of their losses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from binderclip.errors import NotSupported
from binderclip.models import VisionModel, load_vision
from binderclip.segment.promptable import PromptModel, Prompts, load_promptable
from binderclip.train import Recipe, load_recipe, run
from binderclip.train.bundled.dino import DinoStep, MultiCrop, tokens_of
from binderclip.train.bundled.promptable import SceneTargets, promptable_loss
from binderclip.train.bundled.vision import new_vision, slow_directions

NAMES = ["cat", "dog"]
SAM: dict[str, Any] = {
    "name": "tiny-sam",
    "model": {"arch": "promptable", "side": 32, "width": 16, "heads": 2, "blocks": 1, "layers": 1, "stem": "none"},
    "groups": [{"match": "stem.*", "freeze": True}],
    "batch_size": 2,
    "ema": 0.5,
    "checkpoint_every": 1,
    "stage": [
        {"name": "scenes", "kind": {"name": "promptable", "objects": 2, "names": NAMES, "backgrounds": ["plain"]},
         "samples": 6},
    ],
}  # fmt: skip
DINO: dict[str, Any] = {
    "name": "tiny-dino",
    "model": {
        "arch": "vision", "stem": "none",
        "options": {"img_size": 64, "embed_dim": 16, "depth": 1, "num_heads": 2},
    },
    "batch_size": 2,
    "checkpoint_every": 1,
    "stage": [
        {"name": "start", "kind": {"name": "slow-features", "pictures": 4, "names": NAMES, "backgrounds": ["noise"]},
         "samples": 1},
        {"name": "dino", "kind": {"name": "dino", "names": NAMES, "backgrounds": ["noise"], "prototypes": 16},
         "samples": 6},
    ],
}  # fmt: skip


def test_the_recipes_are_known():
    assert load_recipe("small-sam").model == {"arch": "promptable"}
    assert [stage.name for stage in load_recipe("small-dino").stage] == ["slow-features", "dino"]


@pytest.mark.parametrize("document", [SAM, DINO], ids=["sam", "dino"])
def test_a_stopped_run_goes_on_to_the_same_weights(document, tmp_path, monkeypatch):
    recipe = Recipe.from_dict(document)
    whole = run(recipe, out=tmp_path / "whole", progress=False)
    assert math.isfinite(whole.summary["stages"][-1]["final_loss"])

    from binderclip.fit import loop

    steps = {"left": 2}
    original = loop._Run.take_step

    def stop(self, step, figures):
        if steps["left"] == 0:
            raise KeyboardInterrupt
        steps["left"] -= 1
        return original(self, step, figures)

    monkeypatch.setattr(loop._Run, "take_step", stop)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, out=tmp_path / "cut", progress=False)
    monkeypatch.undo()
    again = run(recipe, out=tmp_path / "cut", progress=False, resume=True)
    assert again.stages[-1].resumed_from == 2
    load: Any = load_promptable if document is SAM else load_vision
    first, second = (load(tmp_path / name).backbone.state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert isinstance(load(tmp_path / "whole"), PromptModel if document is SAM else VisionModel)


def test_the_stages_refuse_other_models(tmp_path):
    mixed = {**DINO, "stage": SAM["stage"]}
    with pytest.raises(NotSupported, match="arch = 'promptable'"):
        run(Recipe.from_dict(mixed), out=tmp_path, progress=False)


def test_targets_are_exact_and_depend_on_the_number_alone():
    targets = SceneTargets(3, 2, 48, 5, tuple(NAMES), ("plain",))
    batch, again = targets(7), targets(7)
    assert torch.equal(batch["images"], again["images"])
    assert torch.equal(batch["masks"], again["masks"])
    assert not torch.equal(batch["images"], targets(8)["images"])
    assert batch["masks"].flatten(1).sum(1).min() >= targets.least
    # Masks move with the picture: on a plain background objects are where the colour is another.
    for mask, row in zip(batch["masks"], batch["rows"], strict=True):
        image = batch["images"][row]
        background = image[:, ~batch["masks"][batch["rows"] == row].any(0)].median(1).values
        away = (image - background[:, None, None]).abs().amax(0)
        assert float(away[mask].mean()) > float(away[~mask].mean())


def test_the_loss_of_hard_targets_is_focal_plus_dice():
    torch.manual_seed(0)
    from torchvision.ops import sigmoid_focal_loss

    logits, target = torch.randn(3, 2, 6, 6), (torch.rand(3, 6, 6) > 0.5).float()
    loss, iou = promptable_loss(logits, target)
    wide = target[:, None].expand_as(logits)
    focal = sigmoid_focal_loss(logits, wide, alpha=-1, gamma=2).mean((2, 3))
    p = logits.sigmoid()
    dice = 1 - (2 * (p * wide).sum((2, 3)) + 1) / ((p + wide).sum((2, 3)) + 1)
    torch.testing.assert_close(loss, 20 * focal + dice)
    hard = logits > 0
    both = (hard & (wide > 0)).sum((2, 3)) / (hard | (wide > 0)).sum((2, 3))
    torch.testing.assert_close(iou, both)


def test_a_few_steps_teach_the_network_to_find_what_was_clicked():
    """Squares of one colour on another: within some steps the loss falls and the click decides the square."""
    from binderclip.segment.promptable import PromptNetwork

    torch.manual_seed(0)
    model = PromptModel(PromptNetwork(side=32, width=16, heads=2, blocks=1, layers=1))
    images = torch.full((2, 3, 32, 32), 0.2)
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 4:16, 4:14] = True
    masks[1, 18:30, 16:30] = True
    images[:, :, masks.any(0)] = 0.9
    from binderclip.train.bundled.promptable import PromptStep

    step = PromptStep(model, rounds=(1, 1))
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if "stem" not in n], 5e-3)
    losses = []
    for number in range(60):
        loss, _ = step({"images": images, "rows": torch.tensor([0, 1]), "masks": masks, "number": number})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    state = model.eval().encode(images[0])
    found = model.predict(state, Prompts(torch.tensor([[[9.0, 10]], [[23.0, 24]]]), torch.ones(2, 1).long()))
    ious = [float((a & b).sum() / (a | b).sum()) for a, b in zip(found.masks(), masks, strict=True)]
    assert min(ious) > 0.5


def test_slow_directions_find_the_slow_mixture():
    """Two channels mix a smooth field and noise: the first direction is orthogonal to the noise's column."""
    torch.manual_seed(0)
    slow = functional.interpolate(torch.randn(20, 1, 3, 3), size=(24, 24), mode="bilinear")
    fast = torch.randn(20, 1, 24, 24)
    mixing = torch.tensor([[1.0, 2.0], [0.5, -1.5]])
    maps = torch.einsum("cs,nshw->nchw", mixing, torch.cat([slow, fast], 1)) + torch.tensor([3.0, -1]).view(1, 2, 1, 1)
    mean, directions = slow_directions(maps, 2, ridge=1e-6)
    torch.testing.assert_close(mean, maps.mean((0, 2, 3)))
    first = directions[:, 0] / directions[:, 0].norm()
    noise = mixing[:, 1] / mixing[:, 1].norm()
    assert abs(float(first @ noise)) < 0.1
    steps = [(maps[:, :, 1:] - maps[:, :, :-1]), (maps[..., 1:] - maps[..., :-1])]

    def ratio(direction: torch.Tensor) -> float:
        along = [torch.einsum("nchw,c->nhw", part, direction) for part in steps]
        total = torch.einsum("nchw,c->nhw", maps, direction).var()
        return float(total / torch.cat([part.flatten() for part in along]).square().mean())

    assert ratio(first) >= max(ratio(torch.randn(2)) for _ in range(20))


def _step(**changes: Any) -> tuple[DinoStep, dict[str, Any]]:
    model = new_vision(seed=0, captions=list, stem="none", options=DINO["model"]["options"])
    crops = MultiCrop(2, 0, 48, 24, 1, 64, names=tuple(NAMES), backgrounds=("noise",))
    return DinoStep(model, steps=10, prototypes=16, **changes), crops(0)


def test_the_tokens_are_timms_own():
    step, batch = _step()
    trunk = step.model.backbone.eval()
    pixels = step.model.preprocess.normalize(batch["large"])
    with torch.no_grad():
        own = tokens_of(trunk, trunk.patch_embed.backbone(pixels))
        torch.testing.assert_close(own, trunk.forward_features(pixels))


def test_the_teacher_follows_and_learns_nothing_itself():
    step, batch = _step(momentum=0.9)
    before = {name: value.clone() for name, value in step.teacher.named_parameters()}
    loss, terms = step(batch)
    assert {"class", "patches", "neighbours"} <= set(terms)
    loss.backward()
    assert all(value.grad is None for value in step.teacher.parameters())
    with torch.no_grad():
        for parameter in step.model.backbone.parameters():
            parameter.add_(1.0)
    step(batch)
    # The second step of ten: keep = 1 - 0.1 (1 + cos(pi / 10)) / 2.
    share = 0.1 * (1 + math.cos(math.pi / 10)) / 2
    for name, value in step.teacher.named_parameters():
        torch.testing.assert_close(value, before[name] + share, atol=1e-5, rtol=1e-5)


def test_hidden_patches_and_neighbours_are_what_they_say():
    crops = MultiCrop(8, 0, 48, 24, 1, 64, names=tuple(NAMES), backgrounds=("noise",), hidden=0.5)
    hidden = crops._hide(200, torch.Generator().manual_seed(0))
    share = hidden.float().mean(1)
    assert float(share.max()) <= 0.5
    assert 70 < int((share == 0).sum()) < 150
    step, _ = _step()
    seen = torch.randn(2, 9, 16)
    target, rows = step._near(seen, torch.arange(18))
    unit = functional.normalize(seen, dim=-1)
    step.eval()
    for row in (0, 4, 13):
        image, place = divmod(row, 9)
        r, c = divmod(place, 3)
        around = [
            3 * i + j for i in range(3) for j in range(3)
            if max(abs(i - r), abs(j - c)) == 1
        ]  # fmt: skip
        best = sorted(around, key=lambda p: -float(unit[image, place] @ unit[image, p]))[:3]
        expected = step._near(seen, torch.tensor([row]))[0][0]
        with torch.no_grad():
            logits = step.teacher_head(seen[image, best])
            manual = ((logits - step.centres[1]) / 0.04).softmax(-1).mean(0)
        torch.testing.assert_close(expected, manual, atol=1e-5, rtol=1e-4)
    assert torch.equal(rows, torch.arange(18))
    torch.testing.assert_close(target.sum(1), torch.ones(18))


def test_patches_of_a_run_are_the_teachers(tmp_path: Path):
    result = run(Recipe.from_dict(DINO), out=tmp_path, progress=False)
    assert result.summary["stages"][1]["notes"] == {"scenes": 6}
    model = load_vision(tmp_path)
    assert model.patch_features(torch.rand(1, 3, 64, 64)).shape == (1, 16, 8, 8)
