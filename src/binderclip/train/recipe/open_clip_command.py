"""The nearest command of open_clip's own training program for a recipe, and what it cannot say."""

from __future__ import annotations

import inspect
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from binderclip.data.augment.augment import PLAIN, Augment
from binderclip.settings import brief, part_name
from binderclip.train.recipe.stage import DataSpec, EvaluationSpec, Stage
from binderclip.train.tokens.image import RandomPatches

if TYPE_CHECKING:
    from binderclip.train.recipe.recipe import Recipe

__all__ = ["OpenClipCommand", "open_clip_commands"]

_PROGRAM = "open_clip_train.main"
_TIMM = ("adafactor", "adam", "lamb", "rmsprop", "sgd")
_PRECISIONS = {"float32": "fp32", "bfloat16": "amp_bf16", "float16": "amp"}
_JITTER = ("brightness", "contrast", "saturation", "hue")
# Entry of a stage -> why its other values than the usual one cannot be said.
_UNSAID = {
    "terms": "there are no further losses",
    "teacher": "a frozen copy of the model is no teacher there; --distill-model compares with another model's logits",
    "ema": "the weights are not averaged",
    "grad_transform": "gradients are clipped and not changed otherwise",
    "accumulate": "--accum-freq compares all pictures of a step with all its captions, as micro_batch does here",
    "text_tokens": "captions are shortened by the tokenizer, see reduction_mask in the model's text_cfg",
    "positions": "positions are resampled once, when weights of another size are loaded",
    "layer_decay": "all layers have one rate",
    "channels_last": "the memory format is torch's own",
    "checkpoint_every": "checkpoints are written after epochs, see --save-frequency",
}


@dataclass(frozen=True)
class OpenClipCommand:
    """A stage of a recipe for `python -m open_clip_train.main`; `str` of it is the command with comments above.

    Attributes:
        stage: its name.
        arguments: of the program, for one process.
        unsaid: entry of the recipe -> why open_clip's program does otherwise.
    """

    stage: str
    arguments: list[str] = field(default_factory=list)
    unsaid: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        comments = [f"# {entry}: {why}" for entry, why in self.unsaid.items()]
        title = f"# stage {self.stage}, for one process; of several, each has its share of --batch-size"
        return "\n".join([title, *comments, shlex.join(["python", "-m", _PROGRAM, *self.arguments])])

    def add(self, *arguments: object) -> None:
        """Append arguments."""
        self.arguments.extend(map(str, arguments))


def open_clip_commands(recipe: Recipe) -> list[OpenClipCommand]:
    """The nearest commands of open_clip's training program, one for each stage, for one process.

    Names and meanings are those of open_clip 3.3. Data have to be shards there; a set that is none is named like the
    shards that it would be written to, and a new model like the folder with its `open_clip_config.json`.

    Args:
        recipe: a checked recipe.

    Examples:
        >>> from binderclip.train import load_recipe, open_clip_commands
        >>> (command,) = open_clip_commands(load_recipe("scratch-64"))
        >>> command.arguments[:4]
        ['--name', 'scratch-64', '--seed', '0']
        >>> "augment.flip" in command.unsaid
        True
    """
    return [_command(recipe, number) for number in range(len(recipe.stage))]


def _command(recipe: Recipe, number: int) -> OpenClipCommand:
    stage = recipe.stage[number]
    made = OpenClipCommand(stage.name)
    made.add("--name", _run_name(recipe, number), "--seed", recipe.seed, "--workers", recipe.workers)
    _model(made, recipe, number)
    _data(made, stage)
    _evaluation(made, recipe.evaluation)
    _length(made, stage)
    _optimizer(made, stage)
    _pictures(made, stage)
    _learning(made, stage)
    if recipe.save_dtype != "float32":
        made.unsaid["save_dtype"] = "weights are saved as they are trained"
    for entry, why in _UNSAID.items():
        if getattr(stage, entry) != Stage.model_fields[entry].default:
            made.unsaid[entry] = why
    return made


def _run_name(recipe: Recipe, number: int) -> str:
    parts = [recipe.name] if len(recipe.stage) == 1 else [recipe.name, recipe.stage[number].name]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(parts))


