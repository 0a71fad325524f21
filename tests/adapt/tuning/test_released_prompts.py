"""Context that other programs learned: CoOp's forward pass written out, for every place of the name, and mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.adapt import load_prompts
from binderclip.errors import CheckpointError, UsageError
from binderclip.models import ImageTextModel, build, load_prompt_context

NAMES = ["cat", "red_apple", "dogs in the tree"]
WIDTH, M = 32, 4


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    torch.manual_seed(0)
    text = {"context_length": 24, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "patch_size": 8, "layers": 1, "width": 32, "head_width": 16}
    made = build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}).eval()
    with torch.no_grad():
        made.backbone.token_embedding.weight.normal_(0, 0.02)  # type: ignore[union-attr, operator]
    return made


@torch.no_grad()
def official_features(model: ImageTextModel, context: Tensor, position: str) -> Tensor:
    """Features of CoOp's prompts, as its PromptLearner and TextEncoder make them."""
    net: Any = model.backbone
    tokenize = open_clip.SimpleTokenizer(context_length=24)
    names = [name.replace("_", " ") for name in NAMES]
    ids = tokenize([" ".join(["X"] * M) + " " + name + "." for name in names])
    table = net.token_embedding(ids)
    prefix, suffix = table[:, :1], table[:, 1 + M :]
    lengths = [len(tokenize.encode(name)) for name in names]
    rows = []
    for i, length in enumerate(lengths):
        own = context[i] if context.ndim == 3 else context
        name, rest = suffix[i, :length], suffix[i, length:]
        parts = {
            "end": [own, name],
            "middle": [own[: M // 2], name, own[M // 2 :]],
            "front": [name, own],
        }[position]
        rows.append(torch.cat([prefix[i], *parts, rest]))
    x = torch.stack(rows) + net.positional_embedding
    x = net.ln_final(net.transformer(x, attn_mask=net.attn_mask))
    return x[torch.arange(len(ids)), ids.argmax(-1)] @ net.text_projection


def released(path: Path, context: Tensor, name: str = "ctx") -> Path:
    """As Dassl saves a prompt learner: with the words of the classes it was trained on beside it."""
    beside = {"token_prefix": torch.zeros(9, 1, WIDTH), "token_suffix": torch.zeros(9, 19, WIDTH)}
    torch.save({"state_dict": {name: context, **beside}, "epoch": 50, "val_result": 71.2}, path)
    return path


@pytest.mark.parametrize("specific", [False, True])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_features_are_those_of_coop(model: ImageTextModel, position: Any, specific: bool, tmp_path: Path) -> None:
    shape = (len(NAMES), M, WIDTH) if specific else (M, WIDTH)
    context = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    path = released(tmp_path / "model.pth.tar-50", context)
    prompts = load_prompt_context(path, model, NAMES, position=position)
    expected = official_features(model, context, position)
    torch.testing.assert_close(prompts()[0].detach(), expected, rtol=1e-4, atol=1e-5)
    head = load_prompts(path, model, {0: NAMES[0], 1: NAMES[1], 2: NAMES[2]}, position=position)
    x = F.normalize(torch.randn(5, 24, generator=torch.Generator().manual_seed(2)), dim=1)
    logits = float(model.scale().detach()) * x @ F.normalize(expected, dim=-1).T
    assert head.predict(x).tolist() == logits.argmax(1).tolist()
    torch.testing.assert_close(torch.as_tensor(head.predict_proba(x)).float(), logits.softmax(1), rtol=1e-3, atol=1e-4)


def test_what_is_no_context_is_refused(model: ImageTextModel, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"other": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="must hold one context `ctx`"):
        load_prompt_context(path, model, NAMES)
    torch.save({"a.ctx": torch.zeros(2, 4), "b.ctx": torch.zeros(2, 4)}, path)
    with pytest.raises(CheckpointError, match=r"and has a.ctx, b.ctx"):
        load_prompt_context(path, model, NAMES)
    with pytest.raises(CheckpointError, match="holds a context of width 48, and the words of new have 32"):
        load_prompt_context(released(path, torch.zeros(4, 48)), model, NAMES)
    with pytest.raises(UsageError, match="holds contexts of 5 classes, and 3 are named"):
        load_prompts(released(path, torch.zeros(5, 4, WIDTH)), model, NAMES)
