"""The one path of every gradient method: passes -> signal at a site -> gathering -> Attribution, shared by methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.explain.engine.attribution import Attribution, Combine, Finish
from binderclip.explain.engine.gathering import (
    Ensemble,
    Gathered,
    Gathering,
    Opener,
    Opening,
    Reduction,
    Signal,
    Single,
    reduce_channels,
)
from binderclip.explain.engine.observed import Observed, Observer
from binderclip.explain.engine.passes import Clean, CroppedViews, Passes
from binderclip.explain.engine.placement import input_box
from binderclip.explain.engine.places import Layer, Place
from binderclip.explain.engine.targets import Score, resolve
from binderclip.fit.optimizers import autocast


@dataclass(frozen=True)
class Plan:
    """What a method asks for; plans with equal passes are fed from one loop, and one backward serves all their places.

    Attributes:
        method: name in the result.
        open: makes the gathering that takes the passes.
        passes: which images are run.
        layers: places whose value and gradient are wanted: `"input"`, block indices or `Site`s of a tower,
            submodules or their names; None for the last spatial layer.
        values: places of which the value alone is wanted.
        finish: what happens to signs when maps are drawn.
        combine: how maps of several sites become one.
        align_corners: of the resizing to the image.
    """

    method: str
    open: Opener
    passes: Passes = field(default_factory=Clean)
    layers: Layer | Sequence[Layer] | None = "input"
    values: Sequence[Place] = ()
    finish: Finish = "signed"
    combine: Combine = "sum"
    align_corners: bool = False


@runtime_checkable
class Planned(Protocol):
    """A method that can share passes with others."""

    def plan(self) -> Plan | None:
        """What it asks for; None where its settings keep it from sharing."""
        ...


class PlanMethod:
    """Base of the methods that are their plan and nothing else: a subclass says what it asks of the passes."""

    def plan(self) -> Plan:
        """What it asks of the passes, to be shared with other methods."""
        raise UsageError(f"{type(self).__name__} has no plan: use one of binderclip.explain.METHODS")

    def __call__(self, model: Any, images: Any, target: Any = None) -> Attribution:
        """Explain images; see `attribute` for the arguments."""
        return run_plans(model, images, target, [self.plan()])[0]


def gradient(seen: Observed, score: Float[Tensor, "B"], places: Sequence[Place]) -> list[Tensor]:
    """The gradient of the score at each place."""
    return seen.grads(score, places)


def gradient_times_value(seen: Observed, score: Float[Tensor, "B"], places: Sequence[Place]) -> list[Tensor]:
    """Gradient times what is there: at the input, image x gradient."""
    return [g * seen.value(p) for g, p in zip(seen.grads(score, places), places, strict=True)]


def pooled_gradient_times_value(seen: Observed, score: Float[Tensor, "B"], places: Sequence[Place]) -> list[Tensor]:
    """Each channel weighted by its gradient's spatial mean: the terms of Grad-CAM."""
    grads = seen.grads(score, places)
    return [g.mean(dim=(1, 2), keepdim=True) * seen.value(p) for g, p in zip(grads, places, strict=True)]


def signal_plan(
    signal: Signal,
    *,
    layers: Layer | Sequence[Layer] | None = "input",
    reduce: Reduction = "sum",
    ensemble: Ensemble | None = None,
    finish: Finish = "signed",
    combine: Combine = "sum",
    method: str = "attribution",
) -> Plan:
    """The plan of a method that reads a signal off each pass; see `attribute` for the arguments."""
    reduce_channels(torch.zeros(1, 1, 1, 1), reduce)
    chosen = Single() if ensemble is None else ensemble

    def opened(opening: Opening) -> Gathering:
        return chosen.open(opening, signal, lambda values: reduce_channels(values, reduce))

    return Plan(method, opened, chosen.passes, layers, (), finish, combine)


