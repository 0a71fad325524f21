"""Back-propagation saliency in two steps, extract and aggregate; NormGrad is the norm of a convolution's term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.explain.engine.attribute import Plan, run_plans, signal_plan
from binderclip.explain.engine.attribution import Attribution, Combine
from binderclip.explain.engine.gathering import Ensemble
from binderclip.explain.engine.layers import stage_layers
from binderclip.explain.engine.observed import Observed
from binderclip.explain.engine.places import Place
from binderclip.explain.gradient.extraction import Aggregate, Extract, extract_aggregate
from binderclip.settings import check_choice


@dataclass(frozen=True)
class ExtractAggregate:
    """What each place adds to the gradient of a virtual layer's weights, as one number: the form of most saliencies.

    `bias` + `max-abs` at the input is gradient saliency, `scaling` + `sum` is gradient x activation, `conv1x1` + `norm`
    is NormGrad: `|x_u| |g_u|`. No outer product is formed, see `extract_aggregate`.

    Norms and `max-abs` give maps without sign, `sum` and `max` signed ones: negative evidence stays so until the map is
    drawn, and counts as none in a product of layers (the official code shifts it to zero, which `combine_layers` of raw
    maps does too).

    Args:
        extract: `bias`, `scaling`, `conv1x1`, `conv3x3` or `depthwise3x3`.
        aggregate: `sum`, `norm`, `filter-norm`, `max` or `max-abs`.
        layers: one place or several: `"input"`, block indices of a tower, names of submodules; None for the last
            spatial layer; `"stage-ends"` for what `stage_layers` finds (such a method shares no passes with others, as
            its layers are known when it sees the model: name them for that).
        combine: how maps of several layers become one: `product` (geometric mean of maps in [0, 1]), `mean`, `sum`.
        ensemble: over perturbed images or weights (`GaussianNoise`, `Crops`, `MetaStep`); maps of several passes are
            averaged after they were aggregated.

    Raises:
        UsageError: an unknown option; when called, see `attribute`.
        NotSupported: `"stage-ends"` of a model that has none.

    Examples:
        >>> ExtractAggregate("scaling", "sum", layers="layer4")(model, images, 3).maps()  # doctest: +SKIP

    Paper: There and Back Again: Revisiting Backpropagation Saliency Methods (arXiv 2004.02866).
    """

    extract: Extract = "conv1x1"
    aggregate: Aggregate = "norm"
    layers: Place | Sequence[Place] | Literal["stage-ends"] | None = None
    combine: Combine = "product"
    ensemble: Ensemble | None = None

    def __post_init__(self) -> None:
        check_choice("extract", self.extract, get_args(Extract))
        check_choice("aggregate", self.aggregate, get_args(Aggregate))
        check_choice("combine", self.combine, get_args(Combine))

    def plan(self) -> Plan | None:
        """What it asks of a pass, to be shared with other methods; None while its layers are not known."""
        if self.layers == "stage-ends":
            return None
        return signal_plan(
            self._signal,
            layers=self.layers,
            reduce="sum",
            ensemble=self.ensemble,
            finish="signed" if self.aggregate in ("sum", "max") else "abs",
            # One layer's map keeps its scale.
            combine=self.combine if isinstance(self.layers, list | tuple) and len(self.layers) > 1 else "sum",
            method=self._name(),
        )

    def on(self, model: Any, images: Any) -> ExtractAggregate:
        """The same method with its layers named for this model."""
        return replace(self, layers=stage_layers(model, images)) if self.layers == "stage-ends" else self

    def __call__(self, model: Any, images: Any, target: Any = None) -> Attribution:
        """Explain images; see `attribute` for the arguments."""
        plan = self.on(model, images).plan()
        if plan is None:
            raise NotSupported(f"{type(model).__name__}: no layers were found; name them with layers=[...]")
        return run_plans(model, images, target, [plan])[0]

    def _signal(
        self, seen: Observed, score: Float[Tensor, "B"], places: Sequence[Place]
    ) -> list[Float[Tensor, "B h w 1"]]:
        gradients = zip(seen.grads(score, places), places, strict=True)
        return [
            extract_aggregate(seen.value(p).float(), g.float(), self.extract, self.aggregate)[..., None]
            for g, p in gradients
        ]

    def _name(self) -> str:
        return f"{self.extract}+{self.aggregate}"


@dataclass(frozen=True)
class NormGrad(ExtractAggregate):
    """`|x_u| |g_u|` at each place u: how much training on this image would change a 1 x 1 convolution there.

    Meant for any depth, where Grad-CAM is for the last layer: it asks neither that channels mean the same everywhere
    nor that gradients be constant over the map. By default maps of the ends of the network's stages are multiplied. Not
    signed, and hardly specific to the target: it also marks other objects and what speaks against it (see `MetaStep`),
    and nearly as well with random weights. In our study it beat Grad-CAM on early layers and in `small`, not on the
    later layers of a convolutional classifier, where `scaling` + `filter-norm` did.

    Args:
        extract, aggregate, layers, combine, ensemble: see `ExtractAggregate`.

    Raises:
        UsageError, NotSupported: see `ExtractAggregate`.

    Examples:
        >>> maps = NormGrad()(model, images, "a cat").maps()  # doctest: +SKIP
        >>> NormGrad(layers="layer3", ensemble=MetaStep())(net, images, 3)  # doctest: +SKIP

    Paper: There and Back Again: Revisiting Backpropagation Saliency Methods (arXiv 2004.02866).
    """

    layers: Place | Sequence[Place] | Literal["stage-ends"] | None = "stage-ends"

    def _name(self) -> str:
        return "normgrad" if (self.extract, self.aggregate) == ("conv1x1", "norm") else super()._name()
