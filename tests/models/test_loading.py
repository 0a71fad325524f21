"""Every way to name a model, and every way to get it wrong."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.models import build, load
from binderclip.models.files import hub, registry
from binderclip.models.image_text.model import ImageTextModel

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


@pytest.fixture
def architecture(monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny architecture that open_clip knows by name during the test."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-8", TINY)
    return "Tiny-8"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reachable", lambda timeout=0: False)


def same(a: ImageTextModel, b: ImageTextModel) -> bool:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ["a cat", "the red dog"]
    return torch.equal(a.encode_image(x), b.encode_image(x)) and torch.equal(a.encode_text(texts), b.encode_text(texts))


# -- open_clip -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "/none"])
def test_random_architecture_says_so(architecture: str, suffix: str) -> None:
    with pytest.warns(UserWarning, match="randomly initialised"):
        model = load(f"open_clip:{architecture}{suffix}")
    assert model.card["weights"] == "random"
    assert not model.training
    assert model.encode_image(torch.rand(3, 40, 50)).shape == (1, 32)


def test_a_card_is_strict_json_also_with_an_infinite_setting(clip_folder: Path, tmp_path: Path) -> None:
    model = load(clip_folder)
    model.card = {"recipe": {"clip": {"max_grad_norm": float("inf")}, "rates": [1.0, float("nan")]}}
    text = (model.save(tmp_path / "copy") / "card.json").read_text()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    card = json.loads(text, parse_constant=refuse)
    assert card["recipe"] == {"clip": {"max_grad_norm": "inf"}, "rates": [1.0, None]}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "wrapped.pt"])
def test_local_weight_file(architecture: str, tmp_path: Path, clip_folder: Path, name: str, monkeypatch) -> None:
    state = load_file(clip_folder / registry.WEIGHTS)
    path = tmp_path / name
    if name == "w.safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if "wrapped" in name else state, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load(f"open_clip:{architecture}/{path}")
    assert same(model, load(clip_folder))
    assert same(load(f"open_clip:{architecture}/{str(path).lstrip('/')}"), model)
    monkeypatch.chdir(tmp_path)
    assert same(load(f"open_clip:{architecture}/{name}"), model)


def test_preprocessing_of_a_tag_is_open_clips(monkeypatch: pytest.MonkeyPatch, clip_folder: Path) -> None:
    """A tag brings its own mean, std and resize mode; the download is replaced by a local file."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-8", TINY)
    tag = {"url": "x", "mean": (0.5,) * 3, "std": (0.4,) * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-8", {"webli": tag})
    local = str(clip_folder / registry.WEIGHTS)
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda cfg, cache_dir=None: local)
    model = load("open_clip:Tiny-8/webli")
    steps = model.preprocess
    assert (steps.mean, steps.std, steps.interpolation, steps.resize_mode) == (
        (0.5,) * 3,
        (0.4,) * 3,
        "bilinear",
        "squash",
    )
    assert steps.size == (32, 32)
    assert same(model.eval(), model)


def test_pickle_posing_as_weights(architecture: str, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="not a safetensors file: it holds a Python pickle"):
        load(f"open_clip:{architecture}/{tmp_path}/w.safetensors")
    torch.save({"state_dict": Path("x")}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="pickle with more than tensors"):
        load(f"open_clip:{architecture}/{tmp_path}/w.pt")


