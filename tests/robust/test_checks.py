"""The room's one rule, walked over all its public names: NaN, infinity, [-1, 1] and 0..255 are refused by name.

Every public callable of the room has its case here, or stands among those that look at no pictures, with the reason: a
new one without either fails.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from binderclip import robust
from binderclip.errors import UsageError
from binderclip.models import build
from binderclip.robust import checks
from binderclip.robust.checks import FiniteGuard, check_finite, check_images, checked_labels
from binderclip.segment.promptable import PromptModel, PromptNetwork, Prompts

SIDE = 16
LABELS = torch.tensor([0, 1])


class Watched(nn.Module):
    """Notes in which mode it is asked, and answers NaN, or an infinity in one place, from some call on."""

    classes = ["a", "b", "c"]

    def __init__(self, bad: float | None = None, after: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(3 * SIDE * SIDE, 3)
        self.bad, self.after, self.calls, self.modes = bad, after, 0, set[bool]()

    def _spoiled(self, found: Tensor) -> Tensor:
        self.modes.add(self.training)
        self.calls += 1
        if self.bad is None or self.calls <= self.after:
            return found
        spoiled = torch.zeros_like(found)
        spoiled[..., -1] = self.bad
        return found + spoiled

    def forward(self, x: Tensor) -> Tensor:
        return self._spoiled(self.inner(x.flatten(1)))


class WatchedMaps(Watched):
    """Two maps."""

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = x * self.inner.weight[0].reshape(3, SIDE, SIDE)
        return [self._spoiled(maps.tanh()), maps[:, :, ::2, ::2]]


class WatchedDistance(Watched):
    """Of weighted pixels."""

    def forward(self, reference: Tensor, images: Tensor) -> Tensor:
        weight = self.inner.weight[0].reshape(3, SIDE, SIDE).square()
        return self._spoiled(((images - reference).square() * weight).flatten(1).sum(1))


class WatchedDecoder(Watched):
    """Latents to pictures."""

    def forward(self, latents: Tensor) -> Tensor:
        return self._spoiled(latents.sigmoid())


class MeanOf(robust.Objective):
    """The mean of all pixels, spoiled or not."""

    def __init__(self, net: Watched) -> None:
        self.net = net

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = self.net._spoiled(images.mean((1, 2, 3)))
        return values, values > 2


class WatchedEncoder(nn.Module):
    """An image-text model whose image features are spoiled."""

    logit_bias = None
    device = torch.device("cpu")

    def __init__(self, net: Watched) -> None:
        super().__init__()
        self.net = net

    def encode_image(self, images: Tensor) -> Tensor:
        return self.net(images)

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.eye(3)[: len(texts)]


def prompts() -> Prompts:
    return Prompts(points=torch.tensor([[[8.0, 8.0]]]), labels=torch.ones(1, 1).long())


def segmenter() -> PromptModel:
    torch.manual_seed(0)
    return PromptModel(PromptNetwork(side=32, width=16, heads=2, blocks=1, layers=1)).eval()


def tiny() -> Any:
    return build(
        {
            "embed_dim": 8,
            "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        },
        name="tiny",
    )  # fmt: skip


def other(x: Tensor) -> Tensor:
    """Pictures that differ a little from these, in the same range."""
    return x + 0.1 * (x.flip(0) - x)


def started(x: Tensor, param: Any, net: Watched, start: Any = "clean") -> Any:
    return robust.attack(
        robust.CrossEntropy(net, LABELS), x, param=param, step=robust.Sign(0.01), steps=2, start=start
    )  # fmt: skip


def margins(net: Watched) -> Callable[[Tensor], robust.Objective]:
    return lambda rows: robust.Margin(net, LABELS[rows])


def own_class(x: Tensor) -> Tensor:
    """What `Watched` takes finite pictures for."""
    return Watched()(x.nan_to_num(0, 0, 0)).argmax(1).detach()


SHORT: dict[str, Any] = {"epochs": 2, "inner": 1, "steps": 2, "warps": 2, "split": 2}
# Each: the network that is looked at, and what is done with pictures (2, 3, 16, 16) and a network of that kind.
CASES: dict[str, tuple[type[Watched], Callable[[Tensor, Any], Any]]] = {
    **{
        name: (Watched, lambda x, net, name=name: getattr(robust, name)(net, steps=2)(x, LABELS))
        for name in ("CW", "DIFGSM", "MIFGSM", "PGD")
    },
    "FGSM": (Watched, lambda x, net: robust.FGSM(net)(x, LABELS)),
    "attack": (Watched, lambda x, net: started(x, robust.Linf(0.1), net, start=x.nan_to_num(0, 0, 0) * 0.9)),
    "CrossEntropy": (Watched, lambda x, net: started(x, robust.Linf(0.1), net)),
    "Margin": (
        Watched,
        lambda x, net: robust.attack(
            robust.Margin(net, LABELS, confidence=5.0), x, param=robust.L2(1.0), step=robust.Normalized(0.1), steps=2
        ),
    ),
    "Free": (Watched, lambda x, net: started(x, robust.Free(), net)),
    "L2": (Watched, lambda x, net: started(x, robust.L2(1.0), net)),
    "Linf": (Watched, lambda x, net: started(x, robust.Linf(0.1), net, start="random")),
    "Latent": (
        WatchedDecoder,
        lambda x, net: started(x, robust.Latent(net, (3, SIDE, SIDE)), Watched(), start="random"),
    ),
    "OnePixel": (Watched, lambda x, net: robust.OnePixel(population=5, generations=1)(x, margins(net))),
    "SpatialAttack": (Watched, lambda x, net: robust.SpatialAttack(iterations=2)(x, margins(net))),
    "LevelSetTraversal": (Watched, lambda x, net: robust.LevelSetTraversal(net, steps=2)(x, other(x))),
    "confidence_along": (Watched, lambda x, net: robust.confidence_along(net, x, other(x), LABELS, points=3)),
    "level_set_width": (
        Watched,
        lambda x, net: robust.level_set_width(net, x, other(torch.rand(2, 3, SIDE, SIDE)), LABELS, draws=3),
    ),
    "triangle_confidence_map": (
        Watched,
        lambda x, net: robust.triangle_confidence_map(net, x[0], other(x)[0], x[1], 0, cells=1, batch_size=1),
    ),
    "UAD": (WatchedMaps, lambda x, net: robust.UAD(features=net, **SHORT)(x)),
    "FeatureAttack": (
        WatchedMaps,
        lambda x, net: robust.attack(
            robust.FeatureAttack(net, x), x, param=robust.Linf(0.1), step=robust.Sign(0.01), steps=2
        ),
    ),
    "FeatureTarget": (
        WatchedMaps,
        lambda x, net: robust.attack(
            robust.FeatureTarget(net, WatchedMaps()(torch.rand(2, 3, SIDE, SIDE)), None), x,
            param=robust.Linf(0.1), step=robust.Sign(0.01), steps=2, start="clean",
        ),
    ),
    "RandomizedSmoothing": (
        Watched,
        lambda x, net: (robust.RandomizedSmoothing(net, 0.1).certify(x, n0=2, n=3),
                        robust.RandomizedSmoothing(net, 0.1).predict(x, n=3)),
    ),
    "TransferStudy": (
        Watched, lambda x, net: robust.TransferStudy(targets={"net": net}, steps=2)({"net": net}, x, own_class(x)),
    ),
    "transfer_success_rate": (Watched, lambda x, net: robust.transfer_success_rate(net, x, LABELS, batch_size=1)),
    "RankFlip": (
        WatchedDistance,
        lambda x, net: robust.attack(
            robust.RankFlip(net, x, other(x)), x, param=robust.Linf(0.1), step=robust.Sign(0.01), steps=2
        ),
    ),
    **{
        f"attack_similarity {method}": (
            WatchedDistance,
            lambda x, net, method=method, options=options: robust.attack_similarity(
                net, x, other(x), other(other(x)), method=method, steps=2, **options
            ),
        )
        for method, options in (
            ("pgd", {}), ("fgsm", {}), ("spatial", {"iterations": 2}), ("spatial+pgd", {"iterations": 2}),
            ("one-pixel", {"population": 5, "generations": 1}),
        )
    },
    "rank_flip_rate": (
        WatchedDistance, lambda x, net: robust.rank_flip_rate(net, x, other(x), other(x), other(other(x))),
    ),
    "adversarial_step": (
        Watched, lambda x, net: robust.adversarial_step(net, robust.PGD(net, steps=2, keep="last"))((x, LABELS)),
    ),
    "MinSimilarity": (
        Watched,
        lambda x, net: robust.attack(
            robust.MinSimilarity(WatchedEncoder(net), ["a", "b"]), x,
            param=robust.Linf(0.1), step=robust.Sign(0.01), steps=2,
        ),
    ),
    "MasterPrintAttack": (
        Watched,
        lambda x, net: robust.MasterPrintAttack(WatchedEncoder(net), ["a", "b"], search="pgd", steps=2)(x[0]),
    ),
}  # fmt: skip
# Networks that are trained or of their own kind: pictures alone are tried.
PICTURES: dict[str, Callable[[Tensor], Any]] = {
    "TeCoA": lambda x: robust.TeCoA(epochs=1)(tiny(), x, LABELS, ["a", "b"]),
    "tune_off_manifold": lambda x: robust.tune_off_manifold(tiny(), x, ["a", "b"], latent=(3, SIDE, SIDE), epochs=1),
    "train_fooling_detector": lambda x: robust.train_fooling_detector(None, x, x, epochs=1),
    "MaskRemoval": lambda x: robust.attack(
        robust.MaskRemoval(segmenter(), prompts()), x[:1], param=robust.Linf(0.1), step=robust.Sign(0.01), steps=1
    ),
}
# In the space in which gradients are taken, or of embeddings: numbers must be finite, of any range.
ANY_RANGE: dict[str, Callable[[Tensor], Any]] = {
    "PAGTargets": lambda x: robust.PAGTargets("class_mean", x, LABELS),
    "PAGTargets called": lambda x: robust.PAGTargets("nearest", torch.rand(2, 3, SIDE, SIDE), LABELS)(
        x, torch.zeros(2, 1).long()
    ),
    "master_print_win_rate": lambda x: robust.master_print_win_rate(x[0, 1, 2], x[:, 0, 0], x[:, 1, 1], LABELS),
    "shift_modality_gap": lambda x: robust.shift_modality_gap(x.flatten(1), x.flatten(1)),
    "polyharmonic_flow": lambda x: robust.polyharmonic_flow(9 * x[:, 0, :4, :2], 9 * x[:, 1, :4, 2:4], (4, 4)),
}
DECODED: dict[str, Callable[[Any], Any]] = {
    "Evolution": lambda net: [robust.Evolution((3, 4, 4), net).step(MeanOf(Watched())) for _ in range(3)],
    "Latent": lambda net: CASES["Latent"][1](torch.rand(2, 3, SIDE, SIDE), net),
}
LOOK_AT_NOTHING = {
    "steps, which attacks hand finite gradients": {"Adam", "Momentum", "Normalized", "Sign", "Step", "Feasible"},
    "arithmetic on tensors, which says nothing of success": {"warp", "flow_roughness", "InputDiversity"},
    "a base or a network that is looked at by what uses it": {"Objective", "EncoderMaps"},
    "results": {
        "AttackResult", "Certificate", "LevelSetPath", "MasterPrint", "SimilarityAttack", "TransferRates",
        "TriangleConfidence",
    },
    "constants": {"ABSTAIN", "METHODS"},
}  # fmt: skip
TWICE = {"FGSM", "transfer_success_rate"}
"""They ask two times in all."""
PIXELS = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
RANGES = {"-1..1": 2 * PIXELS - 1, "0..255": 255 * PIXELS}
EVERY = [*CASES, *PICTURES]


def spoiled(value: float) -> Tensor:
    images = PIXELS.clone()
    images[0, 1, 2, 3] = value
    return images


def run(name: str, images: Tensor) -> Any:
    if name in PICTURES:
        return PICTURES[name](images)
    if name in ANY_RANGE:
        return ANY_RANGE[name](images)
    kind, call = CASES[name]
    return call(images, kind())


def test_every_public_name_of_the_room_has_its_case() -> None:
    covered = {name.split()[0] for name in (*CASES, *PICTURES, *ANY_RANGE, *DECODED)}
    exempt = set().union(*LOOK_AT_NOTHING.values())
    assert not covered & exempt
    assert covered | exempt == set(robust.__all__)
    named = {method.__name__ for method in robust.METHODS.values()}
    assert named <= set(CASES)


@pytest.mark.parametrize("name", [*CASES, "MaskRemoval", *ANY_RANGE])
def test_what_is_right_is_taken(name: str) -> None:
    """Without this, a case that always raises would pass all others."""
    run(name, PIXELS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [*EVERY, *ANY_RANGE])
def test_pictures_that_are_not_finite_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="not finite"):
        run(name, spoiled(value))


@pytest.mark.parametrize("given", list(RANGES))
@pytest.mark.parametrize("name", EVERY)
def test_pictures_of_another_range_are_refused(name: str, given: str) -> None:
    said = "normalisation belongs to the predictor" if given == "-1..1" else "divide pixels of 0..255 by 255"
    with pytest.raises(UsageError, match=said):
        run(name, RANGES[given])


@pytest.mark.parametrize(
    ("name", "after"), [(name, after) for name in CASES for after in range(2 if name in TWICE else 3)]
)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_answers_that_are_not_finite_are_refused(name: str, bad: float, after: int) -> None:
    """From the first, second or third call of the network on."""
    kind, call = CASES[name]
    with pytest.raises(UsageError, match="not finite"):
        call(PIXELS, kind(bad, after))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_of_an_objective_of_ones_own_are_refused(bad: float) -> None:
    for after in range(3):
        with pytest.raises(UsageError, match="values of the objective are not finite"):
            robust.attack(
                MeanOf(Watched(bad, after)), PIXELS, param=robust.Linf(0.1), step=robust.Sign(0.01), steps=3
            )  # fmt: skip
        evolution, objective = robust.Evolution((3, 4, 4)), MeanOf(Watched(bad, after))
        with pytest.raises(UsageError, match="values of the objective are not finite"):
            [evolution.step(objective) for _ in range(4)]


@pytest.mark.parametrize("name", list(DECODED))
def test_pictures_of_a_decoder_are_looked_at(name: str) -> None:
    net = WatchedDecoder().train()
    DECODED[name](net)
    assert net.modes == {False}
    assert net.training
    for bad, said in ((math.nan, "not finite"), (7.0, "outside")):
        with pytest.raises(UsageError, match=said):
            DECODED[name](WatchedDecoder(bad))


def test_a_gradient_that_is_not_finite_is_refused_by_its_name() -> None:
    class Root(nn.Module):
        """Finite everywhere, but for the gradient at 0."""

        def forward(self, x: Tensor) -> Tensor:
            score = x.flatten(1).norm(dim=1).sqrt()
            return torch.stack([score, -score], 1)

    images = torch.zeros(2, 3, 4, 4)
    for call in (
        lambda: robust.PGD(Root(), random_start=False, steps=1, keep="last")(images, LABELS),
        lambda: robust.MIFGSM(Root(), steps=1)(images, LABELS),
        lambda: robust.LevelSetTraversal(Root(), steps=1, noise=0.0)(images, images),
    ):
        with pytest.raises(UsageError, match=r"gradients of the .* are not finite"):
            call()


@pytest.mark.parametrize("name", list(CASES))
def test_networks_are_asked_in_eval_mode_alone_and_put_back(name: str) -> None:
    kind, call = CASES[name]
    net = kind().train()
    call(PIXELS, net)
    if name == "adversarial_step":
        assert net.modes == {False, True}  # attacked in eval mode, the loss in the mode it is in
    else:
        assert net.modes == {False}
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_labels_may_be_arrays_and_lists_and_must_be_classes() -> None:
    net = Watched()
    wanted = robust.PGD(net, steps=2)(PIXELS, LABELS).images
    for labels in (np.array([0, 1]), np.array([0, 1], dtype=np.int32), [0, 1], LABELS.to(torch.uint8)):
        assert torch.equal(robust.PGD(net, steps=2)(PIXELS, labels).images, wanted)
        assert torch.equal(robust.CrossEntropy(net, labels)(PIXELS), robust.CrossEntropy(net, LABELS)(PIXELS))
    for labels, said in (
        (np.array([0.0, 1.0]), "class indices"), (np.array([True, False]), "class indices"),
        (["a", "b"], "class indices"), (np.array([0, 1, 1]), "do not go with"), (np.array([0, 3]), "3 classes"),
        (np.array([-1, 1]), "run from -1"), (None, "class indices|do not go with"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            robust.PGD(net, steps=1)(PIXELS, labels)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"must be a float tensor .*, not ndarray"):
        robust.PGD(net, steps=1)(PIXELS.numpy(), LABELS)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"float tensor .*, not torch\.uint8"):
        robust.PGD(net, steps=1)((255 * PIXELS).to(torch.uint8), LABELS)  # type: ignore[arg-type]
    assert checked_labels([1], torch.zeros(1, 2)).dtype == torch.int64


def test_logits_of_another_form_are_refused() -> None:
    for predictor, said in (
        (lambda x: x.flatten(1)[:, :1], "of one class"),
        (lambda x: x.flatten(1)[:1, :3], "one row an image"),
        (lambda x: x.mean((1, 2, 3)), "one row an image"),
        (lambda x: [x], "float logits"),
        (lambda x: x.flatten(1)[:, :3].detach(), "no gradient"),
    ):
        with pytest.raises(UsageError, match=said):
            robust.PGD(predictor, steps=1)(PIXELS, LABELS)


def test_rounding_is_no_other_range_and_a_wide_box_lets_all_finite_pixels_through() -> None:
    check_images("images", PIXELS + 1e-7 * torch.ones(()))
    check_images("images", 1e6 * (PIXELS - 0.5), (-math.inf, math.inf))
    check_images("images", 1e6 * (PIXELS - 0.5), None)
    for box in ((-math.inf, math.inf), None):
        with pytest.raises(UsageError, match="images are not finite: inf in image 0"):
            check_images("images", spoiled(math.inf), box)
    with pytest.raises(UsageError, match="nan in image 1"):
        check_finite("numbers", torch.tensor([[0.0, 1.0], [0.0, math.nan]]))
    check_finite("numbers", torch.full((4,), 6e4, dtype=torch.float16))  # their sum is no float16


def test_what_lies_on_an_accelerator_is_looked_at_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "AT_ONCE", ())
    monkeypatch.setattr(sys.modules["binderclip.robust.attack_loop"], "AT_ONCE", ())
    guard = FiniteGuard()
    guard("first numbers", torch.ones(2))
    guard("second numbers", torch.tensor([1.0, math.nan]))
    with pytest.raises(UsageError, match="second numbers are not finite"):
        guard.settle()
    wanted = robust.PGD(Watched(), steps=3, seed=1)
    assert torch.equal(wanted(PIXELS, LABELS).images, robust.PGD(Watched(), steps=3, seed=1)(PIXELS, LABELS).images)
    for bad in (math.nan, math.inf):
        for objective in ("cross-entropy", "cw"):
            with pytest.raises(UsageError, match="not finite"):
                robust.PGD(Watched(bad, 1), steps=3, objective=objective)(PIXELS, LABELS)
