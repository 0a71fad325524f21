"""Attacks on what promptable segmenters see: no prompt finds its object any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_fields, check_number
from binderclip.robust.attack_loop import AttackResult, attack
from binderclip.robust.attacks.spatial import warp
from binderclip.robust.checks import FiniteGuard, check_finite, check_images
from binderclip.robust.feasible import Linf
from binderclip.robust.objectives import Objective
from binderclip.robust.steps import Sign
from binderclip.segment.promptable.prompts import ImageState, Prompts

__all__ = ["UAD", "EncoderMaps", "FeatureAttack", "FeatureTarget", "Features", "MaskRemoval", "polyharmonic_flow"]

Features: TypeAlias = Callable[[Tensor], "Sequence[Tensor]"]
"""Images (B, 3, H, W) in [0, 1] to maps (B, ...) of one or several layers, differentiable."""
PAPER_SIDE = 1024
PIXEL_STD = 0.226
"""Mean of the standard deviations by which the paper's pixels are divided."""
APART = 1e-3
"""Pixels by which control points must differ, from each other and from their line: nearer, their system is singular."""


class EncoderMaps(nn.Module):
    """The maps of a bundled promptable segmenter's encoder, at strides 8, 4 and 2, for attacks on its features.

    Args:
        model: a `segment.promptable.PromptModel`, as `load_promptable("small-sam")` gives it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Sequence[Tensor]:
        """Three maps (B, C, h, w) of images in [0, 1], which are resized to the encoder's input."""
        levels = self.model.backbone.encode(self.model.preprocess(images.to(self.model.device)))
        return levels.coarse, levels.middle, levels.fine


def polyharmonic_flow(
    source: Float[Tensor, "K n 2"], destination: Float[Tensor, "K n 2"], size: tuple[int, int]
) -> Float[Tensor, "K 2 h w"]:
    """The smooth field of displacements that takes control points to other places, at every pixel; differentiable.

    A polyharmonic spline of order 1 (phi(r) = r) with an affine part through `destination - source` at the
    destinations. Pixel p of a warped image comes from p minus this, so `warp(image, -flow)`.

    Args:
        source, destination: (row, column) in pixels; destinations are three at least, no two in one place, and not all
            on a line.
        size: (h, w) of the image.

    Raises:
        UsageError: points that are not finite, too few, or placed otherwise.

    Paper: Unsegment Anything by Simulating Deformation (arXiv 2404.02585), whose code adds noise to the zeros of the
    system.
    """
    count, points, _ = destination.shape
    for name, each in (("source", source), ("destination", destination)):
        check_finite(f"points of {name}", each)
    if bool(_degenerate(destination).any()):
        which = int(_degenerate(destination).nonzero()[0])
        raise UsageError(
            f"the {points} control points of warp {which} do not define it: they must be three at least, no two in one "
            "place, and not all on a line"
        )
    ones = destination.new_ones(count, points, 1)
    affine = torch.cat([destination, ones], 2)  # (W, n, 3)
    top = torch.cat([_distances(destination, destination), affine], 2)
    bottom = torch.cat([affine.transpose(1, 2), affine.new_zeros(count, 3, 3)], 2)
    moved = torch.cat([destination - source, destination.new_zeros(count, 3, 2)], 1)
    weights = torch.linalg.solve(torch.cat([top, bottom], 1), moved)  # (W, n + 3, 2)
    rows, columns = (torch.arange(side, dtype=source.dtype, device=source.device) for side in size)
    pixels = torch.cartesian_prod(rows, columns).expand(count, -1, -1)
    basis = torch.cat([_distances(pixels, destination), pixels, pixels.new_ones(*pixels.shape[:2], 1)], 2)
    return (basis @ weights).transpose(1, 2).unflatten(2, size)


@torch.no_grad()
def _degenerate(points: Float[Tensor, "K n 2"]) -> Bool[Tensor, "K"]:
    """Whether two of the control points of a warp are in one place, or all on a line."""
    if points.shape[1] < 3:
        return torch.ones(len(points), dtype=torch.bool, device=points.device)
    exact = points.double()
    apart = torch.cdist(exact, exact, compute_mode="donot_use_mm_for_euclid_dist")
    apart.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    across = torch.linalg.svdvals(exact - exact.mean(1, keepdim=True))[:, 1]  # (W,) 0 where all are on a line
    return (apart.amin((1, 2)) < APART) | (across < APART)


