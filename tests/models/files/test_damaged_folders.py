"""Model folders with wrong values in them: one short error at load, whatever the library behind stumbles over."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from binderclip.errors import CheckpointError, NotSupported
from binderclip.models import build, load

from ..conftest import tiny_cfg

Copy = Callable[[str], Path]


@pytest.fixture
def copy(tmp_path: Path, clip_folder: Path, siglip_folder: Path, hf_clip_folder: Path) -> Copy:
    """`copy("clip" | "siglip" | "hf")`: a model folder to be damaged."""
    folders = {"clip": clip_folder, "siglip": siglip_folder, "hf": hf_clip_folder}
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / name))


def change(path: Path, place: str, value: Any) -> None:
    """Write `value` at `a.b.c` of a JSON file; at "" instead of all of it."""
    document = json.loads(path.read_text())
    *above, last = place.split(".")
    inner = document
    for key in above:
        inner = inner[key]
    if last:
        inner[last] = value
    path.write_text(json.dumps(document if last else value))


def weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        load(folder)
    assert len(str(caught.value)) < 400 + len(str(folder))


OPEN_CLIP = [
    ("", [], "must be an object"),
    ("", None, "must be an object"),
    ("model_cfg", 5, "'model_cfg' in .* must be an object"),
    ("model_cfg.vision_cfg", -3, "'model_cfg.vision_cfg' in .* and is -3"),
    ("model_cfg.vision_cfg", None, "'model_cfg.vision_cfg'"),
    ("model_cfg.text_cfg", [1], "'model_cfg.text_cfg'"),
    ("model_cfg.vision_cfg.layers", [1], "cannot build this model_cfg"),
    ("model_cfg.vision_cfg.image_size", "x", "cannot build this model_cfg"),
    ("model_cfg.text_cfg.context_length", None, "cannot build this model_cfg"),
    ("model_cfg.embed_dim", "many", "cannot build this model_cfg"),
    ("model_cfg.text_cfg.width", 32, "does not fit"),
    ("preprocess_cfg", 0, "'preprocess_cfg'"),
    ("preprocess_cfg.mean", [], "cannot be used"),
    ("preprocess_cfg.std", {}, "cannot be used"),
    ("preprocess_cfg.resize_mode", True, "resize_mode"),
    ("preprocess_cfg.background", True, "cannot be used"),
    ("model_cfg.text_cfg.eos_id", [], "eos_id is \\[\\]"),
]


@pytest.mark.parametrize(("place", "value", "match"), OPEN_CLIP)
def test_values_of_open_clips_configuration(copy: Copy, place: str, value: Any, match: str) -> None:
    folder = copy("siglip")
    change(folder / "open_clip_config.json", place, value)
    refused(folder, match)


STRICT, DYNAMIC = "test_vit3", "test_vit"
"""Tiny trunks of timm at 160 pixels: the one takes no others, the other all multiples of its patch of 16."""


@pytest.fixture(params=[STRICT, DYNAMIC])
def timm_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model whose image tower is one of these trunks."""
    vision = {"timm_model_name": request.param, "timm_pool": "avg", "timm_proj": "linear", "image_size": 160}
    return build(tiny_cfg() | {"vision_cfg": vision}, name="tiny").save(tmp_path / str(request.param))


@pytest.mark.parametrize("size", [144, 170, [160, 176], "x", 0, [160, 160, 160]])
def test_a_size_of_pictures_that_timms_trunk_does_not_take(timm_folder: Path, size: Any) -> None:
    config, trunk = timm_folder / "open_clip_config.json", timm_folder.name
    change(config, "model_cfg.vision_cfg.image_size", size)
    if trunk == DYNAMIC and size in (144, [160, 176]):
        model = load(timm_folder)
        sides = (size, size) if isinstance(size, int) else tuple(size)
        assert model.encode_pixels(torch.rand(1, 3, *sides)).shape == (1, 32)
        return
    given = re.escape(str([size, f"'{size}'"][size == "x"]))
    taken = "160 x 160 pixels alone" if trunk == STRICT else "multiples of 16 x 16 pixels"
    refused(
        timm_folder, rf"open_clip_config\.json: .*image_size is {given}, but {trunk} of timm takes {taken}: 160 would"
    )


def test_the_right_size_is_no_mistake_and_another_one_is_refused_where_it_is_run(timm_folder: Path) -> None:
    model = load(timm_folder)
    assert model.encode_pixels(torch.rand(1, 3, 160, 160)).shape == (1, 32)
    if timm_folder.name == STRICT:
        with pytest.raises(NotSupported, match="takes 160 x 160 pixels, not 144 x 144"):
            model.encode_pixels(torch.rand(1, 3, 144, 144))


