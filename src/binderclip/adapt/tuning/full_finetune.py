"""Fine-tuning the whole image tower with a new head on its patch tokens."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.adapt.heads.base import PicturesOnlyHead, Terms
from binderclip.adapt.heads.inputs import InputLevel
from binderclip.adapt.heads.through_model import SharedModel
from binderclip.adapt.heads.tuned import Training, Tunable, TunedHead
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.numeric import check_number
from binderclip.optim import ModelEMA, layer_index, layerwise_lr_groups, scaled_ema_decay
from binderclip.settings import check_choice

Augmentation = Callable[[Tensor], Tensor]

LAST_RATE = 1e-6
"""Where the cosine ends."""
HEAD_SCALE = 0.001
"""Factor on the head's initial weights, so that the first logits are almost zero."""
# Patch embeddings of open_clip, timm and Hugging Face; a hybrid's is its whole convolutional part.
_PATCHES = re.compile(r"(^|\.)(conv1|patch_embed|patch_embedding)\.")
RECIPES: dict[str, dict[str, Any]] = {
    "ft-clip": {"layer_decay": 0.65, "ema": "scaled", "label_smoothing": 0.1},
    "plain": {"layer_decay": 1.0, "ema": None, "label_smoothing": 0.0},
}


@dataclass(kw_only=True, eq=False, repr=False)
class FullFineTune(SharedModel, PicturesOnlyHead, TunedHead):
    """Trains a copy of the image tower and a new classifier: LayerNorm on patch tokens, their mean, a linear layer.

    The recipe `ft-clip` is what makes this work well: rates that fall from layer to layer, an average of the weights,
    label smoothing, a head that starts near zero, and neither mixup nor stochastic depth. `plain` is fine-tuning
    without it: one rate, the last weights, hard labels.

    Args:
        model: the `ImageTextModel`; its image tower is copied, so it stays as it is.
        recipe: `ft-clip` or `plain`; the options that are None come from it.
        size: input side in pixels, for a quicker run; default the model's own. Pictures are resized to it.
        lr: of the head, by AdamW with a linear warm-up over a fifth of the steps and a cosine down to 1e-6. The paper's
            6e-4 is for batches of 2,048 and fifty epochs of ImageNet.
        layer_decay: factor on the rate a layer; see `optim.layerwise_lr_groups`. The paper: 0.6 for ViT-B/16.
        weight_decay: of matrices.
        epochs: passes over the pictures.
        batch_size: pictures a step.
        ema: decay of an average of the weights, which is then used; `scaled`: 0.9998 brought to the length of the run
            (`optim.scaled_ema_decay`); 0: none.
        label_smoothing: in [0, 1).
        mixup: strength of mixup, 0 as in the recipe.
        augment: changes a training batch (B, 3, S, S) in [0, 1], such as `recipe_augmentation(S)`. The paper crops,
            mirrors and colours pictures at random; what a task can bear is for its owner to say, so None is the
            default. Views (N, V, 3, H, W) made before do the same at no cost.
        freeze_patches: keep the patch embedding as it is, as the paper does. In a hybrid such as `small` that is its
            whole convolutional part.
        token: `patches`, or `class` for the norm and the linear layer on the class token.
        seed: of head, batches and augmentation.

    Attributes:
        weights_: the trained numbers and all buffers, in one vector. weight_names_: whose they are, in order.

    Raises:
        UsageError: no model, an unknown recipe or token, or a setting out of range.

    Paper: Dong et al., CLIP Itself is a Strong Fine-tuner (arXiv 2212.06138).

    Examples:
        >>> head = FullFineTune(model, epochs=5)                        # doctest: +SKIP
        >>> head.fit(features_for(head, model, paths), labels)          # doctest: +SKIP
    """

    input_level: ClassVar[InputLevel] = "images"
    transient: ClassVar[tuple[str, ...]] = ("_net", "_pictures", "_last", "_live")

    model: Any = field(default=None, kw_only=False)
    recipe: Literal["ft-clip", "plain"] = "ft-clip"
    size: int | None = None
    lr: float = 1e-3
    layer_decay: float | None = None
    weight_decay: float = 0.05
    epochs: int = 10
    batch_size: int = 32
    ema: float | Literal["scaled"] | None = None
    label_smoothing: float | None = None
    mixup: float = 0.0
    augment: Augmentation | None = None
    freeze_patches: bool = True
    token: Literal["patches", "class"] = "patches"
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_bare_module(self.model, "FullFineTune")

    # -- fitting -----------------------------------------------------------------------------------------------

    def _fit(self, views: Float[Tensor, "N V 3 H W"], targets: Int[Tensor, "N"]) -> None:
        self._check()
        self._pictures = len(views)
        super()._fit(views, targets)

    def _check(self) -> None:
        check_choice("recipe", self.recipe, RECIPES)
        check_choice("token", self.token, ("patches", "class"))
        if self.model is None:
            raise UsageError("fine-tuning needs the model to start from: pass model=load(...)")
        check_number("mixup", self.mixup, least=0)
        if not 0 <= self._option("label_smoothing") < 1:
            raise UsageError(f"label_smoothing must lie in [0, 1), not {self.label_smoothing}")
        ema = self._option("ema")
        if ema not in (None, "scaled") and not (isinstance(ema, (int, float)) and 0 <= ema < 1):
            raise UsageError(f"ema must be a decay in [0, 1) or 'scaled', not {ema!r}")

    def _option(self, name: str) -> Any:
        value = getattr(self, name)
        return RECIPES[self.recipe][name] if value is None else value

    def _training(self) -> Training:
        return Training(
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer="adamw",
            warmup=0.2,
            floor=min(1.0, LAST_RATE / self.lr) if self.lr > 0 else 0.0,
            groups=lambda module: layerwise_lr_groups(
                module, self.lr, self._option("layer_decay"), weight_decay=self.weight_decay
            ),
            ema=self._average,
            seed=self.seed,
            callbacks=[_LastWeights(self)],
        )

    def _average(self, module: nn.Module) -> ModelEMA:
        ema = self._option("ema")
        if ema == "scaled":
            ema = scaled_ema_decay(self.epochs * -(-self._pictures // self.batch_size))
        # A decay of 0 is the last weights.
        return ModelEMA(module, float(ema or 0.0))

    def without_average(self) -> FullFineTune:
        """The same head with the last weights of the run in place of their average, for comparison.

        Raises:
            UsageError: not fitted here, or loaded from a file, which holds the average only.
        """
        if not hasattr(self, "_last"):
            raise UsageError("the last weights are kept by the estimator that was fitted, not in files")
        other = copy.copy(self)
        other.weights_ = self._last
        del other._net
        return other

    def _module(self, views: Float[Tensor, "N V 3 H W"], targets: Int[Tensor, "N"]) -> Tunable:
        self._live = self._blank()
        self._last = self._live.vector()
        return self._live

    def _blank(self) -> _FineTuned:
        return _FineTuned(self, len(self.classes_))

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, _FineTuned)
        self.weight_names_ = list(module.kept())
        self.weights_ = module.vector()
        self._net = module.requires_grad_(False)
        del self._live

    # -- predicting --------------------------------------------------------------------------------------------

    def network(self) -> nn.Module:
        """The trained network: images (B, 3, H, W) in [0, 1] -> logits."""
        if not hasattr(self, "_net"):
            module = self._blank()
            kept = module.kept()
            if list(kept) != list(self.weight_names_) or sum(v.numel() for v in kept.values()) != len(self.weights_):
                start = getattr(self, "model_name_", "") or "another model"
                raise UsageError(f"this head was fine-tuned from {start}, not from {self.model.name}: pass that one")
            parts = self.weights_.split([value.numel() for value in kept.values()])
            with torch.no_grad():
                for value, part in zip(kept.values(), parts, strict=True):
                    value.copy_(part.view_as(value))
            self._net = module.requires_grad_(False).eval()
        return self._net

    def image_features(self, X: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N E"]:
        """Raw features of the tuned tower in the space shared with the texts, by the norm and projection left alone."""
        net = self.network()
        assert isinstance(net, _FineTuned)
        return net.tower(net.pixels(torch.as_tensor(X)))

    def _terms(self, x: Float[Tensor, "N 3 H W"]) -> Terms:
        return {"head": self.network().logits(x)}  # type: ignore[operator]


class _LastWeights:
    """Notes the weights at the end of the run, before their average takes their place."""

    def __init__(self, head: FullFineTune) -> None:
        self.head = head

    def on_end(self, result: Any) -> None:
        self.head._last = self.head._live.vector()


class _FineTuned(Tunable):
    """A copy of the model's image tower, and the new head."""

    def __init__(self, head: FullFineTune, classes: int) -> None:
        super().__init__()
        model = head.model
        self.preprocess = model.preprocess.at(head.size)
        self.visual, self.tower = copied_tower(model)
        self.fc_norm = nn.LayerNorm(self.tower.width)
        self.head = nn.Linear(self.tower.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        with torch.no_grad():
            self.head.weight.mul_(HEAD_SCALE)
            self.head.bias.zero_()
        self.to(model.device)
        self.token, self.mixup, self.augment = head.token, float(head.mixup), head.augment
        self.smoothing = float(head._option("label_smoothing"))
        names = [name for name, _ in self.visual.named_parameters()]
        depth = layer_index(names)
        for name, parameter in self.visual.named_parameters():
            unused = depth[name][0] == depth[name][1]
            parameter.requires_grad_(not unused and not (head.freeze_patches and _PATCHES.search(name)))

    def kept(self) -> dict[str, Tensor]:
        """What training may change: trained parameters and buffers, by name."""
        trained = {name: value for name, value in self.named_parameters() if value.requires_grad}
        return trained | {name: value for name, value in self.named_buffers() if value.is_floating_point()}

    def vector(self) -> Float[Tensor, "n"]:
        """A copy of all of `kept`, one behind the other."""
        return torch.cat([value.detach().flatten().float().cpu() for value in self.kept().values()])

    def pixels(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        return self.preprocess.normalize(self.preprocess.fit(x.to(self.head.weight.device)))

    def logits(self, x: Float[Tensor, "B 3 H W"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        tokens = self.tower.run(self.tower.embed(self.pixels(x)))
        chosen = tokens.patches if self.token == "patches" else tokens.x[:, :1]
        return self.head(self.fc_norm(chosen).mean(dim=1))

    def losses(
        self, x: Float[Tensor, "B 3 H W"], targets: Int[Tensor, "B"], rows: Int[Tensor, "B"]
    ) -> dict[str, Tensor]:
        if self.augment is not None:
            x = self.augment(self.preprocess.fit(x))
        if self.mixup:
            mixing = float(torch._sample_dirichlet(torch.full((2,), self.mixup))[0])
            order = torch.randperm(len(x), device=x.device)
            logits = self.logits(mixing * x + (1 - mixing) * x[order])
            # Cross-entropy is linear in its targets: the mixture of losses is the loss of mixed labels.
            loss = mixing * self._loss(logits, targets) + (1 - mixing) * self._loss(logits, targets[order])
        else:
            loss = self._loss(self.logits(x), targets)
        return {"task": loss}

    def _loss(self, logits: Float[Tensor, "B C"], targets: Int[Tensor, "B"]) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)


def copied_tower(model: Any) -> tuple[nn.Module, Any]:
    """A float32 copy of a model's image side and the tower interface to it; the text side is shared, not copied."""
    own = model.with_copied_visual()
    return own.visual.float().requires_grad_(True), own.image_tower


def recipe_augmentation(
    size: int, *, crop: float = 0.08, flips: bool = True, magnitude: int = 9, erasing: float = 0.25
) -> Augmentation:
    """The paper's augmentation, by torchvision: random resized crop, mirror, RandAugment, random erasing.

    torchvision's RandAugment has one magnitude, where the paper draws it around 9.

    Args:
        size: side in pixels.
        crop: least area of the crop; the largest is the whole picture.
        flips: mirror at random.
        magnitude: of RandAugment's two operations, 0..30; 0 leaves it out.
        erasing: probability that a rectangle becomes noise.

    Returns:
        Batches (B, 3, H, W) in [0, 1] -> (B, 3, size, size); draws from torch's global generator.

    Raises:
        UsageError: a setting out of range.

    Paper: Cubuk et al., RandAugment (arXiv 1909.13719); Zhong et al., Random Erasing (arXiv 1708.04896).
    """
    from torchvision.transforms import v2

    if not 0 < crop <= 1 or not 0 <= erasing <= 1 or not 0 <= magnitude <= 30:
        raise UsageError(
            f"crop lies in (0, 1], erasing in [0, 1], magnitude in 0..30; got {crop}, {erasing}, {magnitude}"
        )
    steps: list[Any] = [v2.RandomResizedCrop(size, scale=(crop, 1.0), interpolation=v2.InterpolationMode.BICUBIC)]
    steps += [v2.RandomHorizontalFlip()] if flips else []
    steps += [v2.RandAugment(2, magnitude)] if magnitude else []
    picture = v2.Compose(steps)

    def augment(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 S S"]:
        eight_bit = (images * 255).round().to(torch.uint8)
        changed = torch.stack([picture(image) for image in eight_bit]).to(images.dtype) / 255
        for image in changed:
            if torch.rand(()) < erasing:
                _erase(image)
        return changed

    return augment


def _erase(image: Float[Tensor, "3 H W"]) -> None:
    """Fill a random rectangle of 2 to 33% of the picture with uniform noise, in place."""
    height, width = image.shape[-2:]
    area = float(torch.empty(()).uniform_(0.02, 1 / 3)) * height * width
    ratio = float(torch.empty(()).uniform_(-1.2, 1.2).exp())
    h, w = min(height, max(1, round((area * ratio) ** 0.5))), min(width, max(1, round((area / ratio) ** 0.5)))
    top, left = int(torch.randint(0, height - h + 1, ())), int(torch.randint(0, width - w + 1, ()))
    image[:, top : top + h, left : left + w] = torch.rand(3, h, w, device=image.device)
