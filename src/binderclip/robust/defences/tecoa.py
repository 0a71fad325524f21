"""TeCoA: adversarial training against texts of the classes, which keeps what a model knows without examples."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.models.checks import refuse_bare_module
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_fields, check_number
from binderclip.robust.attacks.pgd import PGD, Norm
from binderclip.robust.checks import Labels, check_classes, check_images, checked_labels
from binderclip.robust.defences.training import adversarial_step

__all__ = ["TEMPLATE", "TeCoA"]

TEMPLATE = "This is a photo of a {}"
"""The paper's only sentence."""
TOWER_RATE, PROMPT_RATE = 1e-5, 40.0

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class TeCoA:
    """Text-guided contrastive adversarial training.

    Every batch is attacked by projected gradient ascent on the cross-entropy over scaled similarities of pictures and
    class texts, and the same loss is then descended on the attacked pictures. Texts are encoded once and stay: no new
    head is learned, so any other list of classes can be named afterwards.

    Args:
        eps: radius of the attack in pixels of [0, 1], before resizing and normalisation. The paper's 1/255; its code's
            default is 2/255.
        alpha: step of the attack.
        attack_steps: 2 in the paper, 5 in its code; 0 leaves random noise.
        norm: `linf` or `l2`. A random start of `l2` is uniform in the ball, in the paper's code its length is.
        epochs, batch_size: of training.
        lr: peak; default 1e-5 for the weights of an image tower, 40 for prompts (the paper's; its code's default for
            weights is 1e-7).
        momentum: of SGD without weight decay.
        warmup: share of the steps, or their number, with a linear warm-up before the cosine; the paper's 1,000 are
            two hundredths of ten epochs of ImageNet.
        mix: share of the way from the weights before to those after training that is kept, which trades accuracy under
            attack for clean accuracy; 1 is all of it.
        seed: of order and attacks.

    Call it with a model, training images (N, 3, H, W) in [0, 1], labels (N,) and the class names in the labels' order;
    it returns a trained copy of the model. Of an `ImageTextModel` all of the image tower is trained, of an
    `adapt.PromptedModel` its prompts alone, or its model's image tower where it has none.

    Raises:
        UsageError: a setting out of range; when called, images outside [0, 1] or not finite, or labels that do not go
            with images or class names.

    Examples:
        >>> robust = TeCoA(epochs=2)(load("small"), images, labels, names)              # doctest: +SKIP
        >>> PGD(robust.predictor(others), eps=1 / 255)(pictures, truth).success.float().mean()  # doctest: +SKIP

    Paper: Understanding Zero-Shot Adversarial Robustness for Large-Scale Models (arXiv 2212.07016).
    """

    eps: float = 1 / 255
    alpha: float = 1 / 255
    attack_steps: int = 2
    norm: Norm = "linf"
    epochs: int = 10
    batch_size: int = 256
    lr: float | None = None
    momentum: float = 0.9
    warmup: int | float = 0.02
    mix: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("warmup", self.warmup, least=0)
        check_number("momentum", self.momentum, least=0)
        if self.epochs < 1 or self.batch_size < 1:
            raise UsageError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}")
        if self.lr is not None and not self.lr > 0:
            raise UsageError(f"lr must be above 0, got {self.lr}")
        check_number("mix", self.mix, least=0, most=1)
        self.attack(None)

    def attack(self, predictor: Any) -> PGD:
        """The attack of training, against a predictor."""
        return PGD(predictor, self.eps, self.alpha, self.attack_steps, self.norm, keep="last")

    def __call__(
        self,
        model: Model,
        images: Float[Tensor, "N 3 H W"],
        labels: Labels,
        classes: Sequence[str],
        *,
        templates: str | Sequence[str] | None = TEMPLATE,
    ) -> Model:
        """Train a copy.

        Args:
            model: an `ImageTextModel` or an `adapt.PromptedModel`; stays as it is.
            images, labels, classes: see the class.
            templates: as `ImageTextModel.text_bank` takes them.
        """
        refuse_bare_module(model, "TeCoA")
        check_images("images", images, shape="(B, 3, H, W)")
        known = checked_labels(labels, images)
        check_classes(known, len(classes))
        trained: Any = copy.deepcopy(model)
        visual = getattr(trained, "model", trained).visual
        prompts = list(trained.prompts()) if hasattr(trained, "prompts") else []
        parameters = prompts or list(visual.parameters())
        before = [each.detach().clone() for each in parameters]
        predictor = trained.predictor(list(classes), templates=templates)
        generator = torch.Generator().manual_seed(self.seed)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                for rows in torch.randperm(len(images), generator=generator).split(self.batch_size):
                    yield images[rows], known[rows]

        with frozen(predictor):
            for each in parameters:
                each.requires_grad_()
            visual.train(not prompts)
            fit(
                adversarial_step(predictor, self.attack(predictor), seed=self.seed),
                parameters,
                batches(),
                steps=self.epochs * -(-len(images) // self.batch_size),
                optimizer={"name": "sgd", "momentum": self.momentum},
                lr=self.lr or (PROMPT_RATE if prompts else TOWER_RATE),
                warmup=self.warmup,
            )
        with torch.no_grad():
            for each, old in zip(parameters, before, strict=True):
                each.lerp_(old, 1 - self.mix)
        return trained.eval()
