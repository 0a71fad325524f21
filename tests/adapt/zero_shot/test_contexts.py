"""Classes in contexts of p121 (More Context, Less Distraction, arXiv 2308.01313): sentences, rows, files."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from binderclip.adapt import ContextSet, attribute_product, context_sets, read_contexts, scrambled
from binderclip.adapt.zero_shot.contexts import class_sentence, composite_contexts
from binderclip.errors import DataError, UsageError
from binderclip.models import TextBank
from binderclip.models.text.textbank import descriptors

FACTORS = {"place": {"others": [""], "water": ["on water", "in the sea"]}, "age": {"old": ["old"], "any": [""]}}


def row(text: str) -> torch.Tensor:
    return torch.randn(6, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())), dtype=torch.float64)


class Model:
    """Encodes a sentence as noise that depends on nothing else."""

    def text_bank(self, labels: object) -> TextBank:
        wanted = descriptors(labels)  # type: ignore[arg-type]
        texts = [text for own in wanted.values() for text in own]
        owner = torch.tensor([c for c, own in enumerate(wanted.values()) for _ in own])
        return TextBank(list(wanted), texts, torch.stack([row(t) for t in texts]), owner, torch.tensor(30.0))


def test_composites_are_the_product_without_stray_commas() -> None:
    assert composite_contexts(FACTORS) == {
        "others, old": ["old"],
        "others, any": [""],
        "water, old": ["on water, old", "in the sea, old"],
        "water, any": ["on water", "in the sea"],
    }
    assert class_sentence("a photo of a {}", "gull", "on water, old") == "a photo of a gull, on water, old."
    assert class_sentence("a photo of a {}.", "gull", "") == "a photo of a gull."


def test_rows_are_class_major_means_of_unit_phrasings() -> None:
    found = attribute_product(Model(), ["gull", "wren"], FACTORS, noun="bird")
    rows, mask = found.bank.padded()
    assert mask.all()
    assert rows.shape == (2, 4, 6)
    for c, name in enumerate(["gull", "wren"]):
        for z, phrasings in enumerate(composite_contexts(FACTORS).values()):
            unit = [row(class_sentence("a photo of a {}", name, p)).numpy() for p in phrasings]
            mean = np.mean([u / np.linalg.norm(u) for u in unit], axis=0)
            np.testing.assert_allclose(rows[c, z], mean / np.linalg.norm(mean), atol=1e-6)
    plain = row("a photo of a bird.")
    np.testing.assert_allclose(found.free[1], plain / plain.norm(), atol=1e-6)
    assert found.contexts == list(composite_contexts(FACTORS))
    assert float(found.bank.scale) == 30
    assert found.bank.texts[5] == "a photo of a wren."


def test_several_sentences_and_sets_bring_their_own_main() -> None:
    two = attribute_product(Model(), ["gull"], FACTORS, main=["a {}", "the {}"]).bank.padded()[0][0, 1]
    unit = [row(t) / row(t).norm() for t in ("a gull.", "the gull.")]
    want = (unit[0] + unit[1]) / (unit[0] + unit[1]).norm()
    torch.testing.assert_close(two, want)
    celebrity = attribute_product(Model(), ["dark hair"], context_sets()["celeba"])
    assert celebrity.bank.texts[0] == "a photo of a celebrity with dark hair."
    assert len(celebrity.contexts) == 3 * 3 * 4


def test_shipped_sets_are_the_published_ones() -> None:
    assert len(context_sets()["waterbirds"].factors["background"]) == 12
    assert context_sets()["waterbirds-simple"].factors == {"background": {"land": ["on land"], "water": ["on water"]}}
    for entry in context_sets().values():
        assert composite_contexts(entry.factors)
        assert entry.main.count("{}") == 1
        assert entry.source
    assert read_contexts("waterbirds") is context_sets()["waterbirds"]


def test_scrambled_words_keep_their_lengths_only() -> None:
    mixed = scrambled(FACTORS)
    assert mixed == scrambled(FACTORS)
    assert mixed != scrambled(FACTORS, seed=1)
    assert mixed["place"]["others"] == [""]
    assert [len(w) for w in mixed["place"]["water"][1].split()] == [2, 3, 3]
    assert mixed["place"]["water"] != FACTORS["place"]["water"]


def test_files_are_read_and_their_mistakes_named(tmp_path: Path) -> None:
    path = tmp_path / "contexts.json"
    path.write_text(json.dumps(FACTORS))
    assert read_contexts(path) == ContextSet(FACTORS, source=str(path))
    path.write_text(json.dumps({"main": "a {}", "factors": FACTORS}))
    assert read_contexts(path).main == "a {}"
    for text, words in [
        ("{", "is damaged JSON"),
        ("[]", "must hold factor -> value -> phrasings"),
        ('{"place": ["on water"]}', "must hold factor -> value -> phrasings"),
        ('{"place": {"water": "on water"}}', "place: water needs a list of phrasings"),
        ('{"place": {}}', "each at least one value"),
        ('{"main": "a", "factors": {"place": {"water": ["x"]}}}', "main must be a sentence"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read_contexts(path)
    with pytest.raises(UsageError, match=r"neither a context set \(waterbirds, .*\) nor a file"):
        read_contexts("watrbirds")
    for labels, factors, main, words in [
        ([], FACTORS, None, "at least one"),
        (["a"], {}, None, "at least one factor"),
        (["a"], FACTORS, "a bird", "one {} where the class name goes"),
    ]:
        with pytest.raises(UsageError, match=words):
            attribute_product(Model(), labels, factors, main=main)
