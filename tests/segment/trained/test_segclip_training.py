"""p161 (SegCLIP): trained by captions alone; what learns, how fast, and by which losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.segment import SegCLIP, SegCLIPObjective, open_head, train_segclip
from binderclip.segment.trained.segclip_training import segclip_groups

TINY: dict[str, Any] = {"groups": 3, "layers": 1, "heads": 2}


def halves(count: int, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    """Pictures of 32 px, left and right of one of two colours each, and what they are called."""
    generator = torch.Generator().manual_seed(seed)
    images, captions, names = torch.zeros(count, 3, 32, 32), [], ("red", "green", "blue")
    for row in range(count):
        left, right = torch.randperm(3, generator=generator)[:2].tolist()
        images[row, left, :, :16] = images[row, right, :, 16:] = 1
        captions.append(f"{names[left]} and {names[right]}")
    return images, captions


def test_captions_teach_it_and_it_comes_back_from_disk(clip_model: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in clip_model.state_dict().items()}
    images, captions = halves(24)
    head = SegCLIP(clip_model, seed=1, **TINY)
    own = {name: value.clone() for name, value in head.state_dict().items()}
    trained = train_segclip(head, images, captions, steps=30, batch=12, lr=5e-3, model_lr=0.1)
    for name in ("contrast", "reconstruction"):
        assert np.mean(trained.parts[name][-5:]) < 0.9 * np.mean(trained.parts[name][:5])
    total = sum(trained.parts[name] for name in ("contrast", "superpixels", "reconstruction"))
    assert np.allclose(total, trained.losses, rtol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in clip_model.state_dict().items())
    assert all(not torch.equal(value, own[name]) for name, value in head.state_dict().items() if "centres" in name)
    answer = head.segment(images[0], ["red", "green", "blue"])
    head.save(tmp_path / "head")
    again = open_head(tmp_path / "head", clip_model)
    assert isinstance(again, SegCLIP)
    with torch.no_grad():
        assert torch.equal(again(again.pixels(images)).groups, head(head.pixels(images)).groups)
        assert torch.equal(again.text_of(["red"]), head.text_of(["red"]))  # the text tower has learned too
    assert not torch.allclose(head.text_of(["red"]), SegCLIP(clip_model, **TINY).text_of(["red"]), atol=1e-4)
    assert torch.equal(again.segment(images[0], ["red", "green", "blue"]).labels, answer.labels)


def test_what_learns_how_fast(clip_model: Any) -> None:
    def names(head: SegCLIP) -> tuple[set[str], set[str]]:
        by_id = {id(p): name for name, p in head.named_parameters()}
        groups = segclip_groups(head, 1e-3, 0.05)
        found: tuple[set[str], set[str]] = (set(), set())
        for group in groups:
            assert group["weight_decay"] == (0.05 if group["params"][0].ndim > 1 else 0.0)
            found[group.get("lr_scale") == 1e-3].update(by_id[id(p)] for p in group["params"])
        return found

    fast, slow = names(SegCLIP(clip_model, **TINY))
    tower = "backbone.visual."
    assert {tower + "proj", tower + "ln_post.weight", tower + "transformer.resblocks.2.mlp.c_fc.weight"} <= fast
    assert {tower + "conv1.weight", tower + "transformer.resblocks.1.mlp.c_fc.weight"} <= slow
    assert {"backbone.logit_scale", "backbone.token_embedding.weight"} <= slow
    assert "grouping.centres" in fast
    assert not fast & slow
    fast, slow = names(SegCLIP(clip_model, blocks=1, text=False, **TINY))
    assert {name.split(".")[4] if "resblocks" in name else name for name in slow} == {"1"} | {"backbone.logit_scale"}
    assert tower + "proj" in fast


def test_every_parameter_is_reached_and_weights_leave_losses_out(clip_model: Any) -> None:
    head = SegCLIP(clip_model, blocks=1, text=False, **TINY).train()
    images, captions = halves(6)
    pixels, objective = head.pixels(images), SegCLIPObjective()
    text = head.model.encode_text(captions).detach()
    regions = objective.superpixels_of(images, 8)
    assert regions.shape == (6, 16)
    assert regions[0].unflatten(0, (4, 4))[:, 0].unique().numel() == 1  # a half is one superpixel
    assert int(regions[0, 0]) != int(regions[0, 3])
    objective(head, pixels, text, regions)[0].backward()
    idle = [name for name, p in head.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    # The class token is not looked at, so it does not learn either.
    whole = SegCLIP(clip_model, **TINY)
    assert [name for name, p in whole.named_parameters() if not p.requires_grad] == ["backbone.visual.class_embedding"]
    some = SegCLIPObjective(superpixels=0, reconstruction=0)
    assert list(some(head, pixels, text)[1]) == ["contrast"]
    with pytest.raises(UsageError, match="negative"):
        SegCLIPObjective(superpixels=-1)
    with pytest.raises(UsageError, match="one each"):
        train_segclip(head, images, ["red"])


def test_the_weight_of_superpixels_and_the_rule_of_patches(clip_model: Any) -> None:
    head = SegCLIP(clip_model, blocks=1, text=False, **TINY).train()
    images, captions = halves(4)
    pixels, text = head.pixels(images), head.model.encode_text(captions).detach()
    regions = torch.arange(16).remainder(4).expand(4, -1)

    def part(weight: float) -> float:
        torch.manual_seed(1)  # the groups are drawn
        objective = SegCLIPObjective(superpixels=weight, reconstruction=0)
        return float(objective(head, pixels, text, regions)[1]["superpixels"])

    assert part(3.0) == pytest.approx(3 * part(1.0), rel=1e-5)
    assert part(1.0) > 0
    # Of the ids 0, 0, 0 and 7 the most frequent is 0, and the truncated mean 1.
    ids = torch.zeros(32, 32, dtype=torch.long)
    ids[1::2, 1::2] = 7
    for rule, wanted in (("majority", 0), ("mean", 1)):
        objective = SegCLIPObjective(regions=lambda image: ids, patch_rule=rule)  # type: ignore[arg-type]
        assert objective.superpixels_of(images, 8).unique().tolist() == [wanted]
