"""`binderclip heads` (p085) through the real entry point on a tiny folder, and its mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binderclip.models import build

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two blocks of four heads."""
    import torch

    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 2, "width": 48, "head_width": 12, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model = build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, name="tiny")
    return model.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("a red picture\n\na cat\na beach\na cat\na round shape\n", encoding="utf-8")
    return path


def test_heads_of_a_folder_with_the_installed_program(program, tiny, pictures, tmp_path) -> None:
    words, page = tmp_path / "words.txt", tmp_path / "heads.html"
    words.write_text("a red picture\na cat\na beach\na round shape\n", encoding="utf-8")
    done = program("heads", tiny, "--images", pictures, "--texts", words, "--out", page, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "8 heads, 4 pictures" in done.out
    assert "explained" in done.out
    assert str(page.name) in done.err
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/png") >= 4
    assert '"http' not in text, "the page must be readable without a network"


def test_the_document_says_what_the_table_says(command, tiny, words, pictures, broken, tmp_path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for path in [*pictures.rglob("*.jpg"), broken]:
        (folder / path.name).write_bytes(path.read_bytes())
    found = command("heads", tiny, "-i", folder, "-t", words, "--blocks", "1", "--json", "--no-report").json()
    assert (found["images"], found["texts"], found["report"]) == (4, 4, None)
    assert [Path(entry["image"]).name for entry in found["skipped"]] == ["broken.png"]
    assert [head["block"] for head in found["heads"]] == [1] * 4
    assert sorted(head["head"] for head in found["heads"]) == [0, 1, 2, 3]
    assert sum(head["share"] for head in found["heads"]) == pytest.approx(1, abs=1e-6)
    for head in found["heads"]:
        assert {entry["text"] for entry in head["texts"]} <= {"a red picture", "a cat", "a beach", "a round shape"}
        assert head["explained"] == pytest.approx(sum(entry["explained"] for entry in head["texts"]), abs=1e-6)
        assert head["explained"] <= head["principal_components_explain"] + 1e-6
        assert len(head["images"]) == 4
    roles = {entry["text"]: entry["role"] for head in found["heads"] for entry in head["texts"]}
    assert roles.get("a cat", "animal") == "animal"
    assert roles.get("a beach", "place") == "place"
    assert not (tmp_path / "heads.html").exists()


def test_a_model_without_attention_is_refused_with_what_would_work(command, pictures, words) -> None:
    done = command("heads", "small-b", "-i", pictures, "-t", words, "--no-report")
    assert done.code != 0
    assert "small-b has no attention heads" in done.err
    assert "supported: timm Eva, and VisionTransformer" in " ".join(done.err.split())


def test_mistakes_are_named(command, tiny, words, pictures, tmp_path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n", encoding="utf-8")
    (tmp_path / "nothing").mkdir()
    for given, said in [
        (["-t", empty], "holds no text: give at least two"),
        (["-t", tmp_path / "missing.txt"], "there is no such file"),
        (["-i", tmp_path / "nothing"], "no images in"),
        (["-i", "openmojis"], "there is no such folder, and named sets are"),
        (["-i", pictures / "cat.jpg"], "one picture shows no variation"),
        (["-o", tmp_path / "no" / "x.html"], "there is no folder"),
    ]:
        done = command("heads", tiny, *(["-i", pictures] if given[0] != "-i" else []), *given)
        assert done.code != 0, given
        assert said in done.err, (given, done.err)


def test_texts_are_read_without_what_gradients_need(command, tiny, words, pictures, monkeypatch) -> None:
    """2,254 texts of a ViT-B-32 with gradients take 50 GB."""
    import torch

    from binderclip.models import ImageTextModel

    seen, own = [], ImageTextModel.encode_text

    def watched(self, texts, **options):
        seen.append(torch.is_grad_enabled())
        return own(self, texts, **options)

    monkeypatch.setattr(ImageTextModel, "encode_text", watched)
    assert command("heads", tiny, "-i", pictures, "-t", words, "--no-report").code == 0
    assert seen
    assert not any(seen)
