"""Few-shot tuning through low-rank adapters in both towers, plain and steered towards flat solutions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from sklearn.base import clone
from torch import Tensor

from binderclip.adapt.heads.base import IMAGES_AT_ONCE, Terms
from binderclip.adapt.heads.inputs import InputLevel
from binderclip.adapt.heads.through_model import ModelHead
from binderclip.adapt.heads.tuned import Training, Tunable
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.layers.freezing import frozen
from binderclip.models.layers.lora import Blocks, LoRA, first_block, lora_
from binderclip.models.text.prompts import trimmed
from binderclip.models.text.templates import fill, resolve_templates
from binderclip.models.towers.tokens import Tokens
from binderclip.optim import SteerBySharpness

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel
    from binderclip.optim.rules import Steering


class LoRAModule(Tunable):
    """Adapters on a model, run from the first adapted block of each tower on.

    Args:
        lora: on the model.
        model: as it is.
        texts: one sentence a class.
        towers: that are adapted.
        blocks: that are adapted.
        scale: factor on the cosines.
    """

    def __init__(
        self,
        lora: LoRA,
        model: ImageTextModel,
        texts: Sequence[str],
        towers: Sequence[str],
        blocks: Blocks,
        scale: float,
    ) -> None:
        refuse_bare_module(model, "LoRAModule")
        super().__init__()
        self.lora, self.scale = lora, scale
        self._image = model.image_tower
        self._from = first_block(model, "image", towers=towers, blocks=blocks)
        self._rows = text_side(model, texts, towers, blocks)
        self._like = _skeleton(model)

    def features(self, states: Float[Tensor, "B L D"]) -> Float[Tensor, "B E"]:
        """Unit image features of what `LoRATuning.states` gives."""
        tokens = self._like.with_x(states.to(self._image.dtype))
        pooled = self._image.pool(self._image.run(tokens, start=self._from))
        return F.normalize(self._image.project(pooled).float(), dim=-1)

    def rows(self) -> Float[Tensor, "C E"]:
        """Unit text features of the classes, by the adapted text tower."""
        return self._rows()

    def logits(self, x: Float[Tensor, "B L D"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        return self.scale * self.features(x) @ self.rows().T


@torch.no_grad()
def text_side(
    model: ImageTextModel, texts: Sequence[str], towers: Sequence[str], blocks: Blocks
) -> Callable[[], Float[Tensor, "C E"]]:
    """A function that gives the unit text features, with what stands before the first adapted block computed once."""
    tower = model.text_tower
    start = first_block(model, "text", towers=towers, blocks=blocks)
    tokens = tower.run(tower.embed(trimmed(tower, model.tokenize(texts))), stop=start)

    def rows() -> Float[Tensor, "C E"]:
        return F.normalize(tower.project(tower.pool(tower.run(tokens, start=start))).float(), dim=-1)

    if start < tower.depth:
        return rows
    fixed = rows()
    return lambda: fixed


@torch.no_grad()
def _skeleton(model: ImageTextModel) -> Tokens:
    """Positions and grid of one picture's tokens."""
    pixels = torch.zeros(1, 3, *model.preprocess.size, device=model.device, dtype=model.dtype)
    return model.image_tower.embed(pixels)


