"""Class model images of p147 (arXiv 1312.6034): closed form for a linear score, and bookkeeping of the mean."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.explain import ClassModelImage


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(5)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.w)


@pytest.mark.parametrize("ascent", ["sgd", "adam"])
def test_a_linear_score_converges_to_its_closed_form(ascent: str) -> None:
    model = Linear()
    found = ClassModelImage(steps=400, lr=0.1 if ascent == "sgd" else 0.02, weight_decay=2.0, ascent=ascent, size=4)(
        model, 1
    )
    torch.testing.assert_close(found.image, model.w[1].detach() / 4, rtol=2e-2, atol=2e-2 if ascent == "adam" else 1e-5)


def test_the_mean_is_added_once_and_both_scores_are_reported() -> None:
    model = Linear().requires_grad_(False)
    found = ClassModelImage(steps=5, lr=40.0, mean=0.25, size=4)(model, 0)
    torch.testing.assert_close(found.display, (0.25 + found.image).clamp(0, 1))
    assert float(found.scores[-1]) == pytest.approx(float(model(0.25 + found.image[None])[0, 0]), abs=1e-4)
    assert found.display_score == pytest.approx(float(model(found.display[None])[0, 0]), abs=1e-4)
    assert float(found.scores[0]) == pytest.approx(float(model(torch.full((1, 3, 4, 4), 0.25))[0, 0]), abs=1e-5)
    # Normalised ascent moves every pixel by lr / 255 in root mean square, whatever the size of the gradient.
    one = ClassModelImage(steps=1, lr=3.0, weight_decay=0.0, size=4)(model, 0).image
    assert float(one.pow(2).mean().sqrt()) == pytest.approx(3 / 255, rel=1e-5)


def test_the_score_of_an_image_text_model_rises(clip_model) -> None:
    found = ClassModelImage(steps=30, lr=3.0)(clip_model, "a cat")
    assert found.image.shape == (3, 32, 32)
    assert len(found.scores) == 31
    assert float(found.scores[-1]) > float(found.scores[0]) + 0.05
    # Unclipped images leave [0, 1]; the model still sees them while they are optimised.
    far = ClassModelImage(steps=3, lr=400.0)(clip_model, "a cat")
    assert float((far.image + 0.5).max()) > 1.1
    shifted = ClassModelImage(steps=30, lr=3.0, jitter=2)(clip_model, "a cat")
    assert not torch.equal(shifted.image, found.image)


def test_several_targets_side_by_side_equal_one_by_one(clip_model) -> None:
    method = ClassModelImage(steps=6, lr=3.0, jitter=2)
    together = method.many(clip_model, ["a cat", "a dog"])
    for text, found in zip(["a cat", "a dog"], together, strict=True):
        alone = method(clip_model, text)
        torch.testing.assert_close(found.image, alone.image, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="at least one text or class"):
        method.many(clip_model, [])


def test_bad_settings_are_named() -> None:
    with pytest.raises(UsageError, match="ascent must be"):
        ClassModelImage(ascent="lbfgs")
    with pytest.raises(UsageError, match="steps at least 1"):
        ClassModelImage(steps=0)
    with pytest.raises(UsageError, match="does not say its input size"):
        ClassModelImage()(Linear(), 0)
