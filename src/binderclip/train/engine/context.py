"""What a stage works with: the model, its data, and the one way to train and to measure it."""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from binderclip.data import ImageTextDataset, TextAugment
from binderclip.data.sets.shards import ShardDataset
from binderclip.errors import NotSupported, UsageError
from binderclip.fit import Checkpoint, FitResult, fit
from binderclip.fit.state import module_state
from binderclip.losses import Similarity
from binderclip.models import ImageTextModel
from binderclip.models.checks import refuse_bare_module
from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.optim import GRAD_TRANSFORMS, param_groups
from binderclip.settings import build_part
from binderclip.train.distributed import Parallel, World, spread
from binderclip.train.engine.evaluator import Evaluator
from binderclip.train.engine.monitor import ProgressOption
from binderclip.train.engine.watchers import Watchers
from binderclip.train.feed.batches import Batches, Order, Prepare
from binderclip.train.feed.captions import MakeTexts, augmented_texts, caption_tokens, further_texts
from binderclip.train.feed.pictures import FIT, Pictures, Pixels, open_sources
from binderclip.train.feed.stream import ShardBatches
from binderclip.train.recipe.augmentation import make_augment
from binderclip.train.recipe.recipe import Recipe, Stage
from binderclip.train.tokens.place import input_side

__all__ = ["StageContext", "StageOutcome"]

LOG_EVERY = 20


