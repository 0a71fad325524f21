"""Hallucination score and conciseness-preciseness of p106 (arXiv 2211.12857) by hand and in their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.explain import PixelMask, ShearletX, conciseness_preciseness, hallucination_score
from binderclip.vision import ShearletTransform


def pictures(count: int = 2, size: tuple[int, int] = (24, 24)) -> Tensor:
    base = torch.full((count, 3, *size), 0.2)
    base[:, :, 6:16, 5:14] = 0.8
    return base


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.fc = nn.Conv2d(3, 5, 3, stride=2), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(10 * torch.tanh(self.conv(x)).mean(dim=(2, 3)))


def test_the_picture_itself_invents_nothing_however_dark() -> None:
    images = torch.rand(3, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    assert hallucination_score(images, images).tolist() == [0, 0, 0]
    assert hallucination_score(0.03 * images, images).tolist() == [0, 0, 0]


def test_a_black_explanation_has_no_score() -> None:
    images = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    shown = torch.stack([torch.zeros_like(images[0]), images[1]])
    assert [bool(v) for v in hallucination_score(shown, images).isnan()] == [True, False]
    scores = conciseness_preciseness(Net().eval(), shown, 1, images=images)
    assert bool(scores[0].isnan())
    assert float(scores[1]) == pytest.approx(1)


def test_every_pasted_square_raises_it_by_its_own_edges() -> None:
    images, scores = pictures(1), []
    shown = images.clone()
    for count in range(4):
        if count:
            top, left = ((18, 2), (18, 14), (1, 18))[count - 1]
            shown[:, :, top : top + 4, left : left + 4] = 1.0
        scores.append(float(hallucination_score(shown, images)))
    assert scores[0] == 0
    assert (np.diff(scores) > 0).all()


def test_it_equals_a_count_with_scipy() -> None:
    images = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0)) ** 3
    shown = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(1)) ** 6
    found = hallucination_score(shown, images, threshold=0.15)
    for index in range(2):
        edges = []
        for picture in (shown[index].double().numpy(), images[index].double().numpy()):
            grey = (picture / picture.max()).mean(axis=0)
            edges.append(np.hypot(*(ndimage.sobel(grey, axis=a, mode="nearest") / 8 for a in (0, 1))) > 0.15)
        near = ndimage.binary_dilation(edges[1], np.ones((3, 3)))
        assert float(found[index]) == pytest.approx((edges[0] & ~near).sum() / edges[1].sum())
        assert found[index] > 0
    # Another detector: every pixel above a half.
    own = hallucination_score(shown, images, edges=lambda grey: grey > 0.9)
    assert own.shape == (2,)


def test_the_identity_scores_one_in_every_variant() -> None:
    net, images = Net(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[:, :, 0, 0] = 1.0
    # One step of a tiny rate leaves a mask of ones, but for rounding.
    found = ShearletX(ShearletTransform(1, (3,)), steps=1, lr=1e-9, samples=1)(net, images)
    for information in ("pixels", "coefficients", "entropy"):
        score = conciseness_preciseness(net, found, information=information)
        torch.testing.assert_close(score, torch.ones(2), atol=1e-4, rtol=0)
    for brighten in (False, True):
        torch.testing.assert_close(
            conciseness_preciseness(net, images, images=images, brighten=brighten), torch.ones(2)
        )


def test_it_is_retained_probability_over_retained_information_by_hand() -> None:
    net, images = Net(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = ShearletX(ShearletTransform(1, (3,)), steps=4, samples=2)(net, images, [1, 2])
    for index, target in enumerate((1, 2)):
        x, xe = images[index].double().numpy(), found.explanation[index]
        s = ShearletTransform(1, (3,)).analysis(images[index]).double().numpy()
        ms = found.mask[index].numpy() * s
        chance = [net(p[None]).softmax(1)[0, target].item() for p in (xe, images[index], xe / xe.max())]
        q, r = ms**2 / (ms**2).sum(), s**2 / (s**2).sum()
        entropy = (q * np.log(q + 1e-7)).sum() / (r * np.log(r + 1e-7)).sum()
        shares = {
            "pixels": xe.double().numpy().sum() / x.sum(),
            "coefficients": np.abs(ms).sum() / np.abs(s).sum(),
            "entropy": entropy,
        }
        for information, share in shares.items():
            score = conciseness_preciseness(net, found, [1, 2], information=information)
            assert float(score[index]) == pytest.approx(chance[0] / chance[1] / share, rel=1e-3)
            assert abs(share - 1) > (1e-6 if information == "entropy" else 0.05)
        bright = conciseness_preciseness(net, found.explanation, [1, 2], images=images, brighten=True)
        want = chance[2] / chance[1] / (shares["pixels"] / float(xe.max()))
        assert float(bright[index]) == pytest.approx(want, rel=1e-3)


def test_errors_name_what_is_wrong(clip_model) -> None:
    net, images = Net(), pictures()
    with pytest.raises(UsageError, match="must have one shape"):
        hallucination_score(images, images[:1])
    with pytest.raises(UsageError, match="images are missing"):
        hallucination_score(images)
    with pytest.raises(UsageError, match="information must be one of pixels, coefficients, entropy, got 'bits'"):
        conciseness_preciseness(net, images, images=images, information="bits")
    with pytest.raises(UsageError, match="needs the result of a mask explanation"):
        conciseness_preciseness(net, images, images=images, information="coefficients")
    with pytest.raises(UsageError, match="a single text has none"):
        conciseness_preciseness(clip_model, images, "a cat", images=images)
    assert conciseness_preciseness(net, PixelMask(steps=1, samples=1)(net, images), information="entropy").shape == (2,)
