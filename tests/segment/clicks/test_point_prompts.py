"""The benchmark of point prompts, and a prompt side that learns one of them (p019, arXiv 2410.22048)."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score

from binderclip.errors import NotSupported, UsageError
from binderclip.segment.clicks import PointPromptTable, point_prompt_benchmark, sample_points, tune_prompts
from binderclip.segment.clicks.point_prompts import point_prompts
from binderclip.segment.clicks.tuning import mask_loss, prompt_parameters
from binderclip.segment.promptable import OracleSegmenter, Prompts

IMAGE = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0))


def test_iou_is_that_of_the_first_candidate(tiny, blobs):
    table = point_prompt_benchmark(tiny, [(IMAGE, blobs)], strategies=["random", "k-medoids"], inclusion=3, exclusion=1)
    assert table.iou.shape == (2, 3)
    asked = point_prompts(IMAGE, blobs, "k-medoids", inclusion=3, exclusion=1, seed=0)
    for row in range(3):
        assert asked.labels[row].tolist() == [1, 1, 1, 0]
        prompts = Prompts.of(points=asked.points[row].tolist(), labels=[1, 1, 1, 0])
        mask = tiny.predict(tiny.encode(IMAGE), prompts).logits[0, 0] > 0
        expected = jaccard_score(blobs[row].flatten().numpy(), mask.flatten().numpy())
        assert table.iou[1, row] == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
def test_points_are_where_the_picture_is(tiny, blobs, device):
    prompts = point_prompts(IMAGE.to(device), blobs.to(device), "shi-tomasi", inclusion=2, exclusion=1, seed=4)
    assert {prompts.points.device.type, prompts.labels.device.type} == {device}
    inside = sample_points(blobs[1].numpy(), 2, "shi-tomasi", image=IMAGE.permute(1, 2, 0).numpy(), seed=6)
    np.testing.assert_allclose(prompts.points[1, :2].cpu().numpy(), inside)
    table = point_prompt_benchmark(
        copy.deepcopy(tiny).to(device), [(IMAGE.to(device), blobs.to(device))], strategies=["random"]
    )
    assert table.iou.shape == (1, 3)


def test_an_oracle_makes_every_strategy_perfect(blobs):
    masks = torch.cat([blobs, blobs[:1] & False])
    table = point_prompt_benchmark(OracleSegmenter(blobs), [(IMAGE, masks)], exclusion=0)
    assert set(table.means().values()) == {1.0}
    assert table.features.shape == (7, 3, 8)
    with pytest.raises(UsageError, match="no object"):
        point_prompt_benchmark(OracleSegmenter(blobs), [(IMAGE, masks[3:])])
    with pytest.raises(UsageError, match="pick"):
        point_prompt_benchmark(OracleSegmenter(blobs), [(IMAGE, masks)], pick="last")


def test_what_explains_the_iou_is_found():
    rng = np.random.default_rng(0)
    features = rng.random((2, 60, 3))
    iou = features[..., 1] ** 2 + 0.02 * rng.random((2, 60))
    table = PointPromptTable(("a", "b"), iou, iou[0], ("x", "y", "z"), features)
    for model in ("forest", "linear"):
        found = table.explained(model=model)
        assert found.r2 > 0.8
        assert next(iter(found.importance)) == "y"
    shuffled = PointPromptTable(("a", "b"), rng.permutation(iou, axis=1), iou[0], ("x", "y", "z"), features)
    assert shuffled.explained().r2 < 0.2
    with pytest.raises(UsageError, match="folds"):
        table.explained(folds=100)


def test_the_prompt_side_alone_learns(tiny, blobs):
    tuned = tune_prompts(tiny, [(IMAGE, blobs)], "k-medoids", steps=25, lr=0.02)
    allowed = {"labels", "drawn", "prior"}
    moved = set()
    for (name, new), old in zip(tuned.backbone.named_parameters(), tiny.backbone.parameters(), strict=True):
        if not torch.equal(new, old):
            moved.add(name.split(".")[0])
    assert moved == allowed
    # the copy can be trained as the segmenter could: what stood still is not frozen for good
    tiny.backbone.labels.requires_grad_(False)
    again = tune_prompts(tiny, [(IMAGE, blobs)], "k-medoids", steps=1)
    tiny.backbone.labels.requires_grad_(True)
    assert all(parameter.requires_grad for parameter in tuned.parameters())
    frozen = {name.split(".")[0] for name, own in again.backbone.named_parameters() if not own.requires_grad}
    assert frozen == {"labels"}
    prompts = point_prompts(IMAGE, blobs, "k-medoids", seed=123)
    losses = [
        float(mask_loss(model.predict(model.encode(IMAGE), prompts, multimask=False).logits[:, 0], blobs))
        for model in (tiny, tuned)
    ]
    assert losses[1] < 0.8 * losses[0]


def test_what_has_no_prompt_side_or_no_object_is_refused(tiny, blobs):
    """Apart from the training, which an annotation that refuses these inputs would have done twice."""
    with pytest.raises(NotSupported):
        prompt_parameters(OracleSegmenter(blobs))
    with pytest.raises(UsageError, match="no object"):
        tune_prompts(tiny, [], "random")


def test_the_loss_by_hand():
    logits = torch.tensor([[[20.0, -20], [20, -20]]])
    truth = torch.tensor([[[True, True], [False, False]]])
    # p = 1, 0, 1, 0: dice 2 * 1 / (2 + 2); cross-entropy 20 on the two wrong pixels
    assert float(mask_loss(logits, truth)) == pytest.approx(0.5 + 10, abs=1e-4)