@dataclass
class StageOutcome:
    """What a stage left behind, for the run's summary.

    Args:
        name, kind: of the stage.
        history: figures of every step.
        evaluations: measurements, each with its `step`.
        steps, seconds, images_per_second: of the training itself.
        skipped: pictures that could not be read.
        data_hash: of what was trained on.
        zero_gradients: names of parameters whose gradient was exactly zero in each of the first steps.
        notes: anything a stage of another kind wants in the summary.
    """

    name: str
    kind: str
    history: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    resumed_from: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    data_hash: str = ""
    zero_gradients: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class StageContext:
    """Given to a stage function, which calls `batches`, `fit` and `evaluate` as it needs.

    A stage that trains something else than images against captions builds its own module and its own batches (any
    iterable with `seek`) and hands both to `fit`: schedule, clip, checkpoints, resume, progress, metrics and
    distribution are then those of every stage.

    Args:
        recipe: the whole recipe.
        stage: this stage's entries.
        index: its number.
        model: the model as the stage before left it; a stage trains it in place or assigns another. An
            `ImageTextModel`, or a module of another room with `backbone`, `preprocess`, `card` and
            `save(folder, dtype=)` whose folder `reopen` knows.
        out: the run directory.
        world: the processes.
        parallel: `ddp` or `fsdp`.
        resume: go on from a checkpoint.
        progress: show one, or the displays to show.
        columns: tensors with a row for every training picture; they arrive in each batch and in the loss by name.
        similarity: geometry that held-out data is measured in, set by the stage; None: cosines.
    """

    recipe: Recipe
    stage: Stage
    index: int
    model: Any
    out: Path
    world: World = field(default_factory=World)
    parallel: Parallel = "ddp"
    resume: bool = False
    progress: ProgressOption = True
    columns: dict[str, Tensor] = field(default_factory=dict)
    similarity: Similarity | None = None
    outcome: StageOutcome = field(init=False)
    _source: Any = field(default=None, repr=False)
    _evaluator: Evaluator | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        kind = self.stage.kind if isinstance(self.stage.kind, str) else self.stage.kind["name"]
        self.outcome = StageOutcome(self.stage.name, kind)

    # --- data ---------------------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        """The recipe's seed, different for each stage."""
        return self.recipe.seed + 7919 * self.index

    @property
    def image_size(self) -> int:
        """Side of the training pictures."""
        if self.stage.image_size is not None:
            return self.stage.image_size
        size = self.model.image_size
        return size if isinstance(size, int) else max(size)

    @property
    def input_size(self) -> int:
        """Side of the pictures that the tower is given: `image_size`, or what `image_tokens = resize` makes of it."""
        return input_side(self.model.backbone, self.stage.reduction(), self.image_size)

    @property
    def pictures(self) -> Pictures:
        """The training pictures as a table, opened once.

        Raises:
            NotSupported: the data is a stream of shards.
        """
        source = self.source
        if not isinstance(source, Pictures):
            raise NotSupported(f"stage {self.stage.name!r} needs its pictures as a table, and shards are a stream")
        return source

    @property
    def source(self) -> Pictures | ShardDataset:
        """The training pictures, or the shards they stream from."""
        if self._source is None:
            sets, weights = open_sources(self.stage.data)
            streams = [s for s in sets if not isinstance(s, ImageTextDataset)]
            if streams and len(sets) > 1:
                names = ", ".join(spec.name for spec in self.stage.data)
                raise NotSupported(f"data {names}: shards are a stream and must be the only source of a stage")
            self._source = streams[0] if streams else self._table(sets, weights)
        return self._source

    def _table(self, sets: Sequence[Any], weights: Sequence[float]) -> Pictures:
        memory, workers = self.recipe.cache_mb << 20, self.recipe.workers
        return Pictures(sets, weights, size=self.image_size, fit=self.square, memory=memory, workers=workers)

    @property
    def square(self) -> Literal["pad", "crop", "squash"]:
        """How pictures become square, by the model's own way of resizing: "pad", "crop" or "squash"."""
        return FIT.get(self.model.preprocess.resize_mode, "pad")

    def order(self) -> Order:
        """Which pictures each batch holds."""
        pictures = self.pictures
        return Order(pictures.sizes, pictures.weights, self.stage.batch_size, self.seed)

    def batches(
        self,
        *,
        columns: Mapping[str, Tensor] | None = None,
        augment: Callable[[Pixels], Tensor] | None = None,
        texts: tuple[TextAugment, int] | MakeTexts | None = None,
    ) -> Batches | ShardBatches:
        """Augmented, normalised, tokenised batches of the stage's data.

        Args:
            columns: further tensors with a row for every picture, besides `self.columns`.
            augment: instead of the recipe's augmentation.
            texts: how captions are changed, and how many variants of each a batch has beside them; or what makes
                further texts of captions.
        """
        model, stage, world = self.model, self.stage, self.world
        columns = {**self.columns, **(columns or {})}
        pixels = model.preprocess
        prepare = Prepare(augment or self.augment(), pixels.mean, pixels.std, world.device, stage.channels_last)
        tokenize, shorten = caption_tokens(model, stage.text_length, stage.text_tokens, seed=self.seed)
        if isinstance(texts, tuple):
            further = augmented_texts(*texts, tokenize, shorten) if texts[1] else None
        else:
            further = None if texts is None else further_texts(texts, tokenize, shorten)
        if isinstance(self.source, Pictures):
            ahead, tokens = 2 if self.recipe.workers else 0, tokenize(self.source.texts)
            return Batches(
                self.source, self.order(), prepare=prepare, tokens=tokens, shorten=shorten, world=world,
                columns=columns, texts=further, ahead=ahead,
            )  # fmt: skip
        if columns:
            raise NotSupported(f"{', '.join(columns)}: columns belong to a table of pictures, and shards are a stream")
        share = world.share(stage.batch_size)
        self.source.seed = self.seed
        return ShardBatches(
            self.source,
            batch_size=share.stop - share.start,
            prepare=prepare,
            tokenize=tokenize,
            shorten=shorten,
            texts=further,
            size=self.image_size,
            fit=self.square,
            workers=self.recipe.workers,
            world=world,
        )

    def augment(self) -> Callable[[Pixels], Tensor]:
        """The recipe's augmentation as a function of raw pixels."""
        mean = self.model.preprocess.mean
        made = make_augment(self.stage.augment, size=self.input_size, seed=self.seed, mean=mean)
        return lambda pixels: made(pixels.images, pixels.keys, pixels.epoch)

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        stage, each = self.stage, self.stage.batch_size * self.stage.accumulate
        if stage.samples is not None:
            return max(1, round(stage.samples / each))
        assert stage.epochs is not None
        if isinstance(self.source, Pictures):
            return max(1, round(stage.epochs * self.order().batches_per_epoch / stage.accumulate))
        if self.source.count is None:
            raise UsageError("epochs: how many pictures the shards hold is not known; say samples = ... instead")
        return max(1, round(stage.epochs * self.source.count / each))

    # --- training -----------------------------------------------------------------------------------------------------

    def fit(
        self,
        module: nn.Module,
        batches: Any,
        *,
        steps: int | None = None,
        groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None,
        step: Callable[..., Any] | None = None,
    ) -> FitResult:
        """Train `module` on `batches` with everything the recipe says; the parameters are changed in place.

        Args:
            module: its `forward(batch)` gives `(loss, metrics)`; it holds whatever is to be trained and saved.
            batches: an iterable of batches with `seek(n)`.
            steps: optimizer steps; default those of the recipe.
            groups: parameter groups of the module; default weight decay, rates and freezing of the recipe.
            step: called with a batch instead of the (wrapped) module.
        """
        steps = self.steps if steps is None else steps
        module.to(self.world.device).train()
        frozen = self._freeze()
        sharded = self.parallel == "fsdp" and self.world.size > 1
        # What is cut into shards is a copy, so that the model stays an ordinary one that can be measured and saved.
        worker = copy.deepcopy(module) if sharded else module
        average = self._average(module)
        try:
            with fast_gradients(worker):
                result = self._fit(module, worker, average, batches, steps, groups or self.groups, step)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)
        if average is not None:
            module.load_state_dict(average.module.state_dict())
        elif sharded:
            module.load_state_dict(module_state(worker))
        return result

    def _fit(
        self,
        module: nn.Module,
        worker: nn.Module,
        average: AveragedModel | None,
        batches: Any,
        steps: int,
        groups: Callable[[nn.Module], list[dict[str, Any]]],
        step: Callable[..., Any] | None,
    ) -> FitResult:
        """The loop of `fit`, with everything that watches it."""
        stage = self.stage
        spread_module = spread(worker, self.world, self.parallel)
        trained = groups(worker)
        watchers = Watchers(self, steps, lambda: self._latest(module, worker, average), self._named(worker, trained))
        transform = self._grad_transform(worker)
        warmup = stage.warmup if stage.warmup < 1 else round(stage.warmup / (stage.batch_size * stage.accumulate))
        try:
            result = fit(
                step or spread_module,
                trained,
                batches,
                steps=steps,
                optimizer=stage.optimizer if isinstance(stage.optimizer, str) else dict(stage.optimizer),
                lr=stage.lr,
                schedule=stage.schedule,
                warmup=min(warmup, steps) if warmup >= 1 else warmup,
                floor=stage.floor,
                accumulate=stage.accumulate,
                clip=watchers.clip,
                grad_transform=transform,
                ema=average,
                precision=stage.precision,
                checkpoint=self.checkpoint(getattr(batches, "data_hash", None)),
                callbacks=watchers.callbacks,
                module=spread_module,
                log_every=min(LOG_EVERY, max(1, steps // 10)),
            )
        finally:
            watchers.close()
            if transform is not None:
                transform.close()
        self._note(result, watchers)
        return result

    def _grad_transform(self, worker: nn.Module) -> Any:
        """What the recipe does to gradients, made of the image tower that is trained; None for nothing."""
        if self.stage.grad_transform is None:
            return None
        model = _model_in(worker) or self.model
        tower = getattr(model, "visual", model.backbone)
        return build_part(self.stage.grad_transform, GRAD_TRANSFORMS, "grad_transform", tower)

    def _latest(self, module: nn.Module, worker: nn.Module, average: AveragedModel | None) -> Any:
        """The model as it would be saved now; every process must ask."""
        if average is not None:
            return _model_in(average) or self.model
        if worker is not module:
            module.load_state_dict(module_state(worker))
        return _model_in(module) or self.model

    def groups(self, module: nn.Module) -> list[dict[str, Any]]:
        """Groups of the recipe: weight decay and rates by name for the model, plain ones for what is beside it.

        Names are those of the backbone (`visual.*`, `text.*`, `logit_scale`).
        """
        stage, backbone = self.stage, (_model_in(module) or self.model).backbone
        inside = {id(p) for p in backbone.parameters()}
        resting = [name for name, p in backbone.named_parameters() if not p.requires_grad]
        learning = [name for name, p in backbone.named_parameters() if p.requires_grad]

        def speaks(pattern: str) -> bool:
            """Whether a pattern is about what is trained; one that names nothing at all is refused below."""
            return bool(fnmatch.filter(learning, pattern)) or not fnmatch.filter(resting, pattern)

        settings = [(g, [p for p in g.patterns if speaks(p)]) for g in stage.groups if not g.freeze]
        layers = {p: g.layer_decay for g, patterns in settings if g.layer_decay is not None for p in patterns}
        groups: list[dict[str, Any]] = []
        if any(id(p) in inside and p.requires_grad for p in module.parameters()):
            groups = param_groups(
                backbone,
                stage.weight_decay,
                lr_scale={pattern: g.lr for g, patterns in settings for pattern in patterns},
                layer_decay={**layers, "*": stage.layer_decay} if layers else stage.layer_decay,
                no_decay=[pattern for g, patterns in settings if not g.weight_decay for pattern in patterns],
            )
        beside = [p for p in module.parameters() if id(p) not in inside and p.requires_grad]
        if beside:
            flat, matrices = [p for p in beside if p.ndim < 2], [p for p in beside if p.ndim >= 2]
            groups += [{"params": p, "weight_decay": d} for p, d in ((matrices, stage.weight_decay), (flat, 0.0)) if p]
        return groups

    def _named(self, module: nn.Module, groups: Sequence[Mapping[str, Any]]) -> list[tuple[str, Tensor]]:
        """The parameters of the groups by name, those of the model as its backbone calls them."""
        model = _model_in(module) or self.model
        names = {id(p): n for part in (module, model.backbone) for n, p in part.named_parameters()}
        lists = [[g["params"]] if isinstance(g["params"], Tensor) else list(g["params"]) for g in groups]
        return [(names.get(id(p), "unnamed"), p) for params in lists for p in params]

    def _freeze(self) -> list[Tensor]:
        """Switch gradients off where the recipe says so; the parameters to switch on again afterwards."""
        frozen = []
        for group in self.stage.groups:
            if not group.freeze:
                continue
            for pattern in group.patterns:
                parameters = [p for n, p in self.model.backbone.named_parameters() if fnmatch.fnmatchcase(n, pattern)]
                if not parameters:
                    names = [n for n, _ in self.model.backbone.named_parameters()][:3]
                    raise UsageError(
                        f"groups: no parameter is named like {pattern!r}; names look like {', '.join(names)}"
                    )
                frozen += [p.requires_grad_(False) for p in parameters if p.requires_grad]
        return frozen

    def _average(self, module: nn.Module) -> AveragedModel | None:
        if self.stage.ema is None:
            return None
        return AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(self.stage.ema))

    def checkpoint(self, data_hash: str | None = None) -> Checkpoint:
        """Where this stage saves and what it goes on from.

        Args:
            data_hash: of what is trained on; a resumed run must find the same. Default that of the stage's pictures.
        """
        document = {**self.stage.model_dump(), "model": self.recipe.model, "seed": self.recipe.seed}
        for key in ("checkpoint_every", "name"):
            document.pop(key)
        if data_hash is None and isinstance(self._source, Pictures):
            data_hash = self._source.data_hash
        document["data_hash"] = self.outcome.data_hash = data_hash or ""
        return Checkpoint(
            self.folder("checkpoints"), every=self.stage.checkpoint_every, resume=self.resume, identity=document
        )

    def folder(self, kind: str) -> Path:
        """This stage's folder under `RUN/checkpoints`, `RUN/stages` or `RUN/clipping`."""
        return self.out / kind / f"{self.index:02d}-{self.stage.name}"

    def _note(self, result: FitResult, watchers: Watchers) -> None:
        out = self.outcome
        out.history, out.steps, out.seconds = result.history, result.steps, result.seconds
        out.images_per_second, out.resumed_from = result.images_per_second, result.resumed_from
        out.evaluations, out.zero_gradients = watchers.evaluations, watchers.zero.names
        if self._source is not None:
            out.skipped = list(self._source.skipped)

    # --- measuring ----------------------------------------------------------------------------------------------------

    @property
    def evaluator(self) -> Evaluator:
        """The recipe's held-out data."""
        if self._evaluator is None:
            self._evaluator = Evaluator(self.recipe.evaluation, self.model)
        return self._evaluator

    def evaluate(self, model: ImageTextModel | None = None) -> dict[str, float]:
        """Held-out figures of the model, measured by the leading process; {} where the recipe names no data."""
        refuse_bare_module(model, "StageContext.evaluate")
        if not self.recipe.evaluation.data:
            return {}
        if not self.world.leads:
            return self.world.agree(None)
        return self.world.agree(self.evaluator(self.model if model is None else model, self.similarity))


def _model_in(module: nn.Module) -> ImageTextModel | None:
    """The first image-text model inside a module."""
    return next((inner for inner in module.modules() if isinstance(inner, ImageTextModel)), None)