def attribute(
    model: Any,
    images: Any,
    target: Any = None,
    *,
    signal: Signal = gradient,
    layers: Layer | Sequence[Layer] | None = "input",
    reduce: Reduction = "sum",
    ensemble: Ensemble | None = None,
    finish: Finish = "signed",
    combine: Combine = "sum",
    method: str = "attribution",
    precision: str = "float32",
) -> Attribution:
    """Explain images by a signal; the named methods are points in these options.

    Args:
        model: an `ImageTextModel` (text targets), a `Predictor`, or any module from images (B, C, H, W) to logits.
        images: one image or several of one size, anything the model takes; for a plain module its own input tensor.
        target: see `targets.resolve`; resolved on the clean images.
        signal: what is read off each pass.
        layers: `"input"`, block indices of a tower, submodules or their names; None for the last spatial layer.
        reduce: how channels become one value.
        ensemble: over perturbed images; None for the images as they are.
        finish: what happens to signs when maps are drawn.
        combine: how maps of several layers become one.
        method: name in the result.
        precision: of the model's passes, `float32` or `bfloat16` (by autocast; sums over passes stay float32).

    Raises:
        UsageError: a target, layer or image that does not fit, said by name.
        NotSupported: a model whose layers cannot be seen.
    """
    plan = signal_plan(
        signal, layers=layers, reduce=reduce, ensemble=ensemble, finish=finish, combine=combine, method=method
    )
    return run_plans(model, images, target, [plan], precision=precision)[0]


def attribute_all(
    model: Any,
    images: Any,
    target: Any = None,
    *,
    methods: Mapping[str, Any] | Sequence[Any],
    precision: str = "float32",
) -> dict[str, Attribution]:
    """Several methods on the same images and target, each distinct pass run once for all of them.

    SmoothGrad, its squared and variance forms and Smooth Grad-CAM++ with equal noise cost one loop; saliency, Grad-CAM
    and every other single-pass method cost one forward and one backward together.

    Args:
        model, images, target: as in `attribute`.
        methods: name -> method, or a list of methods (named by their results; a second one of the same name gets a
            number). A class stands for its defaults. A method that cannot share is run alone.
        precision: as in `attribute`.

    Returns:
        name -> its `Attribution`, in the order of `methods`.

    Raises:
        UsageError: no method, or see `attribute`.
    """
    if isinstance(methods, Mapping):
        attributions = dict(iter_attributions(model, images, target, methods=methods, precision=precision))
        return {name: attributions[name] for name in methods}
    numbered = {str(place): method for place, method in enumerate(methods)}
    attributions = dict(iter_attributions(model, images, target, methods=numbered, precision=precision))
    named: dict[str, Attribution] = {}
    for key in numbered:
        name = attributions[key].method
        count = sum(other == name or other.startswith(f"{name}_#") for other in named)
        named[f"{name}_#{count + 1}" if count else name] = attributions[key]
    return named


def iter_attributions(
    model: Any, images: Any, target: Any = None, *, methods: Mapping[str, Any], precision: str = "float32"
) -> Iterator[tuple[str, Attribution]]:
    """As `attribute_all`, each attribution as soon as its passes have run: (name, attribution).

    Methods of a single pass come first, then those of each further set of passes, then those that cannot share.

    Args:
        model, images, target, methods, precision: as in `attribute_all`.

    Raises:
        UsageError, NotSupported: as `attribute_all`, when the first one is asked for.
    """
    if not methods:
        raise UsageError("methods is empty: give at least one")
    made = {name: _made(method) for name, method in methods.items()}
    plans = {name: m.plan() if isinstance(m, Planned) else None for name, m in made.items()}
    shared = {name: plan for name, plan in plans.items() if plan is not None}
    if shared:
        names = list(shared)
        for place, attribution in iter_plans(model, images, target, list(shared.values()), precision=precision):
            yield names[place], attribution
    device = Observer(model).device
    for name in (name for name in made if name not in shared):
        with autocast(precision, device):
            attribution = made[name](model, images, target)
        yield name, attribution


def _made(method: Any) -> Any:
    """The method; one with its defaults where a class (or a partial of one, as in `METHODS`) was given."""
    factory = method.func if isinstance(method, partial) else method
    return method() if isinstance(factory, type) else method


def run_plans(
    model: Any, images: Any, target: Any, plans: Sequence[Plan], *, precision: str = "float32"
) -> list[Attribution]:
    """Run the passes of all plans, each distinct one once, and the clean images once to resolve the target.

    Raises:
        UsageError, NotSupported: see `attribute`.
    """
    attributions = dict(iter_plans(model, images, target, plans, precision=precision))
    return [attributions[place] for place in range(len(plans))]


