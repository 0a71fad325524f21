"""p124 (arXiv 2007.15651): what CUT, FastCUT and SinCUT add up, against the released code's formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import CUT, PatchDiscriminator, ResnetTranslator

TAPS = (0, 4, 8, 12)


def cut(mode: Any = "cut", **changes: Any) -> CUT:
    torch.manual_seed(0)
    translator, discriminator = ResnetTranslator(ngf=4, n_blocks=1), PatchDiscriminator(ndf=4, n_layers=2)
    return CUT(translator, discriminator, mode=mode, **{"nce_layers": TAPS, **changes})


def pictures(seed: int = 0, count: int = 2) -> tuple[Tensor, Tensor]:
    a, b = torch.rand(2, count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return a, b


def test_patch_nce_of_all_places_is_the_mean_of_the_formula_over_taps() -> None:
    gan, (a, b) = cut(num_patches=10_000), pictures()
    losses = []
    for number, (k, q) in enumerate(
        zip(gan.translator.features(a, TAPS), gan.translator.features(b, TAPS), strict=True)
    ):
        mlp = gan.translation.projection.get_submodule(f"mlp_{number}")
        keys, queries = (mlp(x.permute(0, 2, 3, 1).flatten(1, 2)) for x in (k, q))
        keys, queries = (x / (x.norm(dim=-1, keepdim=True) + 1e-7) for x in (keys, queries))
        for i in range(len(a)):
            negatives = (queries[i] @ keys[i].T).fill_diagonal_(-10)
            logits = torch.cat([(queries[i] * keys[i]).sum(1, keepdim=True), negatives], 1) / 0.07
            losses.append(F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)))
    expected = torch.stack(losses).mean()  # taps have equal weight, and so have images
    torch.testing.assert_close(gan.translation.nce(a, b, False), expected)


def test_a_mirrored_batch_is_mirrored_back() -> None:
    gan, (a, _) = cut("fastcut", nce_layers=(0,), num_patches=10_000), pictures()
    torch.testing.assert_close(gan.translation.nce(a, a.flip(3), True), gan.translation.nce(a, a, False))
    outputs = [gan.translation((a, a)) for _ in range(20)]
    plain, mirrored = gan.translator(a), gan.translator(a.flip(3))
    assert {out["flipped"] for out in outputs} == {False, True}
    for out in outputs:
        torch.testing.assert_close(out["fake"], mirrored if out["flipped"] else plain)


def test_positions_are_shared_by_query_and_key_and_by_images() -> None:
    """Equal pictures: a query finds itself, so the loss is below that of any other pairing, whatever is drawn."""
    gan, (a, b) = cut(num_patches=8), pictures()
    same = torch.stack([gan.translation.nce(a, a, False) for _ in range(5)])
    other = torch.stack([gan.translation.nce(a, b, False) for _ in range(5)])
    assert float(same.max().detach()) < float(other.min().detach())


@pytest.mark.parametrize(
    ("mode", "weights"),
    [
        ("cut", {"generator/D": 1, "loss/NCE": 0.5, "loss/NCE_Y": 0.5}),
        ("fastcut", {"generator/D": 1, "loss/NCE": 10}),
        ("sincut", {"generator/D": 1, "loss/NCE": 2, "loss/NCE_Y": 2, "loss/identity": 1}),
    ],
)
def test_the_generators_loss_adds_up_as_the_paper_says(mode: str, weights: dict[str, float]) -> None:
    gan = cut(mode)
    history = gan.fit([pictures()], steps=2).history
    expected = sum(weight * history[name] for name, weight in weights.items())
    assert history["loss"] == pytest.approx(expected, rel=1e-5)
    assert {name for name in history if name.startswith(("loss/", "generator/"))} == set(weights)
    assert ("discriminator/D/R1" in history) == (mode == "sincut")


def test_the_discriminators_step_is_half_of_least_squares_against_domain_b() -> None:
    gan, batch = cut(), pictures()
    discriminator = gan.discriminators["D"].module
    with torch.no_grad():
        fake, real = discriminator(gan.translator(batch[0])), discriminator(batch[1])
        expected = 0.5 * (F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(fake, torch.zeros_like(fake)))
        term = gan.discriminators["D"]
        outputs = gan.translation(batch)
        loss, _ = term.discriminator_loss(batch, outputs, term.fake_inputs(batch, outputs))
    torch.testing.assert_close(loss, expected)


def test_generator_projection_and_discriminator_all_move_and_rates_are_the_papers() -> None:
    gan = cut("sincut")
    before = {name: value.clone() for name, value in gan.translation.state_dict().items()}
    gan.fit([pictures()], steps=1)
    moved = {
        name.split(".")[0]
        for name, value in gan.translation.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == {"translator", "projection"}
    assert gan.optimizer.param_groups[0]["lr"] == 2e-3
    assert gan.optimizer.param_groups[0]["betas"] == (0.0, 0.99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "cycle"}, "mode"),
        ({"lambda_nce": 1.0}, "setting"),
        ({"lambda_NCE": float("nan")}, "lambda_NCE"),
        ({"nce_layers": (0, 40)}, "taps"),
        ({"num_patches": 0}, "num_patches"),
        ({"nce_T": 0.0}, "temperature"),
        ({"gan_mode": "vanilla"}, "mode"),
    ],
)
def test_what_has_no_meaning_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cut(**changes)
