"""TextBank against loops over single sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.models.text.textbank import TextBank, descriptors
from binderclip.similarity.hubness import CSLS


def make(counts: dict[str, int], width: int = 6, seed: int = 0, **more) -> TextBank:
    generator = torch.Generator().manual_seed(seed)
    names = list(counts)
    owner = torch.tensor([c for c, name in enumerate(names) for _ in range(counts[name])])
    raw = (
        torch.randn(len(owner), width, generator=generator, dtype=torch.float64)
        * torch.arange(1, len(owner) + 1)[:, None]
    )
    return TextBank(names, [f"s{q}" for q in range(len(owner))], raw, owner, torch.tensor(10.0), **more)


@pytest.fixture
def bank() -> TextBank:
    return make({"cat": 2, "dog": 1, "car": 3})


def loop(bank: TextBank, rule: str) -> torch.Tensor:
    rows = []
    for c in range(len(bank)):
        own = [bank.raw[q] for q in range(len(bank.texts)) if bank.owner[q] == c]
        if rule == "mean-raw-unit":
            mean = sum(own) / len(own)
            rows.append(mean / mean.norm())
        else:
            mean = sum(v / v.norm() for v in own) / len(own)
            rows.append(mean / mean.norm() if rule == "mean-unit" else mean)
    return torch.stack(rows)


@pytest.mark.parametrize("rule", ["mean-unit", "mean", "mean-raw-unit"])
def test_prototypes_are_the_formula(bank: TextBank, rule) -> None:
    torch.testing.assert_close(bank.prototypes(rule), loop(bank, rule))


def test_rules_differ_and_mean_is_the_mean_of_cosines(bank: TextBank) -> None:
    assert (bank.prototypes("mean-unit") - bank.prototypes("mean-raw-unit")).abs().max() > 0.01
    x = torch.nn.functional.normalize(torch.randn(3, 6, dtype=torch.float64), dim=-1)
    rows, mask = bank.padded()
    cosines = torch.einsum("ne,cke->nck", x, rows)
    torch.testing.assert_close(x @ bank.prototypes("mean").T, cosines.sum(-1) / mask.sum(-1))


def test_padded_holds_every_sentence_once(bank: TextBank) -> None:
    rows, mask = bank.padded()
    assert rows.shape == (3, 3, 6)
    assert mask.sum(dim=1).tolist() == [2, 1, 3]
    assert bool((rows[~mask] == 0).all())
    torch.testing.assert_close(rows[mask], bank.unit)
    torch.testing.assert_close(bank.unit * bank.norms[:, None], bank.raw)


def test_padded_with_owners_in_any_order() -> None:
    bank = make({"a": 2, "b": 2})
    mixed = TextBank(["a", "b"], bank.texts, bank.raw, torch.tensor([1, 0, 1, 0]), torch.tensor(1.0))
    rows, mask = mixed.padded()
    assert bool(mask.all())
    torch.testing.assert_close(rows[0], mixed.unit[[1, 3]])
    torch.testing.assert_close(rows[1], mixed.unit[[0, 2]])


@pytest.mark.parametrize("rule", ["mean-unit", "mean", "mean-raw-unit"])
def test_offsets_are_what_csls_takes_off(bank: TextBank, rule) -> None:
    """v times the mean cosine to the three nearest references, of each row by a loop."""
    references = torch.nn.functional.normalize(torch.randn(8, 6, dtype=torch.float64), dim=-1)
    geometry = CSLS(references, neighbours=3, text_weight=0.4).double()
    held = replace(bank, geometry=geometry)

    def taken(row: torch.Tensor) -> float:
        return 0.4 * sum(sorted(float(row @ r) for r in references)[-3:]) / 3

    each = torch.tensor([taken(row) for row in bank.unit], dtype=torch.float64)
    classes = [each[bank.owner == c].mean() for c in range(3)] if rule == "mean" else map(taken, loop(bank, rule))
    torch.testing.assert_close(held.offsets(rule), torch.tensor(list(map(float, classes)), dtype=torch.float64))
    _, mask = held.padded()
    torch.testing.assert_close(held.padded_offsets()[mask], each)
    assert not held.padded_offsets()[~mask].any()
    assert not bank.offsets(rule).any()


def test_logits_scale_bias_and_length(bank: TextBank) -> None:
    x = torch.randn(4, 6, dtype=torch.float64)
    want = 10 * torch.nn.functional.cosine_similarity(x[:, None], bank.prototypes()[None], dim=-1)
    torch.testing.assert_close(bank.logits(x), want)
    torch.testing.assert_close(bank.logits(5 * x), want)
    torch.testing.assert_close(bank.logits(x, scale=1.0), want / 10)
    biased = make({"cat": 2, "dog": 1, "car": 3}, bias=torch.tensor(-2.0))
    torch.testing.assert_close(biased.logits(x), want - 2)
    with pytest.raises(UsageError, match="width"):
        bank.logits(torch.randn(2, 5))


def test_extend_is_building_at_once_and_leaves_old_rows(bank: TextBank) -> None:
    other = make({"sky": 2, "sea": 1}, seed=1, background_names=("sky",))
    both = bank.extend(other)
    assert both.names == ["cat", "dog", "car", "sky", "sea"]
    torch.testing.assert_close(both.prototypes(), torch.cat([bank.prototypes(), other.prototypes()]))
    assert torch.equal(both.raw[: len(bank.texts)], bank.raw)
    assert both.background.tolist() == [False, False, False, True, False]
    with pytest.raises(UsageError, match="'cat'"):
        bank.extend(make({"cat": 1}))
    with pytest.raises(UsageError, match="width"):
        bank.extend(make({"sky": 1}, width=5))


def test_align_reorders_and_refuses_a_mismatch(bank: TextBank) -> None:
    order = ["car", "cat", "dog"]
    torch.testing.assert_close(bank.align(order).prototypes(), bank.prototypes()[[2, 0, 1]])
    assert bank.align(order).names == order
    with pytest.raises(UsageError, match=r"missing from the text bank: \['bus'\]"):
        bank.align(["car", "cat", "dog", "bus"])
    with pytest.raises(UsageError, match=r"only in the text bank: \['dog'\]"):
        bank.align(["car", "cat"])
    with pytest.raises(UsageError, match="twice"):
        bank.align(["car", "cat", "dog", "dog"])


def test_select_takes_a_part(bank: TextBank) -> None:
    part = bank.select(["car"])
    assert part.texts == ["s3", "s4", "s5"]
    torch.testing.assert_close(part.prototypes(), bank.prototypes()[2:])
    with pytest.raises(UsageError, match="'bus'"):
        bank.select(["bus"])


def test_a_bank_that_does_not_add_up_is_refused() -> None:
    raw = torch.randn(2, 4)
    with pytest.raises(UsageError, match="one row"):
        TextBank(["a"], ["x"], raw, torch.tensor([0, 0]), 1.0)
    with pytest.raises(UsageError, match="at least one sentence"):
        TextBank(["a", "b"], ["x", "y"], raw, torch.tensor([0, 0]), 1.0)
    with pytest.raises(UsageError, match="twice"):
        TextBank(["a", "a"], ["x", "y"], raw, torch.tensor([0, 1]), 1.0)
    with pytest.raises(UsageError, match="rule"):
        make({"a": 1}).prototypes("median")  # type: ignore[arg-type]


def test_descriptors() -> None:
    assert descriptors(["cat", "dog"]) == {"cat": ["cat"], "dog": ["dog"]}
    assert descriptors(["{x}"], "a {}.") == {"{x}": ["a {x}."]}
    two = descriptors({"cat": ["cat", "kitten"]}, ["a {}", "the {}"])
    assert two == {"cat": ["a cat", "the cat", "a kitten", "the kitten"]}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "empty"),
        ("cat", "list"),
        (["cat", "cat"], "'cat'"),
        (["cat", " "], "' '"),
        (["cat", 3], "3"),
        ({"cat": []}, "'cat'"),
        ({"cat": "kitten"}, "list"),
        ({"cat": [""]}, "non-empty"),
    ],
)
def test_bad_labels_are_named(labels, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        descriptors(labels)
