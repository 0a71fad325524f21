"""Learned prompts: the classifier's words are trained through the frozen text tower, on cached image features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.adapt.heads.base import Terms
from binderclip.adapt.heads.through_model import ModelHead
from binderclip.adapt.heads.tuned import Training, Tunable, prompt_training
from binderclip.adapt.zero_shot.classifier import ZeroShotClassifier
from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.models.text.prompts import Position, PromptContext
from binderclip.numeric import check_number
from binderclip.optim import ProjectConflicting
from binderclip.settings import check_choice


class PromptModule(Tunable):
    """Contexts in front of class names, and the losses of their classifier.

    Args:
        prompts: what is trained.
        scale: factor on the cosines.
        loss: `joint`: the cross-entropy of the averaged prototype; `per-prompt`: the mean over contexts of each one's.
        teacher: (C, E) unit rows whose predictions are the second loss, `general`; None for none.
        temperature: of that loss.
    """

    def __init__(
        self,
        prompts: PromptContext,
        scale: float,
        *,
        loss: str = "joint",
        teacher: Float[Tensor, "C E"] | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.prompts = prompts
        self.scale, self.loss, self.temperature = scale, loss, temperature
        self.teacher = None if teacher is None else teacher.to(prompts.weight)

    def rows(self) -> Float[Tensor, "P C E"]:
        """Unit text features of every context."""
        return F.normalize(self.prompts(), dim=-1)

    def logits(self, x: Float[Tensor, "B E"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        return self.scale * x @ average(self.rows()).T

    def losses(self, x: Float[Tensor, "B E"], targets: Int[Tensor, "B"], rows: Int[Tensor, "B"]) -> dict[str, Tensor]:
        if self.loss == "per-prompt":
            logits = self.scale * torch.einsum("be,pce->bpc", x, self.rows())
            return {"task": F.cross_entropy(logits.flatten(0, 1), targets.repeat_interleave(logits.shape[1]))}
        logits = self.logits(x)
        losses = {"task": F.cross_entropy(logits, targets)}
        if self.teacher is not None:
            t = self.temperature
            teacher_probs = (self.scale * x @ self.teacher.T / t).softmax(dim=-1)
            losses["general"] = -(teacher_probs * (logits / t).log_softmax(dim=-1)).sum(dim=-1).mean() * t**2
        return losses


def average(rows: Float[Tensor, "P C E"]) -> Float[Tensor, "C E"]:
    """One unit prototype a class: the mean of unit features, at unit length again."""
    return F.normalize(rows.mean(dim=0), dim=-1)


@dataclass(kw_only=True, eq=False, repr=False)
class PromptLearning(ModelHead):
    """Context optimisation (CoOp): the words in front of the class names are vectors, learned from a few images.

    Only the context is trained, through the frozen text tower, so X is image features, computed once. With several
    contexts (see `ECO`) the classifier is the average of their text features. Constants are the paper's; its epochs
    are 50, 100 and 200 for 1, up to 4 and more shots, its n_ctx 16, which the bundled model's 16 tokens have no room
    for.

    Args:
        model: whose features X holds, and whose text tower is looked through.
        text_prior: as for every head; here only its names are compared with the labels, and its scale is used.
        classes: names of the rows where `text_prior` is an array.
        scale: factor on the cosines; None: the prior's own, else the model's.
        names: what the prompt calls each class: by label, or in the order of the sorted labels; None: the labels.
        n_ctx: vectors a context.
        n_prompts: contexts.
        init: words that the first context begins as (or a text for each); None: random, as in the paper's tables, which
            needs several times the epochs.
        position: of the name: `end`, `middle` or `front`.
        class_specific: own vectors for each class; then there is no `classifier_for` other classes.
        loss: `joint` or `per-prompt` (contexts trained each for itself, averaged afterwards).
        epochs: passes over the pictures; the first at a rate of 1e-5, then a cosine that changes once an epoch.
        lr: of SGD with momentum 0.9 and weight decay 5e-4, for vectors in units of CLIP's (see `PromptContext`).
        batch_size: pictures a step.
        seed: of the draw of vectors and batches.

    Attributes:
        context_: (P, M, D) or (P, C, M, D), the learned vectors.
        coef_: (C, E) unit prototypes.
        prompt_coef_: (P, C, E) unit text features of each context; not saved.
        diversity_: one minus the mean cosine between two contexts' features of a class; 0 for one context.

    Raises:
        UsageError: when fitted: names that do not fit, an unknown loss, features of another model.

    Paper: Learning to Prompt for Vision-Language Models (arXiv 2109.01134).

    Examples:
        >>> head = PromptLearning(model, epochs=50).fit(model.encode_image(paths), labels)  # doctest: +SKIP
        >>> head.classifier_for(["fox", "wolf"]).predict(model.encode_image(others))  # doctest: +SKIP
    """

    transient: ClassVar[tuple[str, ...]] = ("prompt_coef_",)

    n_ctx: int = 4
    n_prompts: int = 1
    init: str | Sequence[str] | None = "a photo of a"
    position: Position = "end"
    class_specific: bool = False
    loss: Literal["joint", "per-prompt"] = "joint"
    epochs: int = 50
    lr: float = 0.002
    batch_size: int = 32
    seed: int = 0

    context_: Tensor = field(init=False)
    coef_: Tensor = field(init=False)
    prompt_coef_: Tensor = field(init=False)
    diversity_: float = field(init=False)

    def _fit(self, views: Float[Tensor, "N V E"], targets: Int[Tensor, "N"]) -> None:
        if views.shape[-1] != self.model.embed_dim:
            raise UsageError(
                f"X has {views.shape[-1]} features and the model {self.model.embed_dim}: pass model.encode_image(...)"
            )
        check_choice("loss", self.loss, ("joint", "per-prompt"))
        with frozen(self.model):
            super()._fit(views, targets)

    def _prompts(self, names: Sequence[str]) -> PromptContext:
        return PromptContext(
            self.model,
            names,
            n_ctx=self.n_ctx,
            n_prompts=self.n_prompts,
            init=self.init,
            position=self.position,
            class_specific=self.class_specific,
        )

    def _module(self, views: Float[Tensor, "N V E"], targets: Int[Tensor, "N"]) -> Tunable:
        names = self._prompt_names(self.classes_.tolist())
        return PromptModule(self._prompts(names), self.scale_, loss=self.loss)

    def _training(self) -> Training:
        return prompt_training(self.lr, self.epochs, self.batch_size, self.seed)

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, PromptModule)
        rows = module.rows().cpu()
        self.context_ = module.prompts.context.detach().cpu().clone()
        self.prompt_coef_, self.coef_ = rows, average(rows)
        cosines = torch.einsum("pce,qce->pqc", rows, rows).mean(dim=-1)
        others = len(rows) * (len(rows) - 1)
        self.diversity_ = float(1 - (cosines.sum() - cosines.trace()) / others) if others else 0.0

    def _terms(self, x: Float[Tensor, "N E"]) -> Terms:
        return {"text": self.scale_ * x @ self.coef_.to(x).T}

    def export(self) -> ZeroShotClassifier:
        """The learned classifier as a plain zero-shot one: rows and scale, no model and no prompts."""
        return self._classifier(self.classes_.tolist(), self.coef_)

    @torch.no_grad()
    def classifier_for(self, classes: Sequence[Any] | Mapping[Any, Any]) -> ZeroShotClassifier:
        """The learned words around other class names, of which no image was seen (base-to-new).

        Args:
            classes: the new labels, their own names in the prompt; or {label: name}.

        Raises:
            UsageError: a context for each class has no words for others.
        """
        if self.class_specific:
            raise UsageError("class_specific=True learns words for each class: there are none for other classes")
        names = [str(name) for name in (classes.values() if isinstance(classes, Mapping) else classes)]
        with frozen(self.model), torch.random.fork_rng(devices=[]):
            rows = F.normalize(self._prompts(names).load(self.context_.to(self.model.device))(), dim=-1)
        return self._classifier(list(classes), average(rows.cpu()))

    def _classifier(self, labels: Sequence[Any], rows: Float[Tensor, "C E"]) -> ZeroShotClassifier:
        return ZeroShotClassifier(rows, classes=labels, scale=self.scale_).fit()


@dataclass(kw_only=True, eq=False, repr=False)
class ECO(PromptLearning):
    """Several short contexts trained together, averaged as text features: an ensemble at the cost of one prompt.

    `PromptLearning` with P contexts of M vectors under one loss on the averaged prototype, so that the contexts may
    specialise. P * M = 16 vectors as in CoOp; the paper's own (P, M) are not published with its abstract.

    Args and attributes: as in `PromptLearning`.

    Paper: ECO: Ensembling Context Optimization for Vision-Language Models (arXiv 2307.14063).
    """

    n_prompts: int = 4
    init: str | Sequence[str] | None = None


@dataclass(kw_only=True, eq=False, repr=False)
class ProGrad(PromptLearning):
    """Prompt learning that does not forget: what opposes the zero-shot predictions is taken out of each gradient.

    Two gradients of the context: that of the cross-entropy, and that of staying with the zero-shot classifier's
    predictions. Where they conflict, the first loses its component against the second (`optim.ProjectConflicting`).

    Args:
        model: whose features X holds, and whose text tower is looked through.
        text_prior: the zero-shot classifier to stay with; None: the prompt "{init} {name}." with these words.
        classes: names of the rows where `text_prior` is an array.
        scale: factor on the cosines; None: the prior's own, else the model's.
        names: what the prompt calls each class, as in `PromptLearning`.
        n_ctx: vectors of the context.
        init: words it begins as; None: random.
        position: of the name: `end`, `middle` or `front`.
        strength: of the projection; 0 is CoOp.
        temperature: of the zero-shot predictions and the prompt's, where they are compared.
        combine: `project`, as in the paper; `add` minimises the sum of the two losses instead.
        epochs: see `PromptLearning`.
        lr: see `PromptLearning`.
        batch_size: pictures a step.
        seed: of the draw of vectors and batches.

    Attributes:
        conflict_rate_: share of steps in which the gradients conflicted; None where none is projected.
        context_: (1, M, D). coef_: (C, E) unit prototypes.

    Raises:
        UsageError: an argument out of its range, and as `PromptLearning`.

    Paper: Prompt-aligned Gradient for Prompt Tuning (arXiv 2205.14865).
    """

    init: str | None = "a photo of a"
    strength: float = 1.0
    temperature: float = 1.0
    combine: Literal["project", "add"] = "project"
    # Not for choice here: one context, the same for all classes.
    n_prompts: int = field(default=1, init=False)
    class_specific: bool = field(default=False, init=False)
    loss: Literal["joint", "per-prompt"] = field(default="joint", init=False)

    conflict_rate_: float | None = field(init=False)

    def _fit(self, views: Float[Tensor, "N V E"], targets: Int[Tensor, "N"]) -> None:
        check_choice("combine", self.combine, ("project", "add"))
        check_number("temperature", self.temperature, above=0)
        rule = ProjectConflicting(self.strength) if self.combine == "project" else None
        self._rule = rule
        try:
            super()._fit(views, targets)
        finally:
            del self._rule
        self.conflict_rate_ = None if rule is None else float(rule.conflict_rate)

    def _module(self, views: Float[Tensor, "N V E"], targets: Int[Tensor, "N"]) -> Tunable:
        names = self._prompt_names(self.classes_.tolist())
        teacher = self.prior_
        if teacher is None:
            texts = [f"{self.init or 'a photo of a'} {name}." for name in names]
            with torch.no_grad():
                teacher = self.model.encode_text(texts, normalize=True)
        return PromptModule(self._prompts(names), self.scale_, teacher=teacher, temperature=self.temperature)

    def _training(self) -> Training:
        return replace(super()._training(), rule=self._rule)