def iter_plans(
    model: Any, images: Any, target: Any, plans: Sequence[Plan], *, precision: str = "float32"
) -> Iterator[tuple[int, Attribution]]:
    """As `run_plans`, each attribution as soon as its passes have run: (place among the plans, attribution).

    Raises:
        UsageError, NotSupported: see `attribute`.
    """
    observer = Observer(model, precision)
    batch = observer.images(images)
    # Left before each attribution is handed out: whoever takes it finds gradients and weights as they were.
    with observer.ready():
        asked = [_places(observer, batch, plan) for plan in plans]
        dense = getattr(target, "on", "outputs") == "dense"
        # Names need hooks on the library's own forward, blocks and patches need the tower's.
        ways = [observer.way([*places, *plan.values], dense) for places, plan in zip(asked, plans, strict=True)]
        default = "tower" if dense or "tower" in ways else "hooks"
        ways = [default if way == "any" else way for way in ways]
        cleans: dict[str, Observed] = {}
        score: Score | None = None
        for way in dict.fromkeys(ways):
            mine = [i for i, w in enumerate(ways) if w == way]
            passes_of_group = [p for i in mine if isinstance(plans[i].passes, Clean) for p in asked[i]]
            extra = [p for i in mine for p in [*asked[i], *plans[i].values]]
            # Without a method that reads the clean images' gradients their graph would only take memory.
            with torch.set_grad_enabled(any(isinstance(plans[i].passes, Clean) for i in mine)):
                cleans[way] = observer.run(batch, passes_of_group, values=extra, way=way)
            score = score or resolve(model, target, cleans[way].readable(dense).detach())
            cleans[way].bind(score, dense, batch)
        assert score is not None
        size = (batch.shape[-2], batch.shape[-1])
        gatherings: list[Gathering] = []
        for plan, places, way in zip(plans, asked, ways, strict=True):
            gatherings.append(plan.open(Opening(cleans[way], cleans[way].score(), tuple(places), size)))
        value = next(iter(cleans.values())).score().detach()
    sets = dict.fromkeys((plan.passes, way) for plan, way in zip(plans, ways, strict=True))
    # The clean pass first: its backward frees what it holds.
    for passes, way in sorted(sets, key=lambda each: not isinstance(each[0], Clean)):
        mine = [i for i, plan in enumerate(plans) if plan.passes == passes and ways[i] == way]
        passes_of_group = [p for i in mine for p in asked[i]]
        extra = [p for i in mine for p in plans[i].values]
        with observer.ready():
            for step in passes(observer, batch):
                if isinstance(passes, Clean):
                    seen = cleans[way]
                else:
                    seen = observer.run(step.images, passes_of_group, values=extra, way=way, added=step.added)
                    seen.bind(score, dense, batch)
                for index in mine:
                    gatherings[index].add(seen, seen.score(), step)
            gathered = {index: gatherings[index].result() for index in mine}
        for index, each in gathered.items():
            yield index, _attribution(plans[index], each, value, size, observer)


def _attribution(
    plan: Plan, gathered: Gathered, value: Float[Tensor, "B"], size: tuple[int, int], observer: Observer
) -> Attribution:
    return Attribution(
        tuple(site.values.detach() for site in gathered.sites),
        tuple(site.box for site in gathered.sites),
        size,
        value,
        plan.method,
        plan.finish,
        combine=plan.combine,
        align_corners=plan.align_corners,
        accounted=gathered.accounted,
        promised=gathered.promised,
        # Views are crops of the image, each with boxes of its own.
        seen=None
        if observer.preprocess is None or isinstance(plan.passes, CroppedViews)
        else input_box(observer.preprocess, size),
    )


def _places(observer: Observer, batch: Tensor, plan: Plan) -> list[Place]:
    layers = plan.layers
    if layers is None:
        return [observer.default_place(batch)]
    # A Sequential is one layer too, though it can be read like a list.
    one = isinstance(layers, (int, str, nn.Module)) or _is_site(layers)
    several: list[Any] = [layers] if one else list(layers)  # type: ignore[arg-type]
    return [observer.name_of(each) if isinstance(each, nn.Module) else each for each in several]


def _is_site(layers: Any) -> bool:
    """`Site("heads", -1)` is a tuple, but one place."""
    return hasattr(layers, "_fields")
