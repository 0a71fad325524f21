"""Scores by ordered prompts: the softmax written out, its limits, and torchmetrics on the same weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import DataError, UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import PAIRS, PromptQuality
from binderclip.quality.score.prompt_quality import prompt_sets

TRIPLES = [("good", "average", "poor"), ("high", "medium", "low")]


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def cosines(model: ImageTextModel, images: Tensor, texts: tuple[str, ...]) -> Tensor:
    image = F.normalize(model.image_tower(model.preprocess.normalize(images)), dim=-1)
    return image @ model.encode_text(list(texts), normalize=True).T


@torch.no_grad()
def test_three_texts_are_a_softmax_with_weights_one_half_and_zero(vit: ImageTextModel) -> None:
    images = made(3, 3, 40, 48)
    rows = []
    for texts in TRIPLES:
        p, n, q = (5.0 * cosines(vit, images, texts)).exp().T
        rows.append((p + 0.5 * n) / (p + n + q))
    metric = PromptQuality(vit, TRIPLES, scale=5.0)
    assert torch.allclose(metric(images), torch.stack(rows).mean(0), atol=1e-6)
    assert torch.allclose(metric.each(metric.embed(images)), torch.stack(rows, 1), atol=1e-6)
    # A mean of logits is a product of experts: geometric means in the place of the exponentials.
    both = torch.stack([(5.0 * cosines(vit, images, texts)).exp() for texts in TRIPLES])
    p, n, q = both.log().mean(0).exp().T
    pooled = PromptQuality(vit, TRIPLES, scale=5.0, average="logits")(images)
    assert torch.allclose(pooled, (p + 0.5 * n) / (p + n + q), atol=1e-6)


@torch.no_grad()
def test_limits(vit: ImageTextModel) -> None:
    images = made(4, 3, 32, 32)
    forth = PromptQuality(vit, [("good", "average", "poor")])(images)
    back = PromptQuality(vit, [("poor", "average", "good")])(images)
    assert torch.allclose(forth, 1 - back, atol=1e-6)
    assert torch.allclose(PromptQuality(vit, {"same": ("a", "a", "a")})(images), torch.full((4,), 0.5), atol=1e-6)
    twice = {"one": ("good", "poor"), "two": ("good", "poor")}
    for average in ("logits", "probabilities"):
        once = PromptQuality(vit, [("good", "poor")])(images)
        assert torch.allclose(PromptQuality(vit, twice, average=average)(images), once, atol=1e-6)


@torch.no_grad()
def test_keywords_and_scores_are_those_of_torchmetrics(vit: ImageTextModel) -> None:
    peer = pytest.importorskip("torchmetrics.functional.multimodal.clip_iqa")
    assert {name: PAIRS[name] for name in peer._PROMPTS} == peer._PROMPTS
    names = list(peer._PROMPTS)
    texts = [text for name in names for text in peer._PROMPTS[name]]
    metric = PromptQuality(vit, names, scale=100, size="model")
    image = vit.encode_image(made(3, 3, 48, 40), normalize=True)
    theirs = peer._clip_iqa_compute(image, vit.encode_text(texts, normalize=True), names)
    ours = metric.each(metric.embed(made(3, 3, 48, 40)))
    for column, name in enumerate(names):
        assert torch.allclose(ours[:, column], theirs[name], atol=1e-5), name


@torch.no_grad()
def test_files_give_the_same_scores_in_one_pass_and_bad_ones_are_named(vit: ImageTextModel, tmp_path: Path) -> None:
    from PIL import Image

    images = (made(3, 3, 40, 48) * 255).byte()
    for row, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{row}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    metric = PromptQuality(vit, ["quality", "sharpness"])
    calls = 0

    def counted(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = vit.visual.conv1.register_forward_hook(counted)
    paths = [tmp_path / name for name in ("0.png", "bad.png", "1.png", "2.png")]
    found = metric.score_files(paths)
    handle.remove()
    assert calls == 1
    assert [Path(key).name for key in found.keys] == ["0.png", "1.png", "2.png"]
    assert [Path(key).name for key, _ in found.skipped] == ["bad.png"]
    assert found.names == ["quality", "sharpness"]
    assert torch.allclose(found.total, metric(images.float() / 255), atol=1e-5)
    assert torch.allclose(found.total, metric([str(path) for path in paths if path.name != "bad.png"]), atol=1e-5)
    assert torch.allclose(found.each.mean(1), found.total, atol=1e-6)
    with pytest.raises(DataError, match=r"bad\.png"):
        metric(paths)
    sized = PromptQuality(vit, size="model").score_files(paths)
    assert len(sized.keys) == 3
    assert torch.allclose(
        sized.total, PromptQuality(vit, size="model")([p for p in paths if p.stem != "bad"]), atol=1e-5
    )


def test_gradients_reach_the_pixels_and_numbers_are_finite(vit: ImageTextModel) -> None:
    images = made(1, 3, 40, 40).requires_grad_()
    score = PromptQuality(vit, scale=1e4)(images)
    assert math.isfinite(float(score.detach()))
    PromptQuality(vit)(images).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("nonsense", "'nonsense' is unknown"),
        ([], "prompts is empty"),
        ([("good",)], "two texts or more"),
        ([()], "two texts or more"),
        ([("good", " ")], "two texts or more"),
        ({"a": "good"}, "two texts or more"),
        (["quality", ("good", "average", "bad")], "as many texts"),
        (["quality", "quality"], "twice"),
    ],
)
def test_prompts_that_are_wrong_are_named(prompts: object, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        prompt_sets(prompts)  # type: ignore[arg-type]


def test_other_mistakes_are_named(vit: ImageTextModel) -> None:
    for options, said in (({"average": "sum"}, "average"), ({"size": "big"}, "size"), ({"scale": 0}, "scale")):
        with pytest.raises(UsageError, match=said):
            PromptQuality(vit, **options)
    with pytest.raises(UsageError, match="an ImageTextModel, not int"):
        PromptQuality(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="images is empty"):
        PromptQuality(vit)([])
