"""The second scorer `small-b`: another network's pooled features and a linear head, beside the text tower of `small`.

    [model]      arch = "small-b"
    [[stage]]    kind = "pooled-head"     ridge map, then gradient steps on cached features

`compact_without_text` turns the finished run into the eight-bit folder that ships.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from binderclip.data.sets.packs import TRAINING_PACKS, pack_folder, pack_hash
from binderclip.documents import parse_json
from binderclip.errors import NotSupported
from binderclip.files import make_folder, write_whole
from binderclip.models import ImageTextModel, build, load
from binderclip.models.bundled.architectures import LiteTrunk, fold_lite, lite_pixels_to_clip
from binderclip.models.files.compact import quantise
from binderclip.models.files.registry import CONFIG, WEIGHTS
from binderclip.train.bundled.data.batches import Numbered
from binderclip.train.bundled.data.maps import normalise
from binderclip.train.bundled.data.pictures import on_white, read_pictures
from binderclip.train.bundled.image import ImageLoss, Queue, TextTable
from binderclip.train.bundled.kinds import class_features, text_features
from binderclip.train.bundled.small import SMALL, reduced_ridge
from binderclip.train.bundled.teachers import SentenceTeacher, find_part, lite_state
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.bare import bare_image_text, bare_model
from binderclip.train.recipe.passes import OwnCount, SampleCost, step_operations, with_frozen_groups
from binderclip.train.recipe.registry import BARE, MODELS, PASSES, STAGES, register
from binderclip.train.recipe.stage import Stage

__all__ = ["compact_without_text", "new_small_b", "pooled_head"]

VISION = {
    "timm_model_name": "binderclip_lite2",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "timm_proj_bias": True,
    "image_size": 160,
}


@register(MODELS, "small-b")
def new_small_b(*, seed: int, captions: Callable[[], Sequence[str]], text_tower: str = "small") -> ImageTextModel:
    """An EfficientNet-Lite2 tower, untrained, beside the text tower and tokenizer of another model.

    Args:
        seed: of the weights.
        captions: not used.
        text_tower: the model whose texts are shared; anything `load` takes, built like `small`.
    """
    other = load(text_tower)
    config = _configuration(other)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as scratch:
        other.tokenizer.save(Path(scratch))
        model = build(config, preprocess=SMALL["preprocess_cfg"], tokenizer=Path(scratch), name="small-b")
    model.backbone.text.load_state_dict(other.backbone.text.state_dict())
    return model


def _configuration(other: ImageTextModel) -> dict[str, Any]:
    """Beside the text tower of another model."""
    config = {**copy.deepcopy(SMALL["model_cfg"]), "vision_cfg": dict(VISION)}
    config["text_cfg"] = {**config["text_cfg"], "vocab_size": other.backbone.text.vocab_size}
    return config


@register(BARE, "small-b")
def _bare_small_b(*, text_tower: str = "small") -> ImageTextModel:
    return bare_image_text(_configuration(bare_model(text_tower)), "small-b")


class _Head(nn.Module):
    """Contrastive loss of the head on a batch of picture numbers; features and texts are no part of its state."""

    def __init__(self, model: ImageTextModel, features: Tensor, rows: Tensor, table: TextTable, queue: int) -> None:
        super().__init__()
        self.head = model.backbone.visual.head
        self.logit_scale = model.backbone.logit_scale
        self.queue = Queue(queue, table.features.shape[1])
        self.loss = ImageLoss(table, self.queue)
        self._columns = (features, rows)

    def forward(self, numbers: Int[Tensor, "B"]) -> tuple[Tensor, dict[str, Tensor]]:
        features, rows = self._columns
        terms = self.loss(self.head(features[numbers]).float(), rows[numbers], self.logit_scale.float().exp())
        return torch.stack(list(terms.values())).sum(), terms


@torch.inference_mode()
def _pooled(trunk: LiteTrunk, rgba: UInt8[Tensor, "N 4 H H"], size: int) -> Float[Tensor, "N F"]:
    parts = []
    for part in rgba.split(64):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(trunk(normalise(on_white(part, size))).float().mean((2, 3)))
    return torch.cat(parts).clone()


@register(STAGES, "pooled-head")
def pooled_head(
    context: StageContext,
    *,
    parts: dict[str, str] | None = None,
    ridge: float = 1.0,
    scale: float = 33.0,
    queue: int = 3072,
    limit: int | None = None,
) -> dict[str, Any]:
    """Fit the head by ridge regression on pooled ImageNet features, then train it by the loss of `image-tower`.

    Args:
        context: of the stage.
        parts: paths of the pretrained parts; `lite2` and `minilm` are read here.
        ridge: penalty of the map; its rows are the training pictures on white and the classifier's own rows.
        scale: logit scale to start from.
        queue: recent images that serve as further negatives.
        limit: only the first so many training pictures of each pack, for a trial.
    """
    if context.world.size > 1:
        raise NotSupported("pooled-head runs in one process")
    model, visual = context.model, context.model.backbone.visual
    state = lite_state("lite2", parts)
    trunk: LiteTrunk = visual.trunk.trunk
    trunk.load_state_dict(fold_lite("lite2", state))
    lite_pixels_to_clip(trunk)
    pictures = read_pictures(pack_folder(), TRAINING_PACKS, "train").first(limit)
    features = _pooled(trunk, pictures.rgba, context.image_size)
    texts = list(dict.fromkeys(pictures.captions))
    index = {text: i for i, text in enumerate(texts)}
    rows = torch.tensor([index[caption] for caption in pictures.captions])
    table = TextTable(text_features(model, texts), SentenceTeacher(find_part("minilm", parts)).encode(texts))
    _fit_ridge(model, features, table.features[rows], state["classifier.weight"], ridge)
    with torch.no_grad():
        model.backbone.logit_scale.fill_(float(torch.tensor(scale).log()))

    def draw(number: int) -> Int[Tensor, "B"]:
        generator = torch.Generator().manual_seed(context.seed * 1_000_003 + number)
        return torch.randint(len(features), (context.stage.batch_size,), generator=generator)

    module = _Head(model, features, rows, table, queue)
    context.fit(module, Numbered(draw, "-".join(pack_hash(name)[:8] for name in TRAINING_PACKS)))
    return {"pictures": len(pictures), "captions": len(texts)}


@register(PASSES, "pooled-head")
def _passes(stage: Stage, **settings: object) -> OwnCount:
    def count(model: Any, stages: Sequence[Stage], index: int) -> SampleCost:
        head, trunk = model.backbone.visual.head, model.backbone.visual.trunk.trunk
        features = torch.empty(stage.batch_size, trunk.num_features, device="meta")
        with with_frozen_groups(stage, model.backbone):
            operations = step_operations(lambda: head(features))
        return SampleCost(
            image_tokens=0, operations=operations / stage.batch_size,
            left_out="the features of the packs' pictures, computed once, are not counted",
        )  # fmt: skip

    return OwnCount(count=count)


def _fit_ridge(
    model: ImageTextModel,
    features: Float[Tensor, "N F"],
    targets: Float[Tensor, "N E"],
    classifier: Float[Tensor, "C F"],
    ridge: float,
) -> None:
    classes = class_features(lambda names: text_features(model, names))
    centre, mean = features.mean(0), targets.mean(0)
    unit = nn.functional.normalize
    x = torch.cat([unit(features - centre, dim=1), unit(classifier - classifier.mean(0), dim=1)])
    weight, _ = reduced_ridge(x, torch.cat([targets - mean, classes - classes.mean(0)]), ridge=ridge)
    along = unit(mean, dim=0)
    weight = (weight - (weight @ along)[:, None] * along) / (features - centre).norm(dim=1).mean()
    head = model.backbone.visual.head.proj
    with torch.no_grad():
        head.weight.copy_(weight.T)
        head.bias.copy_(-(centre @ weight))


def compact_without_text(source: Path, target: Path, *, text_tower: str = "small") -> Path:
    """Write the eight-bit form of a finished model folder, without the text tower that its neighbour holds.

    Args:
        source: `RUN/model` of a run.
        target: the new folder; the folder `text_tower` must lie beside it when it is loaded.
        text_tower: name of that neighbour.
    """
    make_folder(target)
    config = parse_json((source / CONFIG).read_text(encoding="utf-8"))
    config["binderclip"] = {"weights": "int8", "text_tower": text_tower}
    write_whole(target / CONFIG, json.dumps(config, indent=2) + "\n")
    write_whole(target / "card.json", (source / "card.json").read_bytes())
    state = {name: value for name, value in load_file(source / WEIGHTS).items() if not name.startswith("text.")}
    write_whole(target / WEIGHTS, lambda draft: save_file(quantise(state), draft, {"format": "pt"}))
    return target
