"""The stage of labels, and BASIC's recipes (p160, arXiv 2111.10050): what is computed, what moves, resume, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import SampledClassifier
from binderclip.train import Recipe, build_model, load_recipe, run
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.stages.classification import ClassificationStep


def stage(tiny: dict[str, Any], **entries: Any) -> Recipe:
    return Recipe.from_dict({**tiny, "kind": {"name": "classification"}, "evaluation": {}, **entries})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "open_clip_model.safetensors")


def test_its_loss_is_the_softmax_of_scaled_cosines_of_the_labelled_pictures(tiny: dict[str, Any]) -> None:
    model = build_model(tiny["model"], seed=0, captions=lambda: ["a red cat", "a dog"])
    torch.manual_seed(0)
    classifier = SampledClassifier(32, 5, size=5, weight="uniform")
    labels = torch.tensor([2, -1, 4, 2])
    images = torch.randn(4, 3, 32, 32)
    batch = TrainingBatch(images, model.tokenize(["a"] * 4), torch.arange(4), torch.arange(4), {"label": labels})
    loss, metrics = ClassificationStep(model, classifier)(batch)
    features = F.normalize(model.encode_pixels(images)[labels >= 0], dim=1)
    cosines = features @ F.normalize(classifier.head, dim=1).T
    torch.testing.assert_close(loss, F.cross_entropy(cosines / 0.07, labels[labels >= 0]))
    assert float(metrics["classes"]) == 5
    batch.columns["label"].fill_(-1)  # type: ignore[attr-defined]
    loss, _ = ClassificationStep(model, classifier)(batch)
    assert float(loss.detach()) == 0
    assert loss.requires_grad


def test_only_the_image_tower_learns_and_it_learns_the_labels(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = run(stage(tiny, epochs=15, lr=2e-3), out=tmp_path / "run", progress=False)
    history = result.stages[0].history
    assert history["loss"][-4:].mean() < 0.6 * history["loss"][:4].mean()
    assert history["accuracy"][-4:].mean() > 0.6
    first, last = weights(result.out / "stages" / "start"), weights(result.out / "model")
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved
    assert all(name.startswith("visual.") for name in moved)
    assert result.stages[0].notes["classes"] > 2


def test_a_killed_run_goes_on_exactly(tiny: dict[str, Any], goes_on_exactly: Any) -> None:
    goes_on_exactly(stage(tiny, kind={"name": "classification", "size": 3}), at=7)  # draws classes, too


def test_the_three_stages_of_basic_train_and_freeze_what_they_say(tiny: dict[str, Any], tmp_path: Path) -> None:
    small = load_recipe("basic-small")
    document = {
        "model": tiny["model"], "data": tiny["data"], "evaluation": {},
        "stage": [
            {"name": each.name, "kind": each.kind, "groups": [g.model_dump() for g in each.groups], "batch_size": 16,
             "micro_batch": each.micro_batch and 8, "samples": 32, "lr": each.lr} for each in small.stage
        ],
    }  # fmt: skip
    out = run(Recipe.from_dict(document), out=tmp_path / "run", progress=False).out
    labels, captions, joint = (weights(folder) for folder in sorted((out / "stages").glob("0*")))
    images = [name for name in labels if name.startswith("visual.")]
    assert all(torch.equal(labels[name], captions[name]) for name in images)
    assert any(not torch.equal(labels[name], captions[name]) for name in labels if name not in images)
    assert any(not torch.equal(captions[name], joint[name]) for name in images)


def test_the_scaled_recipe_has_the_papers_stages() -> None:
    paper, small = load_recipe("basic"), load_recipe("basic-small")
    assert small.scaling["of"] == "basic"
    assert [s.name for s in paper.stage] == [s.name for s in small.stage] == ["labels", "captions", "joint"]
    for one, other in zip(paper.stage, small.stage, strict=True):
        assert one.kind == other.kind
        assert one.groups == other.groups
        assert (one.micro_batch is None) == (other.micro_batch is None)
    assert paper.stage[1].batch_size == 65_536
    assert sum(s.samples or 0 for s in small.stage) == 96_000


def test_mistakes_are_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use accumulate"):
        stage(tiny, micro_batch=4)
    with pytest.raises(UsageError, match="size must be at least 0"):
        stage(tiny, kind={"name": "classification", "size": -1})
    with pytest.raises(UsageError, match="weight is 'even'; it is one of 'linear', 'sqrt', 'uniform'"):
        stage(tiny, kind={"name": "classification", "weight": "even"})
    with pytest.raises(UsageError, match="noto-emoji has no two classes"):
        run(stage(tiny, data=[{"name": "noto-emoji", "limit": 1}], batch_size=1), out=tmp_path / "c", progress=False)
