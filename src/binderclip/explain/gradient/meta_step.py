"""One training step on the very image, then the explanation: maps of what that step would change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.engine.attribute import Plan, run_plans
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.engine.gathering import Gathered, Gathering, Opening, Reduce, Signal, Single
from binderclip.explain.engine.observed import Observed, Observer
from binderclip.explain.engine.passes import Clean, Pass
from binderclip.explain.engine.places import Place
from binderclip.settings import check_choice

InnerLoss = Literal["score", "cross-entropy"]
Weights: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class MetaStep:
    """An ensemble of one: the weights make a step on the image's own loss, and the signal is read there.

    `theta' = theta - eps * dL(theta, x)/dtheta` for each image by itself. The gradient at a place counts both ways in
    which the place moves the score of theta': directly, and through the step. Meant to make maps of different classes
    less alike (see `class_sensitivity`).

    Args:
        eps: size of the step; 0 is the plain signal.
        loss: `score` (minus the explained score; any model and target) or `cross-entropy` (of an explained logit among
            all logits, as in the official code).
        weights: prefixes of the names of parameters that move (as in `named_parameters` of the network, the image side
            of an image-text model); None for all.
        second_order: False leaves out the way through the step, as the official code does; half the cost.
        batch: images whose steps are taken together; each holds a copy of the weights.

    Raises:
        UsageError: a setting out of range; when called: a prefix that no parameter has.
        NotSupported: when called: an operation that cannot be differentiated twice, a patch target, or cross-entropy
            where there are no logits.

    Paper: There and Back Again: Revisiting Backpropagation Saliency Methods (arXiv 2004.02866), section 4.
    """

    eps: float = 1e-3
    loss: InnerLoss = "score"
    weights: tuple[str, ...] | None = None
    second_order: bool = True
    batch: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.eps < float("inf") or self.batch < 1:
            raise UsageError(f"eps must be at least 0 and finite, batch at least 1; got {self.eps}, {self.batch}")
        check_choice("loss", self.loss, ("score", "cross-entropy"))
        if isinstance(self.weights, str):
            raise UsageError(f"weights must be a tuple of prefixes, such as ({self.weights!r},)")

    @property
    def passes(self) -> MetaPasses:
        """The step; methods with equal ones share it."""
        return MetaPasses(self)

    def open(self, opening: Opening, signal: Signal, reduce: Reduce) -> Gathering:
        """The signal after the step."""
        return _AfterStep(Single().open(opening, signal, reduce))


@dataclass(frozen=True)
class MetaPasses:
    """The images as they are, seen by weights that made a step on them."""

    step: MetaStep

    def __call__(self, observer: Observer, images: Float[Tensor, "B 3 H W"]) -> Iterator[Pass]:
        """One pass."""
        yield _MetaPass(images, observer=observer, step=self.step)


@dataclass(frozen=True)
class _MetaPass(Pass):
    observer: Any = None
    step: MetaStep = field(default_factory=MetaStep)
    _moved: list[Observed] = field(default_factory=list)

    def moved(self, seen: Observed) -> Observed:
        """What weights after the step see, computed once for all methods of this pass."""
        if not self._moved:
            self._moved.append(_after_step(self.observer, seen, self.step))
        return self._moved[0]


class _AfterStep:
    """Hands the pass after the step to another gathering."""

    def __init__(self, inner: Gathering) -> None:
        self.inner = inner

    def add(self, seen: Observed, score: Tensor, step: Pass) -> None:
        """Take the step first."""
        assert isinstance(step, _MetaPass)
        moved = step.moved(seen)
        self.inner.add(moved, moved.score(), step)

    def result(self) -> Gathered:
        """The other gathering's."""
        return self.inner.result()


@dataclass(frozen=True)
class _MetaMethod:
    method: Any
    step: MetaStep

    def plan(self) -> Plan | None:
        """The method's plan, its one pass after the step."""
        plan = self.method.plan()
        if plan is None:
            return None
        if not isinstance(plan.passes, Clean):
            raise NotSupported(f"{plan.method} runs perturbed images; a meta step is for methods of one pass")
        return replace(
            plan,
            method=f"meta {plan.method}",
            passes=self.step.passes,
            open=lambda opening: _AfterStep(plan.open(opening)),
        )

    def __call__(self, model: Any, images: Any, target: Any = None) -> Attribution:
        """Explain images; see `attribute` for the arguments."""
        on = getattr(self.method, "on", None)
        plan = (self if on is None else replace(self, method=on(model, images))).plan()
        if plan is None:
            raise NotSupported(f"{type(self.method).__name__} changes the model for its pass: no meta step is possible")
        return run_plans(model, images, target, [plan])[0]


