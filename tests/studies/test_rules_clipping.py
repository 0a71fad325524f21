"""The verdict rules of p009, p017 and p052 on made-up measurements, and the pieces their measurements stand on."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.studies import Row, Table, load_study
from binderclip.studies import p009_temporal_order as p009
from binderclip.studies import p017_directional_sharpness as p017
from binderclip.studies import p052_agc as p052
from binderclip.studies.study import decide


def of_p009(
    sgd: float = 0.75, clip: float = 0.02, far: float = 0.75, ours_far: float = 0.05, clip_steps: float = 1200.0
) -> Table:
    time = f"batches to an error below 5% (at most {p009.STEPS:,})"
    rows = []
    for seed in range(3):
        errors = {"20-29": (sgd, clip, 0.0), "40-49": (0.75, far, ours_far if seed == 0 else 0.75)}
        for length, values in errors.items():
            rows += [Row("final test error", m, v, length, seed) for m, v in zip(p009.METHODS, values, strict=True)]
        steps = (2000.0, clip_steps, 900.0)
        rows += [Row(time, m, v, "20-29", seed) for m, v in zip(p009.METHODS, steps, strict=True)]
    return Table(rows)


def of_p017(sgd: float = 6.0, clipped: float = 3.0, adam: float = 1.0, loss: float = 3.9) -> Table:
    rows = []
    for seed in range(3):
        sharp = {"SGD": sgd, "SGD clip": clipped, "Adam": adam, "Adam clip": 0.5}
        for step in p017.CHECKPOINTS:
            rows += [Row("directional sharpness", m, v, f"step {step}", seed) for m, v in sharp.items()]
        final = loss if seed else 4.5
        for method, value in (("SGD", 4.0), ("SGD clip", final)):
            rows.append(Row("training loss at the best learning rate", method, value, seed=seed))
    return Table(rows)


def of_p052(agc: float = 0.8, none: float = 0.7, high: float = 0.65) -> Table:
    accuracies = {
        "none": (none, 0.1, 0.1, 0.1),
        "norm 1.0": (0.7, 0.7, 0.1, 0.1),
        "AGC .01": (0.5, 0.5, 0.5, 0.5),
        "AGC .04": (agc, high, 0.1, 0.1),
    }
    return Table(
        Row("test accuracy", method, value, f"learning rate {rate:g}", seed)
        for seed in range(3)
        for method, values in accuracies.items()
        for rate, value in zip(p052.RATES, values, strict=True)
    )


MADE = {"p009": of_p009, "p017": of_p017, "p052": of_p052}


@pytest.mark.parametrize(
    ("paper", "change", "verdict"),
    [
        ("p009", {}, "holds"),
        ("p009", {"sgd": 0.02}, "not shown at this scale"),
        ("p009", {"clip": 0.5}, "not shown at this scale"),
        ("p009", {"ours_far": 0.2}, "not shown at this scale"),
        ("p009", {"far": 0.05}, "not shown at this scale"),
        ("p009", {"clip_steps": 1100.0}, "weak"),
        ("p017", {}, "holds"),
        ("p017", {"sgd": 4.9}, "not shown at this scale"),
        ("p017", {"clipped": 3.1}, "not shown at this scale"),
        ("p017", {"clipped": 0.9}, "not shown at this scale"),
        ("p017", {"sgd": -1.0, "clipped": -2.0, "adam": -3.0}, "not shown at this scale"),
        ("p017", {"adam": -1.0}, "holds"),
        ("p017", {"loss": 4.1}, "weak"),
        ("p052", {}, "holds"),
        ("p052", {"high": 0.59}, "not shown at this scale"),
        ("p052", {"none": 0.81}, "weak"),
        ("p052", {"none": 0.5, "agc": 0.5, "high": 0.5}, "not shown at this scale"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(paper: str, change: dict[str, float], verdict: str) -> None:
    assert decide(load_study(paper).criteria, MADE[paper](**change))[0] == verdict


def test_smart_tanh_starts_as_the_authors_do() -> None:
    net = p009.Recurrent(0)
    # h W has 15 entries a row of W; torch keeps its transpose
    assert ((net.recurrent != 0).sum(0) == 15).all()
    assert float(torch.linalg.eigvals(net.recurrent.detach()).abs().max()) == pytest.approx(0.95, abs=1e-4)
    assert float(net.rnn.weight_ih_l0.detach().std()) == pytest.approx(0.01, rel=0.2)
    assert float(net.head.bias.detach().abs().max()) == 0


def test_the_word_model_looks_only_back_and_starts_at_guessing() -> None:
    net = p017.WordModel(0)
    ids = torch.randint(3, p017.WORDS, (4, p017.CONTEXT + 1))
    assert float(net(ids).detach()) == pytest.approx(math.log(p017.WORDS + 3), rel=0.1)
    # padding behind a prefix must not change the loss of the prefix
    short = ids.clone()
    short[:, 6:] = 0
    other = short.clone()
    logits = []
    net.out.register_forward_hook(lambda module, given, out: logits.append(out[:, :5].detach()))
    net(short)
    other[:, 6:] = 17
    net(other)
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-6)
    captions = p017._captions()
    assert captions.shape[1] == p017.CONTEXT + 1
    assert (captions[:, 0] == 1).all()


def test_agc_of_the_study_leaves_the_classifier_alone() -> None:
    net = p052.network(0)
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    clip = p052.clip_of("AGC .01")
    assert clip is not None
    report = clip(net.named_parameters())
    assert not [name for name in report.names if name.startswith("head.")]
    assert bool((net.head.weight.grad == 1).all())
    assert p052.clip_of("none") is None
