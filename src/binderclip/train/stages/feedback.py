"""An image tower taught by a generator that it tells of pictures (generative feedback), as two stages of a recipe.

model = "small"
data = ["openclipart"]
epochs = 1
lr = 1e-4
[[stage]]
name = "generator"
kind = {name = "feedback-generator", method = {name = "genhancer", side = 32}}
[[stage]]
name = "feedback"
kind = {name = "generative-feedback", generator = "generator", tune = "lora"}
lr = 1e-5
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from binderclip.documents import parse_json
from binderclip.errors import NotSupported, UsageError
from binderclip.files import write_whole
from binderclip.generate import FEEDBACK, GenerativeFeedback, caption_condition
from binderclip.models import ImageTextModel
from binderclip.models.layers.freezing import frozen
from binderclip.models.layers.lora import lora_
from binderclip.models.towers import Tower, open_image_tower
from binderclip.numeric import check_number
from binderclip.settings import build_part, check_choice, check_part, part_name
from binderclip.train.engine.context import StageContext
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.recipe.passes import Uncounted
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage

__all__ = ["FeedbackStep", "feedback_generator", "generative_feedback", "read_feedback"]

FILE = "feedback.safetensors"


class FeedbackStep(nn.Module):
    """Forward of one step: the generator's loss, told by the image tower or, in its first stage, by captions.

    Args:
        model: whose towers tell.
        feedback: the loss.
        words: whether captions tell.
    """

    def __init__(self, model: ImageTextModel, feedback: GenerativeFeedback, *, words: bool = False) -> None:
        super().__init__()
        self.model, self.feedback, self.words = model, feedback, words

    @property
    def tower(self) -> Tower:
        """The tower that tells, of the model inside, which may be a copy."""
        return open_image_tower(self.model.backbone.visual)  # type: ignore[arg-type]

    def forward(self, batch: TrainingBatch) -> tuple[Tensor, dict[str, Tensor]]:
        seen = self.model.preprocess
        mean, std = (batch.images.new_tensor(each).view(3, 1, 1) for each in (seen.mean, seen.std))
        images = (batch.images * std + mean).clamp(0, 1)  # the same crop, as the generator takes it
        if self.words:
            return self.feedback.prompted(images, caption_condition(self.model, batch.tokens)), {}
        return self.feedback(self.tower, batch.images, images), {}


def _check_generator(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    check_part(settings.get("method", "genhancer"), FEEDBACK, "method", given=1)


@register(STAGES, "feedback-generator")
@demands(check=_check_generator, one_process=True, keeps_model=True)
def feedback_generator(context: StageContext, *, method: str | dict[str, Any] = "genhancer") -> dict[str, Any]:
    """Train the generator (and the layers before it) of generative feedback; the model stays as it is.

    The generator is kept in the run's folder, `stages/NN-NAME/feedback.safetensors`.

    Args:
        context: of the stage.
        method: a name of `generate.FEEDBACK` with settings: `genhancer` and `un2clip` are told by the image tower,
            `diva` by captions.

    Raises:
        NotSupported: a model that is no image-text pair.
    """
    model = _image_text(context)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        feedback = build_part(method, FEEDBACK, "method", model).to(context.world.device)
    feedback.learn_generator()
    with frozen(model):
        context.fit(FeedbackStep(model, feedback, words=feedback.told_by == "captions"), context.batches())
    part = {"name": method} if isinstance(method, str) else dict(method)
    if context.world.leads:
        _write(context.folder("stages") / FILE, feedback, part)
    return {"generator": part_name(method)}


def _check_feedback(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    check_choice("tune", settings.get("tune", "lora"), ("lora", "full"))
    check_number("r", settings.get("r", 16), least=1, most=4096)
    check_number("lora_alpha", settings.get("lora_alpha", 16.0), above=0, most=1e6)
    check_number("lora_dropout", settings.get("lora_dropout", 0.1), least=0, below=1)
    name = settings.get("generator", "")
    before = [stage.name for stage in stages[:index] if part_name(stage.kind) == "feedback-generator"]
    if name not in before and not Path(name).is_file():
        raise UsageError(
            f"generator {name!r} is neither a stage of kind feedback-generator before this one "
            f"({', '.join(before) or 'there is none'}) nor a file that such a stage left"
        )


@register(STAGES, "generative-feedback")
@demands(check=_check_feedback, one_process=True)
def generative_feedback(
    context: StageContext,
    *,
    generator: str,
    tune: Literal["lora", "full"] = "lora",
    r: int = 16,
    lora_alpha: float = 16.0,
    lora_dropout: float = 0.1,
    bridge: bool | None = None,
    train_generator: bool = False,
) -> None:
    """Train the image tower by the loss of a generator that it tells of pictures; captions are not looked at.

    The text tower and the scale stay as they are; the generator is left behind. Zero-shot figures of held-out data
    (`evaluation.every`) say whether the tower stays with its texts: a rate that is too high loses them in few steps.

    Args:
        context: of the stage.
        generator: name of a `feedback-generator` stage before this one, or a file that such a stage left.
        tune: "lora", low-rank updates of the attention of the image tower, merged at the end (GenHancer); or "full",
            all its weights (DIVA, un2CLIP).
        r, lora_alpha, lora_dropout: of `lora_`.
        bridge: whether the layers before the generator learn; default where captions told the generator.
        train_generator: whether the generator learns too.

    Raises:
        NotSupported: a model that is no image-text pair.
        UsageError: a file that holds no generator for this model.

    Paper: Diffusion Feedback Helps CLIP See Better (arXiv 2407.20171); GenHancer (arXiv 2503.19480); un2CLIP (arXiv
    2505.24517).
    """
    model = _image_text(context)
    feedback = read_feedback(_file_of(context, generator), model).to(context.world.device)
    feedback.learn_tower(bridge=bridge, generator=train_generator)
    with frozen(model), _tuned(context, model, tune, r, lora_alpha, lora_dropout):
        context.fit(FeedbackStep(model, feedback), context.batches())


@contextmanager
def _tuned(
    context: StageContext, model: ImageTextModel, tune: str, r: int, alpha: float, dropout: float
) -> Iterator[None]:
    """What learns of a frozen model: its whole image tower, or adapters that are merged unless training fails."""
    if tune == "full":
        model.visual.requires_grad_(True)
        yield
        return
    draw = torch.Generator().manual_seed(context.seed)
    with lora_(
        model, r, lora_alpha=alpha, lora_dropout=dropout, target_modules=("q", "k", "v", "out"), towers=("image",),
        generator=draw,
    ) as lora:  # fmt: skip
        yield
        lora.merge()


def _image_text(context: StageContext) -> ImageTextModel:
    if not isinstance(context.model, ImageTextModel):
        raise NotSupported(f"generative feedback takes image-text models, not {type(context.model).__name__}")
    return context.model


def _file_of(context: StageContext, generator: str) -> Path:
    for index, stage in enumerate(context.recipe.stage[: context.index]):
        if stage.name == generator and part_name(stage.kind) == "feedback-generator":
            return context.out / "stages" / f"{index:02d}-{stage.name}" / FILE
    return Path(generator)


def _write(path: Path, feedback: GenerativeFeedback, method: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in feedback.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda draft: save_file(state, draft, {"method": json.dumps(method)}))


def read_feedback(path: Path, model: ImageTextModel) -> GenerativeFeedback:
    """The generator that a `feedback-generator` stage left, with what belongs to it.

    Args:
        path: the file.
        model: that it was trained beside, or one of its shape.

    Raises:
        UsageError: no such file, or one that does not fit the model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            method = parse_json((file.metadata() or {})["method"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.random.fork_rng(devices=[]):
            feedback: GenerativeFeedback = build_part(method, FEEDBACK, "method", model)
        feedback.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} holds no generator of generative feedback for this model: {error}") from error
    return feedback


@register(PASSES, "feedback-generator")
@register(PASSES, "generative-feedback")
def _passes(stage: Stage, **settings: object) -> Uncounted:
    return Uncounted("the generator, whose size is a setting of its own, is most of a step")