def meta_saliency(
    method: Any,
    *,
    eps: float = 1e-3,
    loss: InnerLoss = "score",
    weights: tuple[str, ...] | None = None,
    second_order: bool = True,
    batch: int = 4,
) -> Any:
    """Any method of one pass, its maps taken after one step of training on the image; see `MetaStep`.

    Args:
        method: `NormGrad()`, `GradCAM()`, `Saliency()`, ...
        eps, loss, weights, second_order, batch: see `MetaStep`.

    Returns:
        A method: called like `method`, and sharing its step with others under `attribute_all`.

    Raises:
        UsageError: a setting out of range, or no such method.
        NotSupported: when called: a method that runs perturbed images, or see `MetaStep`.

    Examples:
        >>> maps = meta_saliency(GradCAM(), eps=0.01)(net, images, 3).maps()  # doctest: +SKIP

    Paper: There and Back Again: Revisiting Backpropagation Saliency Methods (arXiv 2004.02866), section 4.
    """
    if not hasattr(method, "plan"):
        raise UsageError(f"method must be one of binderclip.explain, not {type(method).__name__}")
    return _MetaMethod(method, MetaStep(eps, loss, weights, second_order, batch))


_ONCE = "{} holds an operation that cannot be differentiated twice: use second_order=False"


def _refuse_once_differentiable(slopes: Sequence[Tensor], network: nn.Module) -> None:
    """Such an operation's error lies behind a cut in the graph: asking for gradients beyond it would just omit them."""
    todo = [slope.grad_fn for slope in slopes if slope.grad_fn is not None]
    known = set(todo)
    while todo:
        node = todo.pop()
        if node.name() == "torch::autograd::Error":
            raise NotSupported(_ONCE.format(type(network).__name__))
        following = {following for following, _ in node.next_functions if following is not None} - known
        known |= following
        todo += following