def test_weights_of_another_architecture(architecture: str, tmp_path: Path) -> None:
    save_file({"visual.conv1.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors does not fit Tiny-8") as caught:
        load(f"open_clip:{architecture}/{tmp_path}/w.safetensors")
    assert len(str(caught.value)) < 450


def test_wrong_names_are_told_what_is_near(architecture: str) -> None:
    with pytest.raises(UsageError, match="did you mean ViT-B-32"):
        load("open_clip:ViT-B32/openai")
    with pytest.raises(UsageError, match="did you mean openai"):
        load("open_clip:ViT-B-32/opnai")
    with pytest.raises(CheckpointError, match=r"no weight file gone\.pt"):
        load("open_clip:ViT-B-32/gone.pt")
    with pytest.raises(UsageError, match="did you mean open_clip:ViT-B-32"):
        load("vit-b-32")
    with pytest.raises(UsageError, match="list_models"):
        load("nothing-like-it-at-all")


def test_tag_without_network_is_short(offline: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    # The tag alone is tried: the architecture need not be built for a file that is not there.
    with pytest.raises(CheckpointError, match="not on this machine") as caught:
        load("open_clip:ViT-B-32/laion2b_e16")
    assert len(str(caught.value)) < 420


# -- folders -------------------------------------------------------------------------------------------------------


def test_folder_run_folder_and_local_dir(clip_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(clip_folder, run / "model")
    model = load(clip_folder)
    assert same(load(run), model)
    assert same(load(f"open_clip:local-dir:{clip_folder}"), model)
    theirs = open_clip.create_model(f"local-dir:{clip_folder}").eval()
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.encode_image(x), theirs.encode_image(model.preprocess(x)))


def test_bundled_names(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(clip_folder, tmp_path / "petite")
    monkeypatch.setattr(registry, "BUNDLED", tmp_path)
    assert load("petite").name == "petite"
    with pytest.raises(UsageError, match="did you mean petite"):
        load("petit")


def test_incomplete_folders(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model"):
        load(tmp_path)
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(CheckpointError, match="no finished model"):
        load(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(clip_folder, broken)
    (broken / registry.WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load(broken)
    (broken / registry.WEIGHTS).write_bytes((clip_folder / registry.WEIGHTS).read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="damaged or incomplete safetensors"):
        load(broken)
    shutil.copy(clip_folder / registry.WEIGHTS, broken)
    (broken / registry.CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load(broken)
    (broken / registry.CONFIG).write_text("{}")
    with pytest.raises(CheckpointError, match="model_cfg"):
        load(broken)
    (broken / registry.CONFIG).write_text(json.dumps({"model_cfg": TINY | {"text_cfg": {"widht": 3}}}))
    with pytest.raises(CheckpointError, match="widht"):
        load(broken)
    with pytest.raises(UsageError, match="open_clip:ARCH/"):
        load(clip_folder / registry.WEIGHTS)


@pytest.mark.filterwarnings("ignore:.*can encode images but not texts")
def test_folder_whose_tokenizer_is_missing_still_encodes_images(siglip_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(siglip_folder, folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    model = load(folder)
    assert model.encode_image(torch.rand(3, 32, 32)).shape == (1, 32)
    with pytest.raises(NotSupported, match="can encode images but not texts"):
        model.encode_text("a cat")


# -- transformers --------------------------------------------------------------------------------------------------


def test_transformers_folder_with_and_without_prefix(hf_clip_folder: Path, hf_siglip_folder: Path) -> None:
    for folder, kind in ((hf_clip_folder, "hf-clip"), (hf_siglip_folder, "hf-siglip")):
        model = load(f"hf:{folder}")
        assert model.kind == kind
        assert same(load(folder), model)
    assert load(f"hf:{hf_siglip_folder}").preprocess.resize_mode == "squash"


def test_transformers_errors(hf_clip_folder: Path, tmp_path: Path, offline: None) -> None:
    with pytest.raises(UsageError, match="hf: needs"):
        load("hf:")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(f"hf:{tmp_path}")
    bert = tmp_path / "bert"
    shutil.copytree(hf_clip_folder, bert)
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(NotSupported, match=r"'bert'.*CLIPModel, SiglipModel"):
        load(bert)
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(hf_clip_folder / "config.json", empty)
    with pytest.raises(CheckpointError, match="no weights"):
        load(empty)
    (empty / "model.safetensors").write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match="Python pickle"):
        load(empty)
    state = load_file(hf_clip_folder / "model.safetensors")
    state.pop("visual_projection.weight")
    save_file(state, empty / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lack 1 tensors"):
        load(empty)


def test_hub_without_network_is_short_and_says_what_to_do(offline: None, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cannot be reached.*hf download nobody/nothing") as caught:
        load("hf:nobody/nothing")
    assert len(str(caught.value)) < 300


# -- device, precision, build --------------------------------------------------------------------------------------


def test_dtype_and_device(clip_folder: Path) -> None:
    half = load(clip_folder, dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.logit_scale.dtype == torch.float32
    x = torch.rand(2, 3, 32, 32)
    full = load(clip_folder)
    for got, want in (
        (half.encode_image(x, normalize=True), full.encode_image(x, normalize=True)),
        (half.encode_text(["a cat"], normalize=True), full.encode_text(["a cat"], normalize=True)),
    ):
        assert got.dtype == torch.float32
        assert not torch.equal(got, want)
        assert (got * want).sum(-1).min() > 0.999
    assert load(clip_folder, dtype=torch.float64).encode_image(x.double()).dtype == torch.float64
    with pytest.raises(UsageError, match="float8"):
        load(clip_folder, dtype="float8")
    with pytest.raises(UsageError, match="'gpu'"):
        load(clip_folder, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(NotSupported, match="no CUDA device"):
            load(clip_folder, device="cuda")


def test_build_refuses_what_open_clip_cannot_make() -> None:
    with pytest.raises(UsageError, match="open_clip cannot build"):
        build(TINY | {"vision_cfg": {"layer": 3}})


def test_build_takes_the_size_of_the_model() -> None:
    model = build(TINY, preprocess={"size": 224, "resize_mode": "longest"})
    assert model.image_size == 32
    assert model.preprocess.resize_mode == "longest"
