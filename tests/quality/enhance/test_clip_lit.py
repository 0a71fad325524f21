"""CLIP-LIT (p024, arXiv 2303.17569): prompts that tell light, refinement that keeps the order, rounds, mistakes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.fit import FitResult
from binderclip.losses import PromptRank
from binderclip.models import ImageTextModel
from binderclip.quality import CLIPLIT, IlluminationNet, LatentPromptGuidance, LightWords


def pictures(count: int, seed: int, gain: float) -> Tensor:
    return gain * F.interpolate(torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)), (32, 32))


def trainer(model: ImageTextModel, **options: object) -> CLIPLIT:
    torch.manual_seed(0)
    return CLIPLIT(model, network=IlluminationNet(4, level=0.8, std=0.1), **options)  # type: ignore[arg-type]


def vectors(count: int, where: Tensor, seed: int) -> Tensor:
    noise = torch.randn(2, count, 24, generator=torch.Generator().manual_seed(seed))
    return F.normalize(where + 0.1 * noise, dim=-1)  # two views


@pytest.mark.parametrize("latent", [False, True])
def test_prompts_learn_which_end_is_backlit_and_refinement_puts_results_between(
    vit: ImageTextModel, latent: bool
) -> None:
    lit = trainer(vit, guidance=LatentPromptGuidance(24, scale=20.0)) if latent else trainer(vit)
    corners = F.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(4)), dim=1)
    dark, middle, bright = (vectors(12, corner, seed) for seed, corner in enumerate(corners))
    adam = torch.optim.Adam(lit.guidance.parameters(), lr=1e-2)
    lit.fit_prompts(dark, bright, 40, adam)
    with torch.no_grad():
        assert float(lit.guidance.backlit(dark).mean()) > 0.7
        assert float(lit.guidance.backlit(bright).mean()) < 0.3
        before = PromptRank()(torch.stack([lit.guidance.backlit(x[0]) for x in (dark, middle, bright)]))
    lit.refine([dark, middle], bright, 60, adam)
    with torch.no_grad():
        after = PromptRank()(torch.stack([lit.guidance.backlit(x[0]) for x in (dark, middle, bright)]))
    assert float(after.total) < 0.8 * float(before.total)
    assert float(after.metrics["ordered"]) >= float(before.metrics["ordered"])


def test_all_pictures_of_a_tuple_are_seen_through_one_view(
    vit: ImageTextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lit = trainer(vit)
    marked = torch.zeros(3, 3, 5, 24)  # set, view, row; the view and the row stand in the vector
    for view in range(3):
        for row in range(5):
            marked[:, view, row, 0], marked[:, view, row, 1] = view, row
    drawn: list[Tensor] = []

    def backlit(features: Tensor) -> Tensor:
        drawn.append(features)
        return (lit.guidance.vectors[0, 0] * 0 + 1) * features[..., 0]

    monkeypatch.setattr(lit.guidance, "backlit", backlit)
    lit.refine([marked[0], marked[1]], marked[2], 4, torch.optim.Adam(lit.guidance.parameters(), lr=1e-9))
    for batch in drawn:  # (3, b, E)
        assert bool((batch[:, :, 0] == batch[:1, :, 0]).all())  # one view
        assert bool((batch[0, :, 1] == batch[1, :, 1]).all())  # a result beside its own input
    whole = torch.cat(drawn, 1)
    assert len(set(whole[0, :, 0].tolist())) == 3
    assert not torch.equal(whole[0, :, 1], whole[2, :, 1])  # well-lit pictures are others


def test_rounds_alternate_and_words_learn_nothing(vit: ImageTextModel) -> None:
    vit.zero_grad(set_to_none=True)
    dark, bright = pictures(3, 0, 0.3), pictures(4, 1, 1.0)
    settings = {"prompt_steps": 2, "warmup_steps": 2, "steps": 2, "refine_steps": 2, "views": 2, "batch_size": 2}
    lit = trainer(vit)
    said: list[str] = []
    first = lit.guidance.table.detach().clone()  # type: ignore[operator, union-attr]
    done = lit.fit(dark, bright, rounds=2, lr=1e-3, prompt_lr=1e-3, progress=said.append, **settings)  # type: ignore[arg-type]
    assert list(done.stages) == ["prompts", "reconstruction", "enhancement 1", "refinement 1", "enhancement 2"]
    assert done.seconds > 0
    assert said[-1] == "round 2 of 2: the network: step 2 of 2"
    assert not torch.equal(lit.guidance.table, first)  # type: ignore[arg-type]
    assert lit(dark).shape == dark.shape
    assert all(p.grad is None and p.requires_grad for p in vit.parameters())
    words = trainer(vit, guidance=LightWords(vit))
    done = words.fit(dark, bright, rounds=2, lr=1e-3, **settings)  # type: ignore[arg-type]
    assert list(done.stages) == ["reconstruction", "enhancement 1", "enhancement 2"]


def test_later_refinements_put_the_last_two_results_in_order(
    vit: ImageTextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lit, seen = trainer(vit), []

    def refine(falling: list[Tensor], *rest: object, **settings: object) -> FitResult:
        seen.append(falling)
        return FitResult(1, 0.0, 0.0, {})

    monkeypatch.setattr(lit, "refine", refine)
    settings = {"prompt_steps": 1, "warmup_steps": 0, "steps": 1, "refine_steps": 1, "views": 2, "batch_size": 2}
    lit.fit(pictures(3, 0, 0.3), pictures(4, 1, 1.0), rounds=4, lr=1e-2, prompt_lr=1e-3, **settings)  # type: ignore[arg-type]
    assert [len(falling) for falling in seen] == [2, 3, 3]  # inputs, and the results of at most two rounds
    assert all(torch.equal(falling[0], seen[0][0]) for falling in seen)
    # oldest first: the newer result of one refinement is the older one of the next
    assert torch.equal(seen[1][1], seen[0][1])
    assert torch.equal(seen[2][1], seen[1][2])
    assert not torch.equal(seen[2][2], seen[2][1])


def test_mistakes_are_named(vit: ImageTextModel) -> None:
    dark = pictures(2, 0, 0.3)
    with pytest.raises(UsageError, match="rounds must be at least 1"):
        trainer(vit).fit(dark, dark, rounds=0)
    with pytest.raises(UsageError, match=r"well_lit \(2, 3, 32, 20\) must be"):
        trainer(vit).fit(dark, dark[..., :20], rounds=1)


def test_prompts_have_batches_of_their_own(vit: ImageTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    lit, seen = trainer(vit), []
    logits = lit.guidance.logits

    def counted(features: Tensor) -> Tensor:
        seen.append(tuple(features.shape[:-1]))
        return logits(features)

    monkeypatch.setattr(lit.guidance, "logits", counted)
    settings = {"prompt_steps": 1, "warmup_steps": 0, "steps": 1, "refine_steps": 1, "views": 2, "batch_size": 2}
    lit.fit(
        pictures(3, 0, 0.3), pictures(4, 1, 1.0), rounds=2, prompt_batch_size=6, lr=1e-4, prompt_lr=1e-4, **settings
    )  # type: ignore[arg-type]
    # Three of either kind; two results; six inputs, results and well-lit ones each; two results.
    assert seen == [(6,), (2,), (3, 6), (2,)]
