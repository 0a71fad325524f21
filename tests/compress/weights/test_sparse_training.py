"""Sparse training of p097 (arXiv 2402.04744) as a user does it: towers, `fit`, phases, and the way out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from binderclip.compress import (
    SRSTE,
    HardMask,
    MaskDecay,
    NMMask,
    SparseTraining,
    StraightThrough,
    StructureDecay,
    finalize_sparse,
    is_nm,
    nm_mask,
)
from binderclip.errors import UsageError
from binderclip.fit import fit


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def batches(count: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 6, generator=g), torch.randint(3, (8,), generator=g)) for _ in range(count)]


def train(model: nn.Module, steps: int = 12, **options) -> None:
    fit(lambda b: F.cross_entropy(model(b[0]), b[1]), model, batches(), steps=steps, lr=0.05, **options)


def test_straight_through_is_a_hand_written_loop() -> None:
    ours = net()
    sparse = SparseTraining(ours, NMMask(1, 4), StraightThrough())
    sgd = {"name": "sgd", "momentum": 0.0}
    train(ours, 6, optimizer=sgd, schedule="constant", callbacks=[sparse])
    theirs = net()
    dense = theirs[2].weight.detach().clone()
    for x, y in (*batches(), *batches()[:2]):
        theirs[2].weight.data = dense * nm_mask(dense, 1, 4)
        theirs.zero_grad()
        F.cross_entropy(theirs(x), y).backward()
        dense -= 0.05 * theirs[2].weight.grad
        for index in (0, 4):
            for parameter in theirs[index].parameters():
                parameter.data -= 0.05 * parameter.grad
        theirs[2].bias.data -= 0.05 * theirs[2].bias.grad
    assert torch.allclose(sparse.finalize()[2].weight, dense * nm_mask(dense, 1, 4), atol=1e-6)
    assert torch.allclose(ours[0].weight, theirs[0].weight, atol=1e-6)


def test_the_dense_phase_is_plain_training_and_the_others_follow_it() -> None:
    plain, faded = net(), net()
    train(plain, 4, schedule="constant")
    sparse = SparseTraining(faded, NMMask(1, 4), MaskDecay("linear"), dense=0.4, finish=0.2)
    seen = []

    class Watch:
        def before_step(self, step: int) -> None:
            seen.append(round(float(sparse.weights["2"].coefficients[0]), 4))
            if step == 4:
                kept.append(faded[2].parametrizations.weight.original.detach().clone())

    kept: list[torch.Tensor] = []
    train(faded, 10, schedule="constant", callbacks=[sparse, Watch()])
    # 4 dense steps; 4 fading ones, which reach 0 after 0.6 of them; 2 with the plain mask
    assert seen == pytest.approx([1, 1, 1, 1, 1, 1 - 1 / 2.4, 1 - 2 / 2.4, 0, 0, 0], abs=1e-4)
    other = net()
    train(other, 3, schedule="constant")
    assert torch.equal(kept[0], other[2].weight)


def test_structure_tightens() -> None:
    model = net()
    sparse = SparseTraining(model, StructureDecay(1, 8, "stepwise"), StraightThrough(), finish=0.2)
    shares = []
    train(model, 10, callbacks=[sparse, type("Watch", (), {"before_step": lambda _, s: shares.append(
        sparse.report().layers["2"])})()])  # fmt: skip
    assert shares == [1 / 8, 1 / 8, 1 / 2, 1 / 2, 3 / 4, 3 / 4, 7 / 8, 7 / 8, 7 / 8, 7 / 8]


def test_a_run_that_goes_on_is_the_run_that_was_not_cut(tmp_path) -> None:
    def run(steps: list[int], folder) -> torch.Tensor:
        for count in steps:
            model = net()
            sparse = SparseTraining(model, StructureDecay(1, 8), MaskDecay("exp"), dense=0.2)
            stop = type("Stop", (), {"after_step": lambda _, done, count=count: done == count})()
            train(model, 10, callbacks=[sparse, stop], checkpoint=str(folder))
        return sparse.finalize()[2].weight

    from binderclip.fit import Checkpoint

    whole = run([10], tmp_path / "whole")
    model = net()
    sparse = SparseTraining(model, StructureDecay(1, 8), MaskDecay("exp"), dense=0.2)
    stop = type("Stop", (), {"after_step": lambda _, done: done == 5})()
    train(model, 10, callbacks=[sparse, stop], checkpoint=Checkpoint(tmp_path / "cut", every=5))
    assert torch.equal(run([10], tmp_path / "cut"), whole)


@pytest.mark.parametrize("kind", ["rounds", "once", "thresholds"])
def test_a_run_cut_where_its_masks_change_is_the_run_that_was_not_cut(kind: str, tmp_path) -> None:
    """With a constant loss, every=10 and patience=3 the first round comes after step 40, wherever the run is cut."""
    from binderclip.compress import AutoSparse, GradualPruner, MaskedGradient, OneShotPruner
    from binderclip.fit import Checkpoint

    def run(folder: str, until: int = 60) -> tuple[list, list[int]]:
        model, evaluated, counts = net(), [], []
        if kind == "rounds":
            sparse: SparseTraining = GradualPruner(
                model, lambda: evaluated.append(None) or 1.0, every=10, patience=3, target=0.5
            )
        elif kind == "once":
            sparse = OneShotPruner(model, 0.5, at=1 / 3)
        else:
            sparse = AutoSparse(model, MaskedGradient(freeze=1 / 3), threshold=-3.0)
        stop = type("Stop", (), {"after_step": lambda _, done: counts.append(
            (done, len(evaluated), int((~sparse.masks["2"]).sum()))) or done == until})()  # fmt: skip
        checkpoint = Checkpoint(tmp_path / folder, every=10)
        train(model, 60, callbacks=[sparse, stop], checkpoint=checkpoint)
        evaluated.append(None)
        state = sparse.state_dict() if kind == "rounds" else {}
        return counts, [*model.state_dict().values(), state]

    counts, (*tensors, state) = run("whole")
    if kind == "rounds":
        assert [done for done, _, pruned in counts if pruned] == list(range(40, 61))
    for cut in (20, 30, 40):
        run(str(cut), cut)
        rest, (*others, after) = run(str(cut))
        assert rest[0][0] == cut + 1
        assert rest[0][1] == 0  # nothing is evaluated before a step is done
        seen = counts[cut - 1][1]
        assert [(done, number + seen, pruned) for done, number, pruned in rest] == counts[cut:]
        assert after == state
        assert all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


def test_pruned_weights_stay_zero_under_momentum_and_decay() -> None:
    model = net()
    sparse = SparseTraining(model, NMMask(2, 4), HardMask())
    sparse.on_start(0, 100)
    sparse.renew()
    before = sparse.masks["2"].clone()
    sparse.weights["2"].frozen = True
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for x, y in batches() * 3:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        assert model[2].weight[~before].eq(0).all()
    assert torch.equal(sparse.masks["2"], before)


def test_the_way_out_is_a_plain_model_or_torchs_convention() -> None:
    model = net()
    keys = set(model.state_dict())
    sparse = SparseTraining(model, NMMask(2, 4), SRSTE())
    train(model, callbacks=[sparse])
    x = torch.randn(5, 6)
    other = copy.deepcopy(sparse)
    model.eval()
    pruned = model(x)
    plain = sparse.finalize()
    assert set(plain.state_dict()) == keys
    assert type(plain[2]) is nn.Linear
    assert torch.equal(plain(x), pruned)
    assert is_nm(plain[2].weight, 2, 4)
    theirs = other.to_torch_prune()
    assert prune.is_pruned(theirs[2])
    assert torch.equal(theirs[2].weight_mask.bool(), sparse.masks["2"])
    assert torch.allclose(theirs(x), pruned)
    prune.remove(theirs[2], "weight")
    assert torch.equal(theirs[2].weight, plain[2].weight)
    with pytest.raises(UsageError, match="before"):
        sparse.finalize()


def test_zeros_are_counted_as_torchs_pruning_counts_them() -> None:
    model = net()
    sparse = SparseTraining(model, NMMask(1, 4), StraightThrough(), layers=["0", "2"])
    sparse.on_start(0, 1)
    sparse.renew()
    report, plain = sparse.report(), sparse.finalize()
    zeros = {name: int((plain[int(name)].weight == 0).sum()) for name in ("0", "2")}
    assert report.layers == {"0": zeros["0"] / 96, "2": zeros["2"] / 256}
    assert report.prunable == sum(zeros.values()) / 352
    assert report.total == sum(zeros.values()) / sum(p.numel() for p in plain.parameters())


def test_an_average_of_the_weights_has_the_masks() -> None:
    model = net()
    sparse = SparseTraining(model, NMMask(2, 4), MaskDecay(), finish=0.2)
    result = fit(
        lambda b: F.cross_entropy(model(b[0]), b[1]), model, batches(), steps=10, lr=0.05, ema=0.5, callbacks=[sparse]
    )
    average = result.ema.module.eval()
    assert is_nm(average[2].weight, 2, 4)
    pruned = average(torch.ones(1, 6))
    sparse.finalize()  # which leaves the copy as it is
    assert torch.equal(finalize_sparse(average)(torch.ones(1, 6)), pruned)
    assert type(average[2]) is nn.Linear
    with pytest.raises(UsageError, match="no layer"):
        finalize_sparse(average)


def test_a_tower_of_a_clip_is_trained_sparse() -> None:
    from binderclip.models import load

    clip = load("small")
    dense = [n for n, m in clip.named_modules() if isinstance(m, nn.Linear) and "blocks." in n]
    assert any("attn.qkv" in name for name in dense)
    assert any("text" in name and "attn.out_proj" in name for name in dense)
    sparse = SparseTraining(clip, NMMask(2, 4), SRSTE(), layers=dense)
    sparse.on_start(0, 4)
    clip.train()
    images = torch.rand(2, 3, 64, 64)
    texts = ["a heart", "a clock"]
    (clip.encode_image(images).sum() + clip.encode_text(texts).sum()).backward()
    shares = sparse.report().layers
    assert all(shares[name] == 0.5 for name in dense)
    for name in dense:
        assert sparse.layers[name].parametrizations.weight.original.grad.abs().sum() > 0
    clip.eval()
    with torch.no_grad():
        before = clip.encode_image(images), clip.encode_text(texts)
        sparse.finalize()
        for ours, theirs in zip((clip.encode_image(images), clip.encode_text(texts)), before, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)


def test_layers_that_cannot_be_pruned_are_refused() -> None:
    model = net()
    with pytest.raises(UsageError, match="named like 'mlp"):
        SparseTraining(model, NMMask(2, 4), SRSTE(), layers=["mlp.*"])
    with pytest.raises(UsageError, match="first and the last"):
        SparseTraining(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), NMMask(2, 4), SRSTE())
    for shares in ({"dense": 1.0}, {"dense": float("nan")}, {"dense": 0.6, "finish": 0.4}, {"finish": -0.1}):
        with pytest.raises(UsageError):
            SparseTraining(model, NMMask(2, 4), SRSTE(), **shares)
    tied = net()
    tied[0] = nn.Linear(16, 16)
    tied[0].weight = tied[2].weight
    with pytest.raises(UsageError, match="shared"):
        SparseTraining(tied, NMMask(2, 4), SRSTE())
    broken = net()
    broken[2].weight.data[0, 0] = float("nan")
    with pytest.raises(UsageError, match="NaN"):
        SparseTraining(broken, NMMask(2, 4), SRSTE())
    SparseTraining(model, NMMask(2, 4), SRSTE())
    with pytest.raises(UsageError, match="already"):
        SparseTraining(model, NMMask(2, 4), SRSTE())