def _model(made: OpenClipCommand, recipe: Recipe, number: int) -> None:
    named = isinstance(recipe.model, str) and re.fullmatch(r"open_clip:([^/]+)(?:/(.+))?", recipe.model)
    if named:
        made.add("--model", named[1])
    else:
        made.add("--model", f"local-dir:{re.sub(r'[^A-Za-z0-9._-]+', '_', recipe.name)}")
        made.unsaid["model"] = (
            f"{recipe.model!r} as a folder with open_clip_config.json, as a run's stages/start or model is"
            if isinstance(recipe.model, str)
            else f"a folder with open_clip_config.json, as a run's stages/start is: {json.dumps(recipe.model)}"
        )
    if number:
        folder = f"logs/{_run_name(recipe, number - 1)}/checkpoints"
        if named:
            last = math.ceil(recipe.stage[number - 1].epochs or 1)
            made.add("--pretrained", f"{folder}/epoch_{last}.pt")
        else:
            made.unsaid["stage"] = f"put the last weights of {folder} into the model's folder: it starts from those"
    elif named and named[2]:
        made.add("--pretrained", named[2])


def _data(made: OpenClipCommand, stage: Stage) -> None:
    made.add("--dataset-type", "webdataset")
    if stage.data:
        made.add("--train-data", "::".join(_shards(made, f"data.{i}", spec) for i, spec in enumerate(stage.data)))
    else:
        made.unsaid["data"] = "name shards of pictures and captions"
    if any(spec.weight != 1 for spec in stage.data):
        made.add("--train-data-upsampling-factors", "::".join(f"{spec.weight:g}" for spec in stage.data))
        made.add("--dataset-resampled")


def _shards(made: OpenClipCommand, entry: str, spec: DataSpec) -> str:
    for name in ("limit", "hold_out", "options"):
        if getattr(spec, name) != DataSpec.model_fields[name].default:
            made.unsaid[f"{entry}.{name}"] = "write shards of these pictures alone"
    if spec.name.startswith("pipe:") or ".tar" in spec.name:
        return spec.name
    part = f"-{spec.split}" if spec.split else ""
    made.unsaid[f"{entry}.name"] = f"write {spec.name!r} as shards" + (f", split {spec.split!r}" if part else "")
    return f"{spec.name.rstrip('/')}{part}.tar"


def _evaluation(made: OpenClipCommand, evaluation: EvaluationSpec) -> None:
    if evaluation.data:
        shards = [_shards(made, f"evaluation.data.{i}", spec) for i, spec in enumerate(evaluation.data)]
        made.add("--val-data", shards[0])
        if len(shards) > 1:
            made.unsaid["evaluation.data"] = f"one set is measured, not {', '.join(shards[1:])}"
    if evaluation.every:
        made.unsaid["evaluation.every"] = "measured after epochs, see --val-frequency"
    if evaluation.templates != EvaluationSpec.model_fields["templates"].default:
        made.unsaid["evaluation.templates"] = "zero-shot accuracy is that of ImageNet with CLIP's 80 sentences"


