"""CLIP's kin of transformers through `load`: features equal the library's own, folders are written and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from binderclip.errors import NotSupported
from binderclip.models import load
from binderclip.models.towers import Record, Recorder

from ..conftest import _hf_config, write_wordpiece

TEXTS = ["a cat", "the photo of a red apple in the game", "dogs"]
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "metaclip_2": ("MetaClip2", {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}, {"projection_dim": 24}),
    "chinese_clip": ("ChineseCLIP", {"pad_token_id": 0}, {"projection_dim": 24}),
    "altclip": ("AltCLIP", {"pad_token_id": 0, "project_dim": 20}, {"projection_dim": 24}),
    # the SigLIP 2 checkpoints of fixed resolution
    "siglip": ("Siglip", {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}, {}),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model of each family with processor and tokenizer."""
    torch.manual_seed(0)
    name, text, more = FAMILIES[request.param]
    config = _hf_config(getattr(transformers, f"{name}Config"), text, {}, **more)
    model = getattr(transformers, f"{name}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    place = tmp_path_factory.mktemp("hf") / request.param
    model.eval().save_pretrained(place)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        place
    )
    return write_wordpiece(place)


def theirs(folder: Path) -> Any:
    name = FAMILIES[folder.name][0]
    return getattr(transformers, f"{name}Model").from_pretrained(folder).eval()


@torch.no_grad()
def test_features_are_the_librarys_own(folder: Path) -> None:
    model, own = load(folder), theirs(folder)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    wanted = own.get_image_features(pixel_values=model.preprocess(pixels))
    assert torch.allclose(model.encode_image(pixels), getattr(wanted, "pooler_output", wanted), atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    length = 11 if folder.name == "altclip" else 12  # RoBERTa's first position is the padding's
    given = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    mask = {} if folder.name == "siglip" else {"attention_mask": given.attention_mask}
    wanted = own.get_text_features(input_ids=given.input_ids, **mask)
    assert torch.allclose(model.encode_text(TEXTS), getattr(wanted, "pooler_output", wanted), atol=1e-5)
    assert model.encode_text(TEXTS[:1]).shape == (1, model.embed_dim)


@torch.no_grad()
def test_towers_equal_the_model(folder: Path) -> None:
    model = load(folder)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(model.image_tower(model.preprocess(pixels)), model.encode_image(pixels), atol=1e-5)
    tower, tokens = model.text_tower, model.tokenize(TEXTS)
    recorder = Recorder(Record("attn"), tower.depth)
    found = tower.project(tower.pool(tower.run(tower.embed(tokens), record=recorder)))
    assert torch.allclose(found, model.encode_text(TEXTS), atol=1e-5)
    assert len(recorder.values) == tower.depth


def test_a_saved_folder_is_read_again(folder: Path, tmp_path: Path) -> None:
    model = load(f"hf:{folder}")
    again = load(model.save(tmp_path / "again"))
    assert again.kind == model.kind
    assert torch.equal(again.encode_text(TEXTS), model.encode_text(TEXTS))
    picture = torch.rand(1, 3, 40, 50)
    assert torch.equal(again.encode_image(picture), model.encode_image(picture))


def test_variable_resolution_says_which_checkpoints_are_right(tmp_path: Path) -> None:
    text = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_patches": 16, "patch_size": 8}
    heads = {"num_attention_heads": 2}
    config = transformers.Siglip2Config(text_config=text | heads, vision_config=vision | heads)
    transformers.Siglip2Model(config).save_pretrained(tmp_path / "naflex")
    with pytest.raises(NotSupported, match=r"NaFlex.*fixed resolution, such as google/siglip2-base-patch16-224"):
        load(tmp_path / "naflex")