def _distances(a: Float[Tensor, "K m 2"], b: Float[Tensor, "K n 2"]) -> Float[Tensor, "K m n"]:
    """Euclidean; the root of a zero has no gradient, so it is lifted by a hair."""
    return (a[:, :, None] - b[:, None]).square().sum(3).clamp(min=1e-10).sqrt()


class FeatureTarget(Objective):
    """Features nearer to some and farther from others: mean over layers of cos(F, toward) - cos(F, away).

    Args:
        features: images to maps; an `nn.Module` is frozen meanwhile.
        toward: maps to come near to, one a layer.
        away: maps to leave; None: none.

    Raises:
        UsageError: maps that are not finite, here or when called (on an accelerator `attack` raises it).

    Paper: Unsegment Anything by Simulating Deformation (arXiv 2404.02585).
    """

    def __init__(self, features: Features, toward: Sequence[Tensor], away: Sequence[Tensor] | None) -> None:
        for part in (*toward, *(away or ())):
            check_finite("maps to come near to or to leave", part)
        self.features, self.toward, self.away = features, toward, away
        self.networks = _networks(features)

    def judge(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B"], Tensor]:
        """Values; there is no success to reach."""
        features = self.features(images)
        values = _cosines(features, self.toward)
        if self.away is not None:
            values = values - _cosines(features, self.away)
        FiniteGuard()("features of the images", values)
        return values, torch.zeros(len(images), dtype=torch.bool, device=values.device)


class FeatureAttack(Objective):
    """Features far from the clean ones (TAP): the distance of signed roots, less what the change weighs when blurred.

    ||sign(F) |F|^0.5 - sign(F0) |F0|^0.5|| over all layers, minus 0.01 sum |blur3(x - x0)|.

    Args:
        features: images to maps; an `nn.Module` is frozen meanwhile.
        clean: images (B, 3, H, W) in [0, 1].
        power, smooth: of the published attack.

    Raises:
        UsageError: images out of range, a power or weight that is not, or features that are not finite.

    Paper: Transferable Adversarial Perturbations (ECCV 2018), as in arXiv 2404.02585.
    """

    def __init__(
        self, features: Features, clean: Float[Tensor, "B 3 H W"], *, power: float = 0.5, smooth: float = 0.01
    ) -> None:
        check_images("clean images", clean, shape="(B, C, H, W)")
        check_number("power", power, above=0)
        check_number("smooth", smooth, least=0)
        self.features, self.clean, self.power, self.smooth = features, clean, power, smooth
        self.networks = _networks(features)
        with torch.no_grad(), frozen(*self.networks):
            self._root = [self._rooted(part) for part in features(clean)]
        for part in self._root:
            check_finite("features of the clean images", part)

    def _rooted(self, part: Tensor) -> Tensor:
        return part.sign() * part.abs().clamp(min=1e-12) ** self.power

    def judge(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B"], Tensor]:
        """Values; there is no success to reach."""
        parts = [self._rooted(a) - b for a, b in zip(self.features(images), self._root, strict=True)]
        far = torch.stack([part.flatten(1).square().sum(1) for part in parts]).sum(0).clamp(min=1e-12).sqrt()
        FiniteGuard()("features of the images", far)
        blurred = F.avg_pool2d((images - self.clean) / PIXEL_STD, 3).abs().flatten(1).sum(1)
        return far - self.smooth * blurred.to(far), torch.zeros(len(images), dtype=torch.bool, device=far.device)


class MaskRemoval(Objective):
    """Masks of given prompts gone (Attack-SAM): minus the mean square by which their logits exceed `bound`.

    Args:
        model: a `segment.promptable.PromptModel`; frozen meanwhile.
        prompts: for the one image that is attacked, in its pixels; many random points make Attack-SAM-K.
        bound: logits that are wanted at most.

    Raises:
        UsageError: a bound that is not finite; when called, several images, or logits that are not finite.

    Paper: Attack-SAM (arXiv 2305.00866), as in arXiv 2404.02585.
    """

    def __init__(self, model: Any, prompts: Prompts, *, bound: float = -10.0) -> None:
        check_number("bound", bound)
        self.model, self.prompts, self.bound = model, prompts, bound
        self.networks = (model,)

    def judge(self, images: Float[Tensor, "1 3 H W"]) -> tuple[Float[Tensor, "1"], Tensor]:
        """The value; there is no success to reach."""
        if len(images) != 1:
            raise UsageError(f"prompts belong to one image, not to {len(images)}: attack them one by one")
        height, width = images.shape[-2:]
        levels = self.model.backbone.encode(self.model.preprocess(images.to(self.model.device)))
        side = self.model.image_size
        state = ImageState(levels, (height, width), (side / width, side / height))
        logits, _ = self.model.predict_low(state, self.prompts, multimask=False)
        FiniteGuard()("logits of the masks", logits)
        value = -(logits - self.bound).clamp(min=0).square().mean()
        return value[None], torch.zeros(1, dtype=torch.bool, device=value.device)


def _networks(features: Features) -> tuple[nn.Module, ...]:
    return (features,) if isinstance(features, nn.Module) else ()


def _cosines(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Mean over layers of the cosine of whole maps."""
    pairs = zip(features, others, strict=True)
    return torch.stack([F.cosine_similarity(a.flatten(1), b.flatten(1)) for a, b in pairs]).mean(0)


@dataclass(frozen=True, kw_only=True)
class UAD:
    """Unsegment anything by simulating deformation: features become those of the same image, smoothly deformed.

    Control points of several warps are moved so that the image changes much (and, with `couple`, so that a small
    perturbation reaches its features); then the image is changed within `eps` until it looks like that to the encoder.
    Points of a warp that would meet, or end on a line, stay where they are in that epoch.

    Args:
        features: images to maps of the encoder, such as `EncoderMaps(model)`.
        eps, alpha, steps: ball, step and steps of the last attack, in pixels of [0, 1].
        epochs: of the control points, by Adam. inner: steps of the attack in each but the last.
        warps: deformed copies; where a checkerboard is 1 the brightest counts, where it is 0 the darkest.
        split: control points along each side.
        lr: of Adam, spread: of the first displacements as a share of the distance of the points, cell: of the
            checkerboard; lr and cell in pixels at a side of 1024, brought to the image's.
        control: weight of the spread of displacements within a warp, less half of the one across warps.
        fidelity: weight of the distance between reached and deformed features.
        couple: let it move the control points; False as in the paper's code, where its gradient is lost.
        seed: of the first displacements.

    Call it with images (B, 3, H, W) in [0, 1]; they are attacked one by one.

    Raises:
        UsageError: fewer than one epoch, step or warp, fewer than two points a side, or another setting out of range;
            when called, images out of range or too small for so many points, or features that are not finite.

    Paper: Unsegment Anything by Simulating Deformation (arXiv 2404.02585).
    """

    features: Features
    eps: float = 8 / 255
    alpha: float = 2 / 255
    steps: int = 40
    epochs: int = 40
    inner: int = 4
    warps: int = 4
    split: int = 6
    lr: float = 10.0
    spread: float = 0.1
    cell: int = 300
    control: float = 0.05
    fidelity: float = 1.0
    couple: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.epochs, self.inner, self.steps, self.warps) < 1 or self.split < 2:
            raise UsageError(
                f"epochs, inner, steps and warps must be at least 1 and split at least 2; got {self.epochs}, "
                f"{self.inner}, {self.steps}, {self.warps}, {self.split}"
            )
        Linf(self.eps)
        Sign(self.alpha)
        check_number("lr", self.lr, above=0)
        for name, value in (("spread", self.spread), ("cell", self.cell)):
            check_number(name, value, least=0)

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> AttackResult:
        check_images("images", images, shape="(B, 3, H, W)")
        generator = torch.Generator().manual_seed(self.seed)
        with frozen(*_networks(self.features)):
            parts = [self._one(image.detach(), generator) for image in images.split(1)]
        names = ("images", "perturbation", "success", "objective")
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        history = torch.cat([part.history for part in parts], 1)
        return AttackResult(**joined, queries=parts[0].queries + (self.epochs - 1) * self.inner, history=history)

    def _one(self, image: Tensor, generator: torch.Generator) -> AttackResult:
        size = (image.shape[-2], image.shape[-1])
        scale = max(size) / PAPER_SIDE
        source, destination = self._points(size, generator)
        if bool(_degenerate(destination).any()):
            raise UsageError(
                f"{self.split} x {self.split} control points meet at the start in an image of {size[0]} x {size[1]} "
                f"pixels: a smaller split or spread keeps them apart, got spread {self.spread}"
            )
        adam = torch.optim.Adam([source, destination], lr=self.lr * scale)
        with torch.no_grad():
            clean = list(self.features(image))
            mask = self._mask(image, source, destination, max(1, round(self.cell * scale)))
        best = None
        for epoch in range(self.epochs):
            with torch.enable_grad():
                deformed = self.deformed(image, source, destination, mask)
                target = list(self.features(deformed))
            steps = self.steps if epoch == self.epochs - 1 else self.inner
            best = self._reached(image, [part.detach() for part in target], clean, steps)
            with torch.enable_grad():
                loss = -((image - deformed) / PIXEL_STD).abs().mean()
                loss = loss + self.control * _control(destination - source) / scale
                if self.couple:
                    reached = [part.detach() for part in self.features(best.images)]
                    loss = loss - self.fidelity * _cosines(reached, target).mean()
            source.grad, destination.grad = torch.autograd.grad(loss, [source, destination])
            check_finite("gradients of the control points", torch.cat([source.grad, destination.grad]))
            before = destination.detach().clone()
            adam.step()
            with torch.no_grad():
                for points in (source, destination):
                    points.clamp_(min=0)
                    points.copy_(torch.minimum(points, points.new_tensor(size) - 1))
                # Points that met would have no spline through them: their warp waits for the next epoch.
                destination.copy_(torch.where(_degenerate(destination)[:, None, None], before, destination))
        assert best is not None
        return best

    def _reached(self, image: Tensor, toward: list[Tensor], away: list[Tensor], steps: int) -> AttackResult:
        return attack(
            FeatureTarget(self.features, toward, away), image, param=Linf(self.eps), step=Sign(self.alpha),
            steps=steps, start="clean", keep="last",
        )  # fmt: skip

    def _points(self, size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sources in the middle of blocks, destinations a little beside: (warps, split^2, 2), to be learned."""
        block = torch.tensor([side / self.split for side in size])
        middle = torch.arange(self.split) + 0.5
        source = (torch.cartesian_prod(middle, middle) * block).expand(self.warps, -1, -1)
        noise = torch.randn(source.shape, generator=generator)
        most = torch.tensor(size) - 1.0
        destination = torch.minimum((source + self.spread * block * noise).clamp(min=0), most)
        return source.clone().requires_grad_(), destination.requires_grad_()

    def _mask(self, image: Tensor, source: Tensor, destination: Tensor, cell: int) -> Tensor:
        """A checkerboard, warped once by the first warp."""
        rows, columns = (torch.arange(side, device=image.device) // cell % 2 for side in image.shape[-2:])
        board = (rows[:, None] ^ columns[None]).to(image.dtype)[None, None]
        flow = polyharmonic_flow(source[:1], destination[:1], (image.shape[-2], image.shape[-1]))
        return warp(board, -flow.to(image), padding="reflection")

    def deformed(
        self,
        image: Float[Tensor, "1 3 H W"],
        source: Float[Tensor, "K n 2"],
        destination: Float[Tensor, "K n 2"],
        mask: Float[Tensor, "1 1 H W"],
    ) -> Float[Tensor, "1 3 H W"]:
        """All warps in one image: the brightest where the mask is 1, the darkest where it is 0.

        Args:
            image: to be warped.
            source, destination: control points in pixels.
            mask: in [0, 1].
        """
        flow = polyharmonic_flow(source, destination, (image.shape[-2], image.shape[-1])).to(image)
        copies = warp(image.expand(len(flow), -1, -1, -1), -flow, padding="reflection")
        return copies.amax(0, keepdim=True) * mask + copies.amin(0, keepdim=True) * (1 - mask)


def _control(displacement: Float[Tensor, "K n 2"]) -> Float[Tensor, ""]:
    """How unlike displacements are within a warp, less half of how unlike they are across warps, in pixels."""
    within = displacement.std(1).mean()
    across = displacement.std(0).mean() if len(displacement) > 1 else displacement.new_zeros(())
    return within - 0.5 * across
