"""Stage kinds of `recipes/small*.toml`: distil the text tower, fit the image tower in closed form, train it.

    [model]      arch = "small"                an untrained `small` with a vocabulary of its own
    [[stage]]    kind = "distil-text"          text tower -> the sentence encoder's space
    [[stage]]    kind = "closed-form"          ImageNet features and ridge maps, no gradient step
    [[stage]]    kind = {name = "image-tower"} contrastive and dense training, on cached maps or from the pixels

Each takes `parts`, paths of the pretrained parts by name; see `bundled.teachers.find_part`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.data.sets.packs import TRAINING_PACKS, pack_folder
from binderclip.errors import NotSupported
from binderclip.models import ImageTextModel, build
from binderclip.models.bundled.architectures import fold_lite, lite_pixels_to_clip
from binderclip.train.bundled.data.batches import Numbered, TextWindows
from binderclip.train.bundled.data.corpus import END, SPECIAL, Corpus, build_corpus, build_tokenizer
from binderclip.train.bundled.data.maps import normalise
from binderclip.train.bundled.data.pictures import on_white, read_pictures
from binderclip.train.bundled.small import (
    SMALL,
    closed_form_blocks,
    closed_form_head,
    reduced_ridge,
    tower_states,
    write_tokenizer,
)
from binderclip.train.bundled.teachers import SentenceTeacher, find_part, imagenet_names, lite_state
from binderclip.train.bundled.text import bag_of_words_start, distil_loss, encode_ids
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.bare import bare_image_text
from binderclip.train.recipe.passes import Uncounted
from binderclip.train.recipe.registry import BARE, MODELS, PASSES, STAGES, register
from binderclip.train.recipe.stage import Stage

__all__ = ["class_features", "closed_form", "distil_text", "new_small", "text_features"]


def _corpus(parts: Mapping[str, str] | None, seed: int, **settings: Any) -> Corpus:
    return build_corpus(pack_folder(), find_part("wordnet", parts), names=TRAINING_PACKS, seed=seed, **settings)


@register(MODELS, "small")
def new_small(
    *,
    seed: int,
    captions: Callable[[], Sequence[str]],
    parts: dict[str, str] | None = None,
    vocabulary: int = 8000,
) -> ImageTextModel:
    """An untrained `small`; its WordPiece vocabulary is cut from the texts its text tower is distilled on.

    Args:
        seed: of the weights and of the draw of texts.
        captions: not used: the texts are those of `bundled.corpus`, which hold the captions of the training splits.
        parts: paths of the pretrained parts; `wordnet` is read here.
        vocabulary: pieces.
    """
    config = _configuration(vocabulary)
    tokenizer = build_tokenizer(_corpus(parts, seed), size=vocabulary, context=config["text_cfg"]["context_length"])
    with tempfile.TemporaryDirectory() as scratch:
        write_tokenizer(tokenizer, Path(scratch), config["text_cfg"]["context_length"])
        torch.manual_seed(seed)
        return build(config, preprocess=SMALL["preprocess_cfg"], tokenizer=Path(scratch), name="small")


def _configuration(vocabulary: int) -> dict[str, Any]:
    return {**SMALL["model_cfg"], "text_cfg": {**SMALL["model_cfg"]["text_cfg"], "vocab_size": vocabulary}}


@register(BARE, "small")
def _bare_small(*, parts: dict[str, str] | None = None, vocabulary: int = 8000) -> ImageTextModel:
    return bare_image_text(_configuration(vocabulary), "small")


def _ids(model: ImageTextModel, texts: Sequence[str]) -> Int[Tensor, "N L"]:
    return model.tokenize(list(texts)).ids


@torch.no_grad()
def text_features(model: ImageTextModel, texts: Sequence[str], *, batch: int = 512) -> Float[Tensor, "N E"]:
    """Unit features of texts by the model's text tower."""
    tower, ids = model.backbone.text, _ids(model, texts)
    parts = [encode_ids(tower, ids[start : start + batch]) for start in range(0, len(ids), batch)]
    return nn.functional.normalize(torch.cat(parts), dim=-1)


def class_features(encode: Callable[[list[str]], Float[Tensor, "N E"]]) -> Float[Tensor, "1000 E"]:
    """Unit mean of the features of each ImageNet class's first three names."""
    names = [group[:3] for group in imagenet_names()]
    flat = encode([name for group in names for name in group]).split([len(group) for group in names])
    return nn.functional.normalize(torch.stack([rows.mean(0) for rows in flat]), dim=-1)


class _TextDistillation(nn.Module):
    """Loss of a batch of text indices; the tensors beside the tower are no part of the module's state."""

    def __init__(self, tower: nn.Module, ids: Tensor, teacher: Tensor, similarity: float) -> None:
        super().__init__()
        self.tower, self.similarity = tower, similarity
        self._columns = (ids, teacher)

    def forward(self, rows: Int[Tensor, "B"]) -> tuple[Tensor, dict[str, Tensor]]:
        ids, teacher = self._columns
        student, target = encode_ids(self.tower, ids[rows]), teacher[rows].float()  # type: ignore[arg-type]
        cosine = nn.functional.cosine_similarity(student, target, dim=-1).mean()
        return distil_loss(student, target, similarity=self.similarity), {"cosine": cosine}


