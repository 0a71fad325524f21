from __future__ import annotations

import shutil
from pathlib import Path

import open_clip
import pytest

from binderclip.models import bundled_cards, list_models, load
from binderclip.models.files import registry


def test_open_clip_names_can_be_filtered() -> None:
    names = list_models()
    assert "open_clip:ViT-B-32/openai" in names
    assert len(names) >= len(open_clip.list_pretrained())
    assert all("siglip" in name.lower() for name in list_models("SigLIP"))
    assert list_models("open_clip:ViT-B-32/o*") == ["open_clip:ViT-B-32/openai"]
    assert "open_clip:ViT-B-32" in list_models(pretrained=False)
    assert list_models("no such model") == []


def test_bundled_come_first_with_their_facts(
    clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("abc", "small"):
        shutil.copytree(clip_folder, tmp_path / name)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / registry.CONFIG).write_text("{}")
    (tmp_path / "small" / "card.json").write_text('{"summary": "the default", "parameters": -1}')
    monkeypatch.setattr(registry, "BUNDLED", tmp_path)
    assert list_models()[:2] == ["small", "abc"]
    cards = bundled_cards()
    assert cards["small"]["summary"] == "the default"
    assert cards["small"]["parameters"] == sum(p.numel() for p in load(clip_folder).parameters())
    assert cards["abc"]["megabytes"] == round((clip_folder / registry.WEIGHTS).stat().st_size / 1e6, 1)


def test_cards_that_cannot_be_read_are_empty(tmp_path: Path) -> None:
    assert registry.read_card(tmp_path) == {}
    (tmp_path / "card.json").write_text("[1]")
    assert registry.read_card(tmp_path) == {}
