"""The stage of an alpha channel: its batches, what a step computes, where gradients go, what it leaves, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from binderclip.errors import DataError, UsageError
from binderclip.losses import clip
from binderclip.models import AlphaCLIP, load
from binderclip.tasks.verbs.train.held_out import heads_table
from binderclip.train import Recipe, build_model, run
from binderclip.train.distributed import World
from binderclip.train.feed.regions import RegionBatch, RegionBatches
from binderclip.train.stages.alpha import AlphaStep

CLASSES = ["background", "cat", "owl"]


def label_maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Four pictures: a cat on the left, an owl on the right, both, nothing."""
    labels = torch.zeros(4, 32, 32, dtype=torch.long)
    labels[0, :, :16] = labels[2, :, :8] = 1
    labels[1, :, 16:] = labels[2, 4:, 20:] = 2
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)), labels


def folder(root: Path, times: int = 1) -> Path:
    images, labels = (part.repeat(times, *[1] * (part.ndim - 1)) for part in label_maps())
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for number, (image, truth) in enumerate(zip(images, labels, strict=True)):
        pixels = (image.permute(1, 2, 0) * 255).to(torch.uint8).numpy()
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        Image.fromarray(truth.to(torch.uint8).numpy()).save(root / "labels" / f"{number}.png")
    return root


def stage(tiny: dict[str, Any], root: Path, batch: int = 3, **kind: Any) -> Recipe:
    data = [{"name": str(root)}]
    settings = {
        "data": data,
        "batch_size": batch,
        "epochs": 4,
        "kind": {"name": "alpha-clip", **kind},
        "evaluation": {},
    }
    return Recipe.from_dict({**tiny, **settings, "stage": [{"name": "alpha"}]})


def test_regions_are_the_pixels_of_a_class_and_texts_its_name() -> None:
    images, labels = label_maps()
    batches = RegionBatches(images, labels, CLASSES, batch_size=3, full=0.0)
    assert len(batches.images) == 3  # the last shows nothing
    seen = set()
    for epoch in range(20):
        batch = batches.make(torch.arange(3), epoch)
        for row, text in enumerate(batch.texts.tolist()):
            name = batches.texts[text].removeprefix("a picture of ").split(" ")[1]
            seen.add((row, name))
            assert torch.equal(batch.alpha[row, 0] > 0, labels[row] == CLASSES.index(name))
            assert torch.equal(batch.images[row], images[row])
    assert seen == {(0, "cat"), (1, "owl"), (2, "cat"), (2, "owl")}


def test_whole_pictures_have_alpha_of_ones_and_all_their_names() -> None:
    batches = RegionBatches(*label_maps(), CLASSES, batch_size=3, full=1.0, template="{} there")
    batch = batches.make(torch.tensor([2, 0]), 0)
    assert bool((batch.alpha == 1).all())
    assert [batches.texts[text] for text in batch.texts.tolist()] == ["a cat and an owl there", "a cat there"]


def test_processes_share_a_batch_and_seek_goes_on() -> None:
    whole, part = (RegionBatches(*label_maps(), CLASSES, batch_size=2, world=world) for world in (None, World(1, 2)))
    first = [batch for batch, _ in zip(whole, range(4), strict=False)]
    part.seek(2)
    batch = next(iter(part))
    assert torch.equal(batch.images, first[2].images[1:])
    assert torch.equal(batch.alpha, first[2].alpha[1:])


def test_the_channel_learns_and_at_first_changes_nothing(tiny: dict[str, Any]) -> None:
    plain = build_model(tiny["model"], seed=0, captions=lambda: ["a cat", "an owl"])
    model, images = AlphaCLIP(plain), label_maps()[0]
    with torch.no_grad():
        expected = plain.encode_image(images)
        assert torch.equal(model.encode_image(images), expected)  # all ones
        alpha = (label_maps()[1] > 0).float()[:, None]
        assert torch.equal(model.encode_image(images, alpha), expected)
        text = plain.encode_text(["a cat", "an owl"])
    loss = clip(init_scale=5.0, learnable=False, smoothing=0.1)
    total, _ = AlphaStep(model, loss, text)(RegionBatch(images[:2], alpha[:2], torch.tensor([1, 0])))
    logits = 5 * F.normalize(expected[:2], dim=1) @ F.normalize(text[[1, 0]], dim=1).T
    rows = torch.arange(2)
    both = sum(F.cross_entropy(each, rows, label_smoothing=0.1) for each in (logits, logits.T)) / 2
    torch.testing.assert_close(total.detach(), torch.as_tensor(both), rtol=1e-4, atol=1e-5)
    total.backward()
    assert float(model.conv.alpha_weight.grad.abs().max()) > 0


def test_only_the_image_tower_learns_and_slower_than_the_channel(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny |= {"optimizer": {"name": "sgd"}, "schedule": "constant", "weight_decay": 0.0, "lr": 1e-3}
    result = run(stage(tiny, folder(tmp_path / "data"), tower=0.0), out=tmp_path / "run", progress=False)
    before, after = (load(tmp_path / part).backbone.state_dict() for part in ("run/stages/start", "run"))
    (new,) = set(after) - set(before)
    assert new.endswith("alpha_weight")
    assert float(after[new].abs().max()) > 0
    assert all(torch.equal(before[name], after[name]) for name in before)  # nothing else, at a rate of zero
    assert np.isfinite(result.stages[0].history["loss"]).all()
    trained = AlphaCLIP(load(tmp_path / "run"))
    images, labels = label_maps()
    with torch.no_grad():
        left, right = (trained.encode_image(images[2:3], (labels[2:3] == index).float()[:, None]) for index in (1, 2))
    assert not torch.allclose(left, right)


def test_held_out_regions_are_measured(tiny: dict[str, Any], tmp_path: Path) -> None:
    tiny |= {"data": [{"name": str(folder(tmp_path / "data", 3)), "hold_out": 0.5}], "batch_size": 2, "epochs": 1}
    recipe = Recipe.from_dict({**tiny, "evaluation": {}, "stage": [{"name": "alpha", "kind": "alpha-clip"}]})
    notes = run(recipe, out=tmp_path / "run", progress=False).stages[0].notes
    assert notes["classes"] == CLASSES
    # By their names 2, 5 and 6 are kept; of the others 3, 7 and 11 show nothing, and 10 shows two.
    assert (notes["pictures"], notes["held out regions"], notes["held out"]["pictures"]) == (3, 7, 9)
    share = notes["held out"]["regions named right with alpha"]
    assert round(share * 7, 2) in range(8)
    ((_, _, rows),) = heads_table([{"name": "alpha", "notes": notes}])  # as the verb shows them
    assert f"{share:.3f}" in {value for _, _, value, _ in rows}


def test_a_killed_run_goes_on_exactly(tiny: dict[str, Any], tmp_path: Path, goes_on_exactly: Any) -> None:
    tiny["checkpoint_every"] = 2
    goes_on_exactly(stage(tiny, folder(tmp_path / "data")), at=3)


def test_what_cannot_be_done(tiny: dict[str, Any], tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    with pytest.raises(UsageError, match="full must lie in"):
        stage(tiny, root, full=2.0)
    with pytest.raises(UsageError, match="tower must be at least 0"):
        stage(tiny, root, tower=-1.0)
    with pytest.raises(UsageError, match="batch_size must be at least 2"):
        stage(tiny, root, batch=1)
    with pytest.raises(UsageError, match="template needs one"):
        stage(tiny, root, template="a picture")
    with pytest.raises(DataError, match="no picture has a region"):
        RegionBatches(*label_maps(), ["background", "Background"], batch_size=1)
