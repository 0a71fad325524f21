"""8-bit model folders: rounding stays within its bound, the text tower comes from the neighbour, errors say where."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from binderclip.errors import CheckpointError, UsageError
from binderclip.models import load
from binderclip.models.files.compact import SCALE, compact_state, dequantise, quantise
from binderclip.train.bundled.data.corpus import Corpus, build_tokenizer
from binderclip.train.bundled.second import compact_without_text
from binderclip.train.bundled.small import write_open_clip_folder

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 1, "head_width": 32},
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 40,
            "width": 32,
            "heads": 2,
            "layers": 1,
            "hf_tokenizer_name": "tokenizer.json",
        },
    },
    "preprocess_cfg": {},
}


def test_rounding_is_at_most_half_a_step_of_its_channel() -> None:
    torch.manual_seed(0)
    value = torch.randn(32, 8, 3, 3) * torch.logspace(-3, 1, 32).view(-1, 1, 1, 1)
    packed = quantise({"weight": value, "bias": torch.randn(32)})
    assert packed["weight"].dtype == torch.int8
    assert packed["bias"].dtype == torch.float16
    back = dequantise(packed)["weight"]
    step = value.flatten(1).abs().amax(1) / 127
    # Half a step, and the float16 rounding of the step itself (2^-11) times 127 steps.
    bound = step * (0.5 + 127 * 2**-11) + 1e-9
    assert bool(((back - value).flatten(1).abs().amax(1) <= bound).all())


def test_small_tensors_keep_half_precision_and_bad_numbers_are_refused() -> None:
    assert quantise({"w": torch.ones(4, 4)})["w"].dtype == torch.float16
    with pytest.raises(UsageError, match="finite"):
        quantise({"w": torch.tensor([float("nan")])})
    with pytest.raises(CheckpointError, match="scale"):
        dequantise({"w": torch.ones(64, 64, dtype=torch.int8)})


def folder_pair(tmp_path: Path) -> tuple[Path, Path]:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(Corpus(("a cat", "a dog", "the house and the tree"), 3), size=40, context=8)
    size = {"vocab_size": tokenizer.get_vocab_size()}
    config = {
        **CONFIG,
        "model_cfg": {**CONFIG["model_cfg"], "text_cfg": {**CONFIG["model_cfg"]["text_cfg"], **size}},  # type: ignore[dict-item]
    }
    cfg = config["model_cfg"]
    first = open_clip.model.CustomTextCLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"])
    write_open_clip_folder(first, tokenizer, tmp_path / "one", card={}, config=config)
    second = tmp_path / "two"
    second.mkdir()
    (second / "open_clip_config.json").write_text(
        json.dumps({**config, "binderclip": {"weights": "int8", "text_tower": "one"}})
    )
    other = open_clip.model.CustomTextCLIP(cfg["embed_dim"], cfg["vision_cfg"], cfg["text_cfg"])
    own = {name: value for name, value in other.state_dict().items() if not name.startswith("text.")}
    save_file(quantise(own), second / "open_clip_model.safetensors")
    return tmp_path / "one", second


def test_load_shares_the_text_tower_and_its_tokenizer(tmp_path: Path) -> None:
    one, two = (load(folder) for folder in folder_pair(tmp_path))
    assert torch.equal(one.encode_text(["a cat", "tree"]), two.encode_text(["a cat", "tree"]))
    images = torch.rand(2, 3, 32, 32)
    assert not torch.allclose(one.encode_image(images), two.encode_image(images))


def test_a_missing_neighbour_and_an_unknown_storage_are_named(tmp_path: Path) -> None:
    _, two = folder_pair(tmp_path)
    weights = two / "open_clip_model.safetensors"
    with pytest.raises(CheckpointError, match="three"):
        compact_state(two, weights, {"text_tower": "three"})
    with pytest.raises(CheckpointError, match="int2"):
        compact_state(two, weights, {"weights": "int2"})
    assert not any(name.endswith(SCALE) for name in compact_state(two, weights, {"text_tower": "one"}))


def test_a_finished_folder_is_made_compact(tmp_path: Path) -> None:
    one, _ = folder_pair(tmp_path)
    small = compact_without_text(one, tmp_path / "small-b", text_tower="one")
    whole, compact = load(one), load(small)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cosine = torch.cosine_similarity(whole.encode_image(images), compact.encode_image(images))
    assert cosine.min() > 0.999
    assert torch.equal(whole.encode_text(["a cat"]), compact.encode_text(["a cat"]))
    weights = "open_clip_model.safetensors"
    assert (small / weights).stat().st_size < 0.6 * (one / weights).stat().st_size
