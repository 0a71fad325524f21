"""Whole pictures through a translator (beside p124), and the folders that keep one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from binderclip.errors import CheckpointError, UsageError
from binderclip.generate import FenceCleaner, ResnetTranslator, load_translator, save_cleaner, save_translator
from binderclip.generate.translate.translating import translate_picture


def tiny() -> ResnetTranslator:
    torch.manual_seed(0)
    return ResnetTranslator(ngf=2, n_blocks=1).eval()


@pytest.mark.parametrize("size", [(12, 16), (1, 300), (9, 7), (1, 1)])
def test_a_picture_keeps_its_size_and_is_what_the_network_says(size: tuple[int, int]) -> None:
    net, picture = tiny(), torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
    made = translate_picture(net, picture)
    assert made.shape == picture.shape
    assert bool(((made >= 0) & (made <= 1)).all())
    if size == (12, 16):
        assert torch.allclose(made, (net(2 * picture[None] - 1)[0] + 1) / 2)
    assert translate_picture(net, picture, longest=8).shape[1:] == tuple(
        max(1, round(side * min(1.0, 8 / max(size)))) for side in size
    )


def test_a_saved_translator_does_the_same_and_others_are_refused(tmp_path: Path) -> None:
    net = tiny()
    folder = save_translator(net, tmp_path / "net", {"method": "cut"})
    again, card = load_translator(folder)
    picture = torch.rand(3, 12, 8)
    assert card["method"] == "cut"
    assert torch.equal(translate_picture(net, picture), translate_picture(again, picture))
    other = save_cleaner(FenceCleaner(widths=(2,)), tmp_path / "cleaner")
    for wrong, words in ((other, "kind 'fence'"), (tmp_path / "nowhere", "there is no folder")):
        with pytest.raises(CheckpointError, match=words):
            load_translator(wrong)
    card_file = folder / "card.json"
    document = json.loads(card_file.read_text(encoding="utf-8"))
    card_file.write_text(json.dumps({**document, "settings": {"ngf": 3}}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="another network"):
        load_translator(folder)
    card_file.write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not of"):
        load_translator(folder)
    with pytest.raises(UsageError, match="longest"):
        translate_picture(net, picture, longest=4)