@register(STAGES, "distil-text")
def distil_text(
    context: StageContext,
    *,
    parts: dict[str, str] | None = None,
    similarity: float = 20.0,
    caption_weight: float = 3.0,
    templated: int = 3,
    pairs: int = 12_000,
    lemmas: int = 90_000,
    glosses: int = 25_000,
) -> dict[str, Any]:
    """Distil MiniLM into the text tower; freeze `visual.*` and `logit_scale` in the recipe's groups.

    Args:
        context: of the stage.
        parts: paths of the pretrained parts; `minilm` and `wordnet` are read here.
        similarity: weight of the similarity term against the cosine.
        caption_weight: how much more often a raw caption is drawn than another text.
        templated, pairs, lemmas, glosses: sizes of the corpus; see `build_corpus`.
    """
    model = context.model
    if context.world.size > 1:
        raise NotSupported("distil-text runs in one process")
    corpus = _corpus(parts, context.recipe.seed, templated=templated, pairs=pairs, lemmas=lemmas, glosses=glosses)
    teacher = SentenceTeacher(find_part("minilm", parts))
    ids, tower = _ids(model, corpus.texts), model.backbone.text
    embeddings = teacher.encode(corpus.texts).half()
    vocabulary = model.tokenizer._tokenizer.get_vocab()  # type: ignore[attr-defined]
    pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    specials = [vocabulary[name] for name in (*SPECIAL, END)]
    bag_of_words_start(tower, teacher.encode([piece.removeprefix("##") for piece in pieces]), specials)
    weights = torch.ones(len(ids))
    weights[: corpus.captions] = caption_weight
    draw = TextWindows((ids != 0).sum(1), weights, context.stage.batch_size, context.seed)
    module = _TextDistillation(tower, ids, embeddings, similarity)
    context.fit(module, Numbered(draw, corpus.digest))
    return {"texts": len(corpus.texts), "captions": corpus.captions}


@register(PASSES, "distil-text")
def _passes_of_texts(stage: Stage, **settings: object) -> Uncounted:
    return Uncounted(
        "its texts, cut to the longest of a batch, are known once they are made of WordNet and of the packs' captions"
    )


@torch.inference_mode()
def _features_of_training(
    model: ImageTextModel, images: Callable[[slice], Tensor], count: int, *, batch: int = 128
) -> Float[Tensor, "N F h w"]:
    trunk = model.backbone.visual.trunk.patch_embed.backbone
    parts = []
    for start in range(0, count, batch):
        with torch.autocast("cpu", torch.bfloat16):
            features = trunk(normalise(images(slice(start, start + batch))))
        parts.append(features.half())
    return torch.cat(parts)


@register(STAGES, "closed-form")
def closed_form(
    context: StageContext,
    *,
    parts: dict[str, str] | None = None,
    ridge: float = 1.0,
    head_ridge: float = 0.1,
    scale: float = 40.0,
    limit: int | None = None,
) -> dict[str, Any]:
    """Put ImageNet's features and two ridge maps into the image tower: a usable model in minutes, no gradient step.

    Rows of the first map are the pooled features of the training pictures on white and the classifier's own rows for
    the 1,000 ImageNet classes, against the text features of captions and class names. The second is the head.

    Args:
        context: of the stage; its length is not used.
        parts: paths of the pretrained parts; `lite0` is read here.
        ridge, head_ridge: penalties of the two maps.
        scale: the logit scale it leaves.
        limit: only the first so many training pictures, for a trial.
    """
    model, visual = context.model, context.model.backbone.visual
    state = lite_state("lite0", parts)
    trunk = visual.trunk.patch_embed.backbone
    trunk.load_state_dict(fold_lite("lite0", state))
    lite_pixels_to_clip(trunk).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = read_pictures(pack_folder(), TRAINING_PACKS, "train").first(limit)
    size = context.image_size
    maps = _features_of_training(model, lambda rows: on_white(pictures.rgba[rows], size), len(pictures)).clone()
    pooled = torch.cat([part.float().mean((2, 3)) for part in maps.split(512)])
    distinct = list(dict.fromkeys(pictures.captions))
    row = {caption: i for i, caption in enumerate(distinct)}
    targets = text_features(model, distinct)[[row[caption] for caption in pictures.captions]]
    classes = class_features(lambda names: text_features(model, names))
    centre = pooled.mean(0)
    rows = state["classifier.weight"]
    x = torch.cat([_unit(pooled - centre), _unit(rows - rows.mean(0))])
    y = torch.cat([targets - targets.mean(0), classes - classes.mean(0)])
    _, basis = reduced_ridge(x, y, ridge=ridge, rank=visual.trunk.embed_dim)
    basis = basis / (pooled - centre).norm(dim=1).mean()
    first = (maps[:128].float().permute(0, 2, 3, 1) - centre) @ basis
    with torch.no_grad():
        nn.init.ones_(visual.trunk.norm.weight)
        nn.init.zeros_(visual.trunk.norm.bias)
        closed_form_blocks(visual.trunk, centre, basis, rms=float(first.pow(2).mean().sqrt()))
        states = torch.cat([tower_states(visual.trunk, part.float()).pooled for part in maps.split(128)])
        closed_form_head(model.backbone, states, targets, ridge=head_ridge)
        model.backbone.logit_scale.fill_(float(torch.tensor(scale).log()))
    return {"pictures": len(pictures), "captions": len(distinct)}


@register(PASSES, "closed-form")
def _no_passes(stage: Stage, **settings: object) -> Uncounted:
    return Uncounted("it takes no step: it looks at the packs' pictures once and solves for two matrices")


def _unit(x: Float[Tensor, "N F"]) -> Float[Tensor, "N F"]:
    return nn.functional.normalize(x, dim=-1)