class _Whole(nn.Module):
    """Runs a function while the network's weights are replaced by `functional_call`."""

    def __init__(self, network: nn.Module, run: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.run = network, run

    def forward(self, *inputs: Any) -> Any:
        return self.run(*inputs)


def _after_step(observer: Observer, seen: Observed, step: MetaStep) -> Observed:
    """Scores, values and total gradients of all wanted places after each image's own step."""
    score, dense, _ = seen._score or (None, False, 0)
    if score is None or dense:
        raise NotSupported("a meta step needs a target on features or logits, not on a patch")
    if step.loss == "cross-entropy" and observer.model is observer.backbone:
        raise NotSupported("cross-entropy needs logits: explain model.predictor(labels)")
    places = tuple(dict.fromkeys(seen.wanted))
    names = [place for place in places if place != "input"]
    network = observer._network()
    moving = {n: p.detach() for n, p in network.named_parameters() if _moves(n, step.weights)}
    if not moving:
        raise UsageError(f"weights {step.weights}: no parameter of {type(network).__name__} begins so")
    job = _Job(observer, seen, score, step, names, network, moving)
    with _plain_attention():
        try:
            parts = [job.together(rows) for rows in torch.arange(len(seen.images)).split(step.batch)]
        except _NotTogether:
            parts = [job.alone(row) for row in range(len(seen.images))]
    merged = [torch.cat(output) for output in zip(*(outputs for outputs, _, _ in parts), strict=True)]
    values = {place: torch.cat([part[1][place] for part in parts]) for place in places}
    gradients = {place: torch.cat([part[2][place] for part in parts]) for place in places}
    out = Observed(seen.images, merged[0], seen.values | values, seen.spatial, seen.boxes)
    out._scores = merged[1]
    out._found.update(gradients)
    return out


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Fused attention has no second derivative; its plain form, the same numbers, has."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _moves(name: str, prefixes: Sequence[str] | None) -> bool:
    return prefixes is None or any(name == p or name.startswith(p.rstrip(".") + ".") for p in prefixes)


_Part: TypeAlias = tuple[tuple[Tensor, Tensor], dict[Place, Tensor], dict[Place, Tensor]]


class _NotTogether(Exception):
    """The model does not run under vmap, or keeps places where nothing can be added to them."""


@dataclass(frozen=True)
class _Job:
    observer: Observer
    seen: Observed
    score: Callable[[Tensor], Tensor]
    step: MetaStep
    names: list[Place]
    network: nn.Module
    moving: Weights

    def scored(self, outputs: Float[Tensor, "n K"], rows: Tensor) -> Float[Tensor, "n"]:
        """Scores of some images; a target may hold one text or class an image, so it sees the whole batch."""
        return self.score(self.seen.outputs.detach().index_put((rows,), outputs))[rows]

    def stepped(self, outputs: Tensor, rows: Tensor, weights: Weights) -> Weights:
        """The weights after a step on each image's loss."""
        loss = -self.scored(outputs, rows)
        if self.step.loss == "cross-entropy":
            loss = loss + outputs.logsumexp(dim=-1)
        gradients = torch.autograd.grad(
            loss.sum(), list(weights.values()), create_graph=self.step.second_order, allow_unused=True
        )
        if self.step.second_order:
            _refuse_once_differentiable([slope for slope in gradients if slope is not None], self.network)
        return {
            name: weight if slope is None else weight - self.step.eps * slope
            for (name, weight), slope in zip(weights.items(), gradients, strict=True)
        }

    def together(self, rows: Tensor) -> _Part:
        """Several images, each with its own weights, in one forward; a variable is added at each place."""
        if not all(isinstance(name, str) for name in self.names):
            raise _NotTogether
        names = [str(name) for name in self.names]
        images = self.seen.images[rows].detach().requires_grad_()
        added = {name: torch.zeros_like(self.seen.raw(name)[rows]).requires_grad_() for name in names}
        weights = {n: p.expand(len(rows), *p.shape).clone().requires_grad_() for n, p in self.moving.items()}
        whole = _Whole(self.network, partial(_forward, self.observer, dict(self.network.named_modules())))

        def one(own: Weights, image: Tensor, offsets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            renamed = {f"network.{name}": weight for name, weight in own.items()}
            outputs, values = functional_call(whole, renamed, (image[None], offsets))
            return outputs[0], {name: value[0] for name, value in values.items()}

        sources: dict[Place, Tensor] = {p: images if p == "input" else added[str(p)] for p in self.seen.wanted}
        try:
            before, _ = vmap(one)(weights, images, added)
            after, values = vmap(one)(self.stepped(before, rows, weights), images, added)
            score = self.scored(after, rows)
            gradients = torch.autograd.grad(score.sum(), list(sources.values()), allow_unused=True)
        except (RuntimeError, UsageError) as error:
            # The same images just went through the model one way, so what fails is running them this way.
            raise _NotTogether from error
        kept: dict[Place, Tensor] = {p: images if p == "input" else values[str(p)] for p in sources}
        return (
            (after.detach(), score.detach()),
            {p: v.detach() for p, v in kept.items()},
            {p: _known(g, p) for p, g in zip(sources, gradients, strict=True)},
        )

    def alone(self, row: int) -> _Part:
        """One image, through the observer's own ways: the places' tensors of both forwards are differentiated."""
        rows = torch.tensor([row])
        places = list(dict.fromkeys(self.seen.wanted))
        way = self.observer.way(self.names)
        weights = {name: p.clone().requires_grad_() for name, p in self.moving.items()}
        whole = _Whole(self.network, lambda image: self.observer.run(image, places, way=way))

        def run(own: Weights) -> Observed:
            return functional_call(whole, {f"network.{n}": w for n, w in own.items()}, (self.seen.images[rows],))

        before = run(weights)
        after = run(self._twice(lambda: self.stepped(before.outputs, rows, weights)))
        score = self.scored(after.outputs, rows)
        parameters = [after.values[p] for p in places] + [before.values[p] for p in places]
        twice = self._twice(lambda: torch.autograd.grad(score.sum(), parameters, allow_unused=True))
        gradients = {}
        for place, direct, through in zip(places, twice[: len(places)], twice[len(places) :], strict=True):
            gradients[place] = _known(direct, place) if through is None else _known(direct, place) + through
        return (
            (after.outputs.detach(), score.detach()),
            {p: after.values[p].detach() for p in places},
            gradients,
        )

    def _twice(self, differentiate: Callable[[], Any]) -> Any:
        try:
            return differentiate()
        except RuntimeError as error:
            if self.step.second_order and "not implemented" in str(error):
                raise NotSupported(_ONCE.format(type(self.network).__name__)) from error
            raise


def _forward(
    observer: Observer, modules: dict[str, nn.Module], image: Tensor, offsets: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    values: dict[str, Tensor] = {}

    def adder(name: str) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            values[name] = output
            return output + offsets[name]

        return hook

    handles = [modules[name].register_forward_hook(adder(name)) for name in offsets]
    try:
        return observer._forward(image), values
    finally:
        for handle in handles:
            handle.remove()


def _known(gradient: Tensor | None, place: Place) -> Tensor:
    if gradient is None:
        raise UsageError(f"the target does not depend on {place!r}: choose an earlier layer")
    return gradient.detach()
