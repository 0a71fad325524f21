"""Tiny models and tokenizers of every supported kind, made once a session from configurations alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

WORDS = [
    "a",
    "the",
    "photo",
    "of",
    "cat",
    "dog",
    "red",
    "apple",
    "drawing",
    "picture",
    "icon",
    "car",
    "tree",
    "in",
    "game",
    "##s",
    "##y",
    "bad",
    "clip",
    "art",
    ".",
    ",",
    "long",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def write_wordpiece(folder: Path) -> Path:
    """A WordPiece tokenizer with a handful of words, as the two files that open_clip and transformers read."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocab = {token: i for i, token in enumerate(SPECIAL + WORDS + list("abcdefghijklmnopqrstuvwxyz"))}
    vocab = {token: i for i, token in enumerate(dict.fromkeys(vocab))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "eos_token": "[SEP]",
        "model_max_length": 12,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def tiny_cfg(**changes) -> dict:
    """An open_clip configuration of two layers, width 64."""
    config = {
        "embed_dim": 32,
        "vision_cfg": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
    config["vision_cfg"] |= changes.pop("vision_cfg", {})
    config["text_cfg"] |= changes.pop("text_cfg", {})
    return config | changes


def siglip_cfg() -> dict:
    """Two layers, sigmoid-trained: bias, squash, own tokenizer read at its end token."""
    text = {"vocab_size": 60, "hf_tokenizer_name": "own", "pool_type": "eos", "eos_id": 3, "no_causal_mask": True}
    return tiny_cfg(custom_text=True, init_logit_bias=-3.0, init_logit_scale=1.5, text_cfg=text)


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wordpiece(tmp_path_factory.mktemp("wordpiece"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny open_clip CLIP in a folder, byte-pair tokenizer."""
    from binderclip.models import build

    torch.manual_seed(0)
    return build(tiny_cfg(), name="tiny").save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory, wordpiece: Path) -> Path:
    """A tiny open_clip model with a logit bias in a folder with its own `tokenizer.json`."""
    from binderclip.models import build

    torch.manual_seed(1)
    steps = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    model = build(siglip_cfg(), name="tiny-siglip", preprocess=steps, tokenizer=wordpiece)
    return model.save(tmp_path_factory.mktemp("models") / "tiny-siglip")


def _hf_config(kind: type, text: dict, vision: dict, **more):
    text = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2} | text
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 64} | vision
    text |= {"num_attention_heads": 2, "max_position_embeddings": 12}
    vision |= {"num_hidden_layers": 2, "num_attention_heads": 2}
    return kind(text_config=text, vision_config=vision, **more)


@pytest.fixture(scope="session")
def hf_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny transformers CLIPModel with processor and tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(2)
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    folder = tmp_path_factory.mktemp("hf") / "clip"
    CLIPModel(_hf_config(CLIPConfig, tokens, {}, projection_dim=24)).eval().save_pretrained(folder)
    sides = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=sides).save_pretrained(folder)
    return write_wordpiece(folder)


@pytest.fixture(scope="session")
def hf_siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny transformers SiglipModel with processor and tokenizer."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("hf") / "siglip"
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    SiglipModel(_hf_config(SiglipConfig, tokens, {})).eval().save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return write_wordpiece(folder)


def picture(seed: int, width: int, height: int) -> Image.Image:
    """A smooth picture with some detail, as photographs have."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return Image.fromarray((smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [picture(seed, *size) for seed, size in enumerate([(50, 40), (33, 64), (32, 32), (90, 31)])]


@pytest.fixture
def files(tmp_path: Path, pictures: list[Image.Image]) -> list[Path]:
    paths = []
    for i, image in enumerate(pictures):
        paths.append(tmp_path / f"{i}.png")
        image.save(paths[-1])
    return paths
