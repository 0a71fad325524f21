"""ProLIP: the last linear map of a tower, re-learned from a few examples and held near where it began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.adapt.heads.base import Terms
from binderclip.adapt.heads.inputs import InputLevel
from binderclip.adapt.heads.prior import prior_or_means
from binderclip.adapt.heads.tuned import Training, Tunable, TunedHead, train_tunable
from binderclip.errors import NotSupported, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.numeric import check_number
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

SIDES = ("image", "text", "adapter")


@torch.no_grad()
def affine_map(tower: Any) -> tuple[Float[Tensor, "D E"], Float[Tensor, "E"] | None]:
    """The projection of a tower as a matrix and a bias: `tower.project(x) = x @ P + b`, whatever library it is of.

    Args:
        tower: `model.image_tower` or `model.text_tower`.

    Returns:
        P and b in float32 on the CPU; b is None where it is zero.

    Raises:
        NotSupported: the projection is not affine.
    """
    if not tower.affine_projection:
        raise NotSupported(f"the projection of this {tower.kind} tower is not a matrix with a bias")
    at_zero = tower.project(torch.zeros(1, tower.width, device=tower.device, dtype=tower.dtype)).float().cpu()
    matrix = tower.project(torch.eye(tower.width, device=tower.device, dtype=tower.dtype)).float().cpu() - at_zero
    return matrix, at_zero[0] if bool(at_zero.any()) else None


@torch.no_grad()
def pre_projection_texts(
    model: ImageTextModel,
    labels: Sequence[str] | Mapping[str, Sequence[str]],
    templates: str | Sequence[str] | None = None,
) -> dict[str, Float[Tensor, "D"]]:
    """Class name -> mean of its sentences before the text projection: the prior of `ProLIP(side="text")`.

    Args:
        model: whose text tower reads them.
        labels, templates: as `model.text_bank` takes them.
    """
    refuse_bare_module(model, "pre_projection_texts")
    from binderclip.models.text.textbank import descriptors

    tower = model.text_tower
    sentences = descriptors(labels, templates)
    return {
        name: tower.pool(tower.run(tower.embed(model.tokenize(own)))).float().mean(dim=0).cpu()
        for name, own in sentences.items()
    }


class VisualProjection(Tunable):
    """A projection that is trained from where the model has it, with a penalty on the squared distance from there.

    Args:
        projection: P0 (D, d), for features `x @ P0 + bias`.
        texts: unit rows (C, d); for `side="text"` rows before the text projection, (C, D_t).
        bias: (d,), frozen.
        scale: of the cosines.
        penalty: factor on the sum of squared differences from the start.
        side: what is trained: `image`: P0; `adapter`: a (d, d) map behind it, from the identity; `text`: the text
            projection.
        text_projection: (D_t, d), for `side="text"`.
    """

    def __init__(
        self,
        projection: Float[Tensor, "D d"],
        texts: Float[Tensor, "C e"],
        *,
        bias: Float[Tensor, "d"] | None = None,
        scale: float = 100.0,
        penalty: float = 0.0,
        side: str = "image",
        text_projection: Float[Tensor, "D_t d"] | None = None,
    ) -> None:
        super().__init__()
        self.projection, self.texts, self.bias = projection, texts, bias
        self.scale, self.penalty, self.side = scale, penalty, side
        if side == "text":
            assert text_projection is not None
            self.start = text_projection
        else:
            self.start = projection if side == "image" else torch.eye(projection.shape[1], dtype=projection.dtype)
        self.weight = nn.Parameter(self.start.clone())

    def logits(self, x: Float[Tensor, "B D"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        return self.logits_with(self.weight, x)

    def logits_with(self, weight: Float[Tensor, "*n a b"], x: Float[Tensor, "*n B D"]) -> Float[Tensor, "*n B C"]:
        """Logits with this matrix in the trained place; one for each of n batches if it has an axis for them."""
        z = x @ (weight if self.side == "image" else self.projection)
        z = z if self.bias is None else z + self.bias
        z = F.normalize(z @ weight if self.side == "adapter" else z, dim=-1)
        return self.scale * z @ (F.normalize(self.texts @ weight, dim=-1) if self.side == "text" else self.texts).mT

    def losses(self, x: Float[Tensor, "B D"], targets: Int[Tensor, "B"], rows: Int[Tensor, "B"]) -> dict[str, Tensor]:
        distance = (self.weight - self.start).square().sum()
        return {**super().losses(x, targets, rows), "penalty": self.penalty * distance}


@dataclass(kw_only=True, eq=False, repr=False)
class ProLIP(TunedHead):
    """Re-learns the projection behind the image tower on frozen features, `loss = CE + penalty |P - P0|^2`.

    `logits = scale unit(h P + b).T_c` for pre-projection features h; the texts stay as they are, and the penalty is
    what makes the learning rate matter little, so no validation split is needed.

    Args:
        text_prior, classes, scale: see `FewShotHead`; for `side="text"` rows before the text projection, as
            `pre_projection_texts` makes them. Without a prior the class means of the projected examples take its place.
        projection: P0: an array (D, d), a pair (P0, b) as `affine_map` gives it, or the model itself; None: the
            identity, for features that are projected already.
        side: `image` trains P0; `adapter` a (d, d) map behind P0, from the identity; `text` the text projection.
        text_projection: for `side="text"`, in the same forms; None: that of the model given as `projection`.
        penalty: factor on the sum (not the mean) of squared differences; None: 1 / (examples a class).
        lr: of Adam (eps 1e-4), by a cosine to 0. 1e-4 suits CLIP's sizes, 1e-3 the bundled `small`.
        steps: over all examples at once; step e shows view e mod V.
        lrs, penalties: values to search where `fit` gets a validation split; each pair is a training of its own. By
            default nothing is searched.

    Attributes:
        projection_: the trained matrix. start_: what it was. bias_: (d,) or None. lr_, penalty_: in use.

    Raises:
        UsageError: an unknown side, shapes that do not fit, penalty or lr below 0.
        NotSupported: the model's projection is not affine, or a text projection with a bias.

    Examples:
        >>> head = ProLIP(model.text_bank(names), projection=model, lr=1e-3)             # doctest: +SKIP
        >>> head.fit(features_for(head, model, paths), labels)                           # doctest: +SKIP

    Paper: Fine-Tuning CLIP's Last Visual Projector: A Few-Shot Cornucopia (arXiv 2410.05270).
    """

    input_level: ClassVar[InputLevel] = "pre_projection"
    transient: ClassVar[tuple[str, ...]] = ("_examples",)

    projection: Any = None
    side: str = "image"
    text_projection: Any = None
    penalty: float | None = None
    lr: float = 1e-4
    steps: int = 300
    lrs: Sequence[float] = ()
    penalties: Sequence[float] = ()

    def _training(self) -> Training:
        optimizer = {"name": "adam", "eps": 1e-4}
        return Training(lr=self.lr_, steps=self.steps, batch_size=None, optimizer=optimizer)

    def _fit(self, views: Float[Tensor, "N V D"], targets: Int[Tensor, "N"]) -> None:
        self.lr_ = float(self.lr)
        self.penalty_ = len(self.classes_) / len(targets) if self.penalty is None else float(self.penalty)
        self._examples = views, targets
        super()._fit(views, targets)

    def _module(self, views: Float[Tensor, "N V D"], targets: Int[Tensor, "N"]) -> VisualProjection:
        check_choice("side", self.side, SIDES)
        if not self.penalty_ >= 0:
            raise UsageError(f"penalty must be at least 0, not {self.penalty_}")
        self.base_, self.bias_ = _matrix(self.projection, "image_tower", views.shape[-1], "projection")
        text_map = None
        if self.side == "text":
            if self.prior_ is None:
                raise UsageError('side="text" needs text_prior, rows before the text projection: pre_projection_texts')
            given = self.projection if self.text_projection is None else self.text_projection
            text_map, bias = _matrix(given, "text_tower", self.prior_.shape[1], "text_projection")
            if bias is not None:
                raise NotSupported("a text projection with a bias cannot be trained: use side='image'")
        else:
            projected = views.float() @ self.base_
            projected = F.normalize(projected if self.bias_ is None else projected + self.bias_, dim=-1).double()
            self.prior_ = prior_or_means(self.prior_, projected, targets, len(self.classes_))
        width = (self.prior_ if text_map is None else text_map).shape[1]
        if width != self.base_.shape[1]:
            raise UsageError(f"the projection gives {self.base_.shape[1]} features and the texts have {width}")
        module = self._made(text_map)
        self.start_ = module.start.clone()
        return module

    def _made(self, text_map: Tensor | None, dtype: torch.dtype = torch.float32, device: Any = None) -> Any:
        def placed(value: Tensor | None) -> Any:
            return None if value is None else value.to(device, dtype)

        return VisualProjection(
            placed(self.base_),
            placed(self.prior_),
            bias=placed(self.bias_),
            scale=self.scale_,
            penalty=self.penalty_,
            side=self.side,
            text_projection=placed(text_map),
        )

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, VisualProjection)
        self.projection_ = module.weight.detach().clone()

    def _fitted(self, x: Tensor) -> VisualProjection:
        return self._made(self.start_, x.dtype, x.device)

    def _terms(self, x: Float[Tensor, "N D"]) -> Terms:
        return {"text": self._fitted(x).logits_with(self.projection_.to(x), x)}

    def _tune(self, x: Float[Tensor, "N D"], targets: Int[Tensor, "N"]) -> None:
        if not (self.lrs or self.penalties):
            return
        best, fitted = -1.0, (self.lr_, self.penalty_, self.projection_)
        views, owner = self._examples
        for lr, penalty in product(self.lrs or (self.lr_,), self.penalties or (self.penalty_,)):
            self.lr_, self.penalty_ = float(lr), float(penalty)
            module = self._made(self.start_)
            train_tunable(module, views.float(), owner, self._training())
            self._adopt(module)
            accuracy = float((self._terms(x)["text"].argmax(dim=-1) == targets).double().mean())
            if accuracy > best:
                best, fitted = accuracy, (self.lr_, self.penalty_, self.projection_)
        self.lr_, self.penalty_, self.projection_ = fitted

    def adapt_at_test_time(
        self,
        views: Float[Tensor, "N V D"],
        *,
        lr: float = 5e-3,
        keep: float = 0.1,
        weight_decay: float = 0.01,
        batch_size: int = 32,
    ) -> Float[Tensor, "N C"]:
        """Logits of pictures after one step of the projection on each picture alone; the head is left as it was.

        The step of AdamW lowers the entropy of the mean answer over the most certain views. A first step from a fresh
        optimizer has a closed form, so many pictures take theirs at once.

        Args:
            views: pre-projection features; view 0 is the picture itself, the others crops and flips of it (the authors
                use 63).
            lr, weight_decay: of the step.
            keep: share of the views with the lowest entropy.
            batch_size: pictures at once, each with its own copy of the projection.

        Returns:
            float32 logits of view 0.

        Raises:
            UsageError: not three axes, keep outside (0, 1], or a head whose side is not `image`.
        """
        if self.side != "image":
            raise UsageError(f"adapt_at_test_time trains the image projection; this head has side={self.side!r}")
        if views.ndim != 3 or views.shape[-1] != self.n_features_in_:
            raise UsageError(f"views must have shape (N, V, {self.n_features_in_}), not {tuple(views.shape)}")
        check_number("keep", keep, above=0, most=1)
        count = max(1, int(views.shape[1] * keep))
        module = self._fitted(torch.empty(0)).requires_grad_(False)
        parts = []
        for x in torch.as_tensor(views).float().split(batch_size):
            weight = self.projection_.float().expand(len(x), *self.projection_.shape).clone().requires_grad_()
            with torch.enable_grad():
                answers = module.logits_with(weight, x).log_softmax(dim=-1)
                sure = (answers.exp() * answers).sum(dim=-1).topk(count, dim=1).indices
                kept = answers.gather(1, sure[..., None].expand(-1, -1, answers.shape[-1]))
                mean = kept.logsumexp(dim=1) - torch.tensor(float(count)).log()
                (gradient,) = torch.autograd.grad(-(mean.exp() * mean).sum(), weight)
            stepped = weight.detach() * (1 - lr * weight_decay) - lr * gradient / (gradient.abs() + 1e-8)
            parts.append(module.logits_with(stepped, x[:, :1])[:, 0])
        return torch.cat(parts)


def _matrix(given: Any, tower: str, width: int, name: str) -> tuple[Tensor, Tensor | None]:
    """P and b from what the user gave, in float32."""
    bias = None
    if given is None:
        matrix = torch.eye(width)
    elif hasattr(given, tower):
        matrix, bias = affine_map(getattr(given, tower))
    elif isinstance(given, (tuple, list)) and len(given) == 2 and getattr(given[0], "ndim", 0) == 2:
        matrix = torch.as_tensor(given[0]).detach().float().cpu()
        bias = None if given[1] is None else torch.as_tensor(given[1]).detach().float().cpu()
    else:
        matrix = torch.as_tensor(given).detach().float().cpu()
    if matrix.ndim != 2 or matrix.shape[0] != width:
        raise UsageError(f"{name} has shape {tuple(matrix.shape)} for features of size {width}: it must be (D, d)")
    if bias is not None and bias.shape != (matrix.shape[1],):
        raise UsageError(f"the bias of {name} has shape {tuple(bias.shape)}, not ({matrix.shape[1]},)")
    return matrix.clone(), bias