@dataclass(kw_only=True, eq=False, repr=False)
class LoRATuning(ModelHead):
    """Low-rank adapters on query, key and value of both towers, trained on a few images with the text re-encoded.

    X is pictures. What stands before the first adapted block (for the bundled models that is most of the work) is
    computed once for every picture and view, and only the rest runs in each step; `blocks=2` adapts the last two blocks
    of each tower and makes a step cheaper still. The cache takes N x V x tokens x width x 4 bytes. Constants are those
    of CLIP-LoRA, with 100 steps a shot where it takes 500.

    Args:
        model: adapted while it fits and predicts, and given back as it was.
        text_prior: as for every head; here only its names are compared with the labels, and its scale is used.
        classes: names of the rows where `text_prior` is an array.
        scale: factor on the cosines; None: the prior's own, else the model's.
        names: what the template calls each class: by label, or in the order of the sorted labels; None: the labels.
        template: one sentence with `{}`.
        r: rank. lora_alpha, target_modules, towers, blocks, use_rslora: see `models.lora_`.
        lora_dropout: of input channels, for a whole forward pass; PEFT's draws for each token (see `models.lora_`).
        steps: of the optimizer; None: 100 for each picture of a class.
        lr: of AdamW, cosine to 1e-6.
        weight_decay: of AdamW, on the factors alone.
        batch_size: pictures a step.
        seed: of the draw of factors, batches and dropout.

    Attributes:
        adapter_: all factors in one vector (`LoRA.load_vector`). coef_: (C, E) unit text features.

    Raises:
        UsageError: when fitted: arguments that `models.lora_` refuses, names that do not fit.
        NotSupported: a model whose towers cannot be opened.

    Paper: Low-Rank Few-Shot Adaptation of Vision-Language Models (arXiv 2405.18541).

    Examples:
        >>> head = LoRATuning(model, blocks=2)  # doctest: +SKIP
        >>> head.fit(features_for(head, model, paths), labels)  # doctest: +SKIP
    """

    input_level: ClassVar[InputLevel] = "images"

    template: str = "a photo of a {}."
    r: int = 2
    lora_alpha: float = 1.0
    lora_dropout: float = 0.25
    target_modules: Sequence[str] = ("q", "k", "v")
    towers: Sequence[str] = ("image", "text")
    blocks: Blocks = None
    use_rslora: bool = True
    steps: int | None = None
    lr: float = 2e-4
    weight_decay: float = 1e-2
    batch_size: int = 32
    seed: int = 0

    adapter_: Tensor = field(init=False)
    coef_: Tensor = field(init=False)

    # -- training ----------------------------------------------------------------------------------------------

    def _fit(self, views: Float[Tensor, "N V 3 H W"], targets: Int[Tensor, "N"]) -> None:
        self._shots = len(targets) / len(self.classes_)
        self._texts(["x"])  # a template that is none is refused before the work
        with frozen(self.model):
            states = self.states(views.flatten(0, 1)).unflatten(0, views.shape[:2])
            try:
                super()._fit(states, targets)
            finally:
                lora: LoRA | None = self.__dict__.pop("_lora", None)
                if lora is not None:
                    lora.remove()
                del self._shots

    def _module(self, views: Float[Tensor, "N V L D"], targets: Int[Tensor, "N"]) -> Tunable:
        self._lora = self._adapters()
        texts = self._texts(self._prompt_names(self.classes_.tolist()))
        return LoRAModule(self._lora, self.model, texts, self.towers, self.blocks, self.scale_)

    def _training(self) -> Training:
        floor = min(1e-6 / self.lr, 1.0) if self.lr > 0 else 1.0
        return Training(
            lr=self.lr,
            steps=math.ceil(100 * self._shots) if self.steps is None else self.steps,
            batch_size=self.batch_size,
            optimizer={"name": "adamw", "weight_decay": self.weight_decay},
            schedule=lambda progress: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)),
            seed=self.seed,
        )

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, LoRAModule)
        self.adapter_, self.coef_ = module.lora.vector(), module.rows().detach().cpu().clone()

    def _adapters(self, model: ImageTextModel | None = None) -> LoRA:
        return lora_(
            self.model if model is None else model,
            self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=self.target_modules,
            towers=self.towers,
            blocks=self.blocks,
            use_rslora=self.use_rslora,
        )

    def adapted(self, model: ImageTextModel | None = None) -> LoRA:
        """The fitted adapters, put on the model (or a copy of it); `with head.adapted():` takes them off again."""
        refuse_bare_module(model, "LoRATuning.adapted")
        with torch.random.fork_rng(devices=[]):
            lora = self._adapters(model).eval()
        return lora.load_vector(self.adapter_)

    def _texts(self, names: Sequence[str]) -> list[str]:
        patterns = resolve_templates(self.template)
        if len(patterns) != 1:
            raise UsageError(f"template must be one sentence, {self.template!r} is {len(patterns)}")
        return [fill(patterns[0], name.replace("_", " ")) for name in names]

    # -- prediction --------------------------------------------------------------------------------------------

    def states(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N L D"]:
        """What enters the first adapted block of the image tower: the same for every adapter, so computed once.

        Args:
            images: in [0, 1].
        """
        tower = self.model.image_tower
        stop = first_block(self.model, "image", towers=self.towers, blocks=self.blocks)
        with torch.no_grad(), frozen(self.model):
            parts = images.to(self.model.device, torch.float32).split(IMAGES_AT_ONCE)
            pixels = (self.model.preprocess(part).to(self.model.dtype) for part in parts)
            return torch.cat([tower.run(tower.embed(part), stop=stop).x for part in pixels])

    def from_states(self, states: Float[Tensor, "N L D"]) -> Float[Tensor, "N C"]:
        """Logits of what `states` gave."""
        tower = self.model.image_tower
        start = first_block(self.model, "image", towers=self.towers, blocks=self.blocks)
        like = _skeleton(self.model)
        with frozen(self.model), self.adapted(), torch.no_grad():
            parts = [like.with_x(part.to(tower.dtype)) for part in states.split(IMAGES_AT_ONCE)]
            raw = torch.cat([tower.project(tower.pool(tower.run(part, start=start))).float() for part in parts])
        return self._cosines(raw)

    def _terms(self, x: Float[Tensor, "N 3 H W"]) -> Terms:
        tower, pixels = self.model.image_tower, self.model.preprocess(x.float())
        with frozen(self.model), self.adapted():
            raw = tower(pixels.to(self.model.device, self.model.dtype)).float()
        return {"text": self._cosines(raw)}

    def _cosines(self, raw: Float[Tensor, "N E"]) -> Float[Tensor, "N C"]:
        return self.scale_ * F.normalize(raw, dim=-1) @ self.coef_.to(raw).T

    def export(self) -> ImageTextModel:
        """A copy of the model with the adapters merged into its weights: it classifies, searches and is saved as such.

        `export().classify(images, labels, templates=head.template)` is this head.
        """
        model = copy.deepcopy(self.model)
        self.adapted(model).merge()
        return model

    def classifier_for(self, classes: Sequence[Any] | Mapping[Any, Any]) -> LoRATuning:
        """The same adapters with other classes, of which no image was seen (base-to-new).

        Args:
            classes: the new labels, their own names in the template; or {label: name}.
        """
        names = [str(name) for name in (classes.values() if isinstance(classes, Mapping) else classes)]
        head: LoRATuning = clone(self).set_params(text_prior=None, classes=None, names=None)
        head.classes_, head.prior_, head.scale_ = np.asarray(list(classes)), None, self.scale_
        head.n_features_in_, head.n_trainable_, head.history_ = self.n_features_in_, self.n_trainable_, {}
        head.adapter_ = self.adapter_.clone()
        with torch.no_grad(), frozen(self.model), self.adapted():
            head.coef_ = text_side(self.model, self._texts(names), self.towers, self.blocks)().cpu()
        return head


@dataclass(kw_only=True, eq=False, repr=False)
class GLAD(LoRATuning):
    """LoRA whose gradient is steered by the gradient at a nearby, sharper point, so that it transfers better.

    Each step takes two forward and backward passes (`optim.SteerBySharpness`). The code of the paper is not published:
    the rule `steer` and its constants are our reading of it, the other rules are there to compare.

    Args:
        model, text_prior, ..., seed: as in `LoRATuning`.
        rho: length of the step to the sharper point.
        rule: `steer`, `project`, `blend` or `sam`.
        strength: how much, in [0, 1].
        keep_norm: the steered gradient has the length of the plain one.

    Attributes:
        cosine_: mean cosine of the two gradients over the steps; near 1 there was little to steer by.
        adapter_, coef_: as in `LoRATuning`.

    Raises:
        UsageError: a wrong `rho`, `rule` or `strength`, and as `LoRATuning`.

    Paper: GLAD: Generalizable Tuning for Vision-Language Models (arXiv 2507.13089).
    """

    rho: float = 0.05
    rule: Steering = "steer"
    strength: float = 0.5
    keep_norm: bool = True

    cosine_: float = field(init=False)

    def _fit(self, views: Float[Tensor, "N V 3 H W"], targets: Int[Tensor, "N"]) -> None:
        self._rule = SteerBySharpness(self.rho, self.rule, self.strength, self.keep_norm)
        try:
            super()._fit(views, targets)
            self.cosine_ = float(self._rule.mean_cosine)
        finally:
            del self._rule

    def _training(self) -> Training:
        return replace(super()._training(), rule=self._rule)