@pytest.mark.parametrize("kind", ["hf_clip_folder", "hf_siglip_folder"])
@pytest.mark.parametrize("size", [16, 64])
def test_a_size_of_pictures_that_the_positions_of_transformers_do_not_fit(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, size: int
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(kind), tmp_path / "wrong"))
    change(folder / "config.json", "vision_config.image_size", size)
    refused(folder, rf"image_size in config\.json is {size}, but the weights take 32 pixels")


def test_another_tensor_that_does_not_fit_is_named_with_its_shapes(copy: Copy) -> None:
    folder = copy("hf")
    change(folder / "config.json", "text_config.max_position_embeddings", 13)
    refused(folder, r"text_model.*position_embedding\.weight is \(12, 32\) in the weights, and \(13, 32\) by config")


@pytest.mark.parametrize(("place", "value"), [("", []), ("", 5), ("pad_token", -3), ("eos_token", -3)])
def test_values_of_the_tokenizers_configuration(copy: Copy, place: str, value: Any) -> None:
    folder = copy("siglip")
    change(folder / "tokenizer_config.json", place, value)
    refused(folder, "tokenizer_config|cannot be used")


TRANSFORMERS = [
    ("config.json", "", 5, "holds no model"),
    ("config.json", "model_type", [], "config.json"),
    ("config.json", "text_config", -3, "text_config"),
    ("config.json", "vision_config", True, "vision_config"),
    ("config.json", "text_config.hidden_size", "x", "hidden_size"),
    ("config.json", "text_config.num_attention_heads", 5, "config.json"),
    ("config.json", "text_config.hidden_size", 16, "does not fit|lack"),
    ("config.json", "text_config.eos_token_id", None, "eos_token_id is None"),
    ("config.json", "text_config.eos_token_id", [1], "eos_token_id is \\[1\\]"),
    ("preprocessor_config.json", "", [], "preprocessor_config.json"),
    ("preprocessor_config.json", "image_mean", 0, "preprocessor_config.json"),
    ("preprocessor_config.json", "image_mean", [1], "preprocessor_config.json"),
    ("preprocessor_config.json", "crop_size.width", [1], "preprocessor_config.json"),
    ("preprocessor_config.json", "image_processor_type", 0, "preprocessor_config.json"),
]


@pytest.mark.parametrize(("file", "place", "value", "match"), TRANSFORMERS)
def test_values_of_transformers_configurations(copy: Copy, file: str, place: str, value: Any, match: str) -> None:
    folder = copy("hf")
    change(folder / file, place, value)
    refused(folder, match)


def test_a_processor_that_is_no_json_is_not_passed_over(copy: Copy) -> None:
    folder = copy("hf")
    (folder / "preprocessor_config.json").write_text("{")
    refused(folder, "preprocessor_config.json")


@pytest.mark.parametrize("kind", ["clip", "siglip", "hf"])
@pytest.mark.parametrize("damage", ["shape", "missing", "nan"])
def test_tensors(copy: Copy, kind: str, damage: str) -> None:
    folder = copy(kind)
    state = load_file(weights(folder))
    name = sorted(key for key, value in state.items() if value.dim() == 2)[3]
    if damage == "shape":
        state[name] = torch.zeros(3, 5)
    elif damage == "missing":
        del state[name]
    else:
        state[name][1, 1] = float("nan")
    save_file(state, weights(folder), metadata={"format": "pt"})
    refused(folder, name.replace(".", r"\.") if damage == "nan" else "does not fit|lack")


def test_numbers_beyond_half_precision(copy: Copy) -> None:
    folder = copy("clip")
    state = load_file(weights(folder))
    state["text_projection"][0, 0] = 1e5
    save_file(state, weights(folder), metadata={"format": "pt"})
    assert load(folder).dtype == torch.float32
    with pytest.raises(CheckpointError, match=r"text_projection are NaN or infinite \(in torch\.float16\)"):
        load(folder, dtype="float16")


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")


def test_a_folder_without_a_tokenizer_says_so_at_load(copy: Copy) -> None:
    folder = copy("hf")
    for name in TOKENIZER:
        (folder / name).unlink(missing_ok=True)
    with pytest.warns(
        UserWarning, match=r"can encode images but not texts: the folder has no tokenizer \(tokenizer\.json"
    ):
        model = load(folder)
    assert model.encode_image(torch.rand(1, 3, 32, 32)).shape == (1, 24)


@pytest.mark.parametrize("damaged", ["[]", "{}", '{"model": [1]}', "{"])
def test_a_damaged_tokenizer_says_so_at_load(copy: Copy, damaged: str) -> None:
    folder = copy("hf")
    (folder / "tokenizer.json").write_text(damaged)
    with pytest.warns(UserWarning, match="can encode images but not texts"):
        load(folder)


def test_a_tokenizer_of_another_model_says_so_at_load(copy: Copy) -> None:
    folder = copy("hf")
    change(folder / "config.json", "text_config.eos_token_id", 57)
    with pytest.warns(UserWarning, match="not texts: the text tower reads the token 57"):
        load(folder)