def _length(made: OpenClipCommand, stage: Stage) -> None:
    each, pieces = stage.batch_size, stage.micro_batch
    if pieces is None or pieces >= each:
        made.add("--batch-size", each)
    else:
        made.add("--batch-size", pieces, "--accum-freq", max(1, each // pieces))
        if each % pieces:
            made.unsaid["micro_batch"] = f"pieces of one size: {each // pieces} times {pieces} pictures a step"
    steps = None
    if stage.samples is not None:
        steps = max(1, round(stage.samples / (each * stage.accumulate)))
        made.add("--epochs", 1, "--train-num-samples", stage.samples)
    else:
        assert stage.epochs is not None
        made.add("--epochs", math.ceil(stage.epochs))
        made.unsaid["epochs"] = "add --train-num-samples, the pairs of an epoch" + (
            "" if stage.epochs == int(stage.epochs) else f"; whole epochs only, not {stage.epochs:g}"
        )
    if stage.warmup >= 1:
        made.add("--warmup", round(stage.warmup / (each * stage.accumulate)))
    elif steps is not None or stage.warmup == 0:
        made.add("--warmup", round(stage.warmup * (steps or 0)))
    else:
        made.add("--warmup", 0)
        made.unsaid["warmup"] = f"give --warmup as {stage.warmup:g} of the steps"
    _schedule(made, stage)


def _schedule(made: OpenClipCommand, stage: Stage) -> None:
    if stage.schedule == "linear":
        made.add("--lr-scheduler", "const-cooldown", "--epochs-cooldown", math.ceil(stage.epochs or 1))
        made.add("--lr-cooldown-end", stage.floor * stage.lr)
        return
    if stage.schedule in ("cosine", "constant"):
        made.add("--lr-scheduler", "cosine" if stage.schedule == "cosine" else "const")
    else:
        made.unsaid["schedule"] = f"there is no schedule {stage.schedule!r}; cosine is the usual one"
    if stage.floor and stage.schedule != "constant":
        made.unsaid["floor"] = "the cosine ends at 0"


def _optimizer(made: OpenClipCommand, stage: Stage) -> None:
    import torch

    made.add("--lr", stage.lr, "--wd", stage.weight_decay)
    name = part_name(stage.optimizer)
    given = {} if isinstance(stage.optimizer, str) else {k: v for k, v in stage.optimizer.items() if k != "name"}
    if name == "adamw":
        usual = inspect.signature(torch.optim.AdamW).parameters
        betas = given.pop("betas", usual["betas"].default)
        made.add("--beta1", betas[0], "--beta2", betas[1], "--eps", given.pop("eps", usual["eps"].default))
    elif name in _TIMM:
        made.add("--opt", f"timm/{name}")
        made.unsaid["optimizer"] = f"timm's {name}, whose settings have other defaults"
        if "momentum" in given:
            made.add("--momentum", given.pop("momentum"))
    else:
        made.unsaid["optimizer"] = f"there is no {name}; adamw takes its place"
    for key in given:
        made.unsaid[f"optimizer.{key}"] = "no such argument"
    _clip(made, stage.clip)


def _clip(made: OpenClipCommand, clip: Any) -> None:
    if clip is None:
        return
    settings = {"name": clip} if isinstance(clip, str) else clip
    if isinstance(settings, (int, float)):
        made.add("--grad-clip-norm", settings)
    elif isinstance(settings, Mapping) and settings.get("name") == "norm" and {*settings} <= {"name", "max_norm"}:
        made.add("--grad-clip-norm", settings.get("max_norm", 1.0))
    else:
        made.unsaid["clip"] = f"only --grad-clip-norm, a fixed norm, and not {brief(clip)}"


def _pictures(made: OpenClipCommand, stage: Stage) -> None:
    if stage.image_size is not None:
        made.add("--force-image-size", stage.image_size)
    if stage.text_length is not None:
        made.add("--force-context-length", stage.text_length)
    if isinstance(reduction := stage.reduction(), RandomPatches):
        made.add("--force-patch-dropout", round(1 - reduction.keep, 6))
    elif reduction is not None:
        kind = part_name(stage.image_tokens or "")
        made.unsaid["image_tokens"] = f"patches are dropped at random or not at all, not by {kind!r}"
    usual = {key: p.default for key, p in inspect.signature(Augment).parameters.items()}
    chosen = {**usual, **(stage.augment if isinstance(stage.augment, dict) else {} if stage.augment else PLAIN)}
    made.add("--aug-cfg", f"scale=({chosen['scale'][0]},{chosen['scale'][1]})")
    if any(chosen[name] for name in _JITTER):
        made.add(f"color_jitter=({','.join(str(chosen[name]) for name in _JITTER)})", "color_jitter_prob=1.0")
    if chosen["grey"]:
        made.add(f"gray_scale_prob={chosen['grey']}")
    for name, why in (("flip", "nothing is mirrored"), ("rotate", "nothing is turned"), ("cutout", "no holes")):
        if chosen[name]:
            made.unsaid[f"augment.{name}"] = why
    if tuple(chosen["ratio"]) != (3 / 4, 4 / 3):
        made.unsaid["augment.ratio"] = "crops are 3:4 to 4:3"
    if chosen["white"] < 1 or chosen["paint"]:
        made.unsaid["augment.background"] = "transparent parts get no random background"


def _learning(made: OpenClipCommand, stage: Stage) -> None:
    kind, loss = part_name(stage.kind), part_name(stage.loss)
    if kind != "contrastive":
        made.unsaid["kind"] = f"images against captions only, nothing like {kind!r}"
    if loss == "siglip":
        made.add("--siglip")
    elif loss != "clip":
        made.unsaid["loss"] = f"CLIP's loss or --siglip, not {loss!r}"
    for key in () if isinstance(stage.loss, str) else stage.loss:
        if key != "name":
            made.unsaid[f"loss.{key}"] = "no such argument"
    made.add("--precision", _PRECISIONS[stage.precision])
    if stage.grad_checkpointing:
        made.add("--grad-checkpointing")
    for number, group in enumerate(stage.groups):
        if group.freeze and group.patterns == ["visual.*"]:
            made.add("--lock-image")
        else:
            made.unsaid[f"groups.{number}"] = f"no rates or freezing by name, as for {', '.join(group.patterns)}"
