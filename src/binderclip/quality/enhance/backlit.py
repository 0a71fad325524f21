"""What enhancers of backlit pictures share: how results are looked at, the reconstruction and the guided training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import DataError, UsageError
from binderclip.fit import FitResult, StepRecord, fit
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.layers.freezing import frozen
from binderclip.models.towers.kinds.convolutional import ConvolutionalTower
from binderclip.quality.enhance.illumination import IlluminationNet, relit
from binderclip.quality.enhance.light_prompts import LightGuidance
from binderclip.quality.enhance.middle_maps import MiddleMaps, Seen
from binderclip.quality.rows import ShuffledRows
from binderclip.quality.score.embedding import NativeEmbedding
from binderclip.quality.score.prompt_quality import loaded

LEVELS = 5
"""Middle maps that hold a result to its picture: the stem and four stages of a ResNet."""
LAST, SHARE = 0.5, 0.9
"""Weight of the last of them, and of all, under guidance; both are 1 in the reconstruction."""
DECAY = 1e-3
MORE, BLOCKS = 60, 10
"""Steps that follow while the loss is above a threshold, and how often at most."""
RECENT, LOOK = 30, 20
"""Steps whose mean loss says how good weights are, and how often it is looked at."""
DARK, PATIENCE, DRAWS = 8.0, 100, 20
"""A network whose results have fewer dB than this after so many steps is drawn again, at most so many times."""
KEPT = 2**28
"""Bytes of the pictures' own middle maps that are kept during a training; more are computed at every step."""


@dataclass
class EnhancerFit:
    """What a training did.

    Attributes:
        stages: the record of every stage, by name, in order.
    """

    stages: dict[str, FitResult] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(result.seconds for result in self.stages.values())


class LowestLoss:
    """Keep the weights of a module whose mean loss over the last 30 steps was the lowest, as a callback of `fit`.

    Args:
        module: what is trained; `restore` puts the weights back, where there were 30 steps.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.lowest = module, float("inf")
        self.recent: deque[Tensor] = deque(maxlen=RECENT)
        self.best: dict[str, Tensor] | None = None

    def see(self, loss: Tensor) -> Tensor:
        """Note a loss, and hand it on."""
        self.recent.append(loss.detach())
        return loss

    def mean(self) -> float:
        """Of the last steps."""
        return float(torch.stack(list(self.recent)).mean())

    def after_step(self, step: int) -> None:
        """Look every 20 steps."""
        if len(self.recent) == RECENT and step % LOOK == 0 and (mean := self.mean()) < self.lowest:
            self.lowest = mean
            self.best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def restore(self) -> None:
        """Put the best weights back."""
        if self.best is not None:
            self.module.load_state_dict(self.best)


def step_counter(say: Callable[[str], object], text: str, steps: int) -> Callable[[StepRecord], None]:
    """A callback of `fit` that says "TEXT: step 12 of 300"."""

    def said(record: StepRecord) -> None:
        say(f"{text}: step {record.step} of {steps}")

    return said


class BacklitEnhancer:
    """An illumination network, and the frozen model that its results are looked at with.

    Args:
        model: a name that `load` takes, or a model; never changed. The paper's is CLIP's ViT-B/32.
        network: changed in place. Default a new `IlluminationNet()`.
        content_model: whose middle maps hold a result to its picture; the paper's is CLIP's RN101. None: `model`, in
            the pass that embeds the result anyway.
        side: of the squares that results are resized to before `model` sees them. Default the model's own.
        content: weight of the mean squared differences of middle maps, mean over pictures. Default the paper's 25,
            times the batch of 8 over which the official code sums them.
        seed: of a new network, of batches and views.
        device: for a model that is loaded by name.

    Raises:
        UsageError: a side that is no multiple of the model's patch.
        NotSupported: a model without middle maps.
    """

    def __init__(
        self,
        model: str | ImageTextModel = "small",
        *,
        network: IlluminationNet | None = None,
        content_model: str | ImageTextModel | None = None,
        side: int | None = None,
        content: float = 200.0,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        refuse_bare_module(content_model, "BacklitEnhancer")
        refuse_bare_module(model, "BacklitEnhancer")
        self.model, self.content, self.seed = loaded(model, device), content, seed
        if network is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = IlluminationNet()
        self.network = network.to(self.model.device)
        other = self.model if content_model is None else loaded(content_model, device)
        tower = self.model.dense_tower
        self.side = self.model.preprocess.size[0] if side is None else side
        if self.side < tower.patch or self.side % tower.patch:
            raise UsageError(f"side {self.side} is no multiple of the patch of {tower.patch} pixels")
        self.maps = MiddleMaps(other, _spread(other))
        self._own = NativeEmbedding(self.model, "interpolate")
        self._together = other is self.model and not isinstance(tower, ConvolutionalTower)

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Unit embeddings of pictures in [0, 1], resized to squares without a crop; gradients reach the pixels."""
        return F.normalize(self._own(_square(images, self.side)).float(), dim=-1)

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "B 3 H W"], *, batch_size: int = 8, longest: int | None = None
    ) -> Float[Tensor, "B 3 H W"]:
        """Enhanced pictures; see `IlluminationNet.enhance`.

        Args:
            images: in [0, 1].
            batch_size: pictures at once.
            longest: of `IlluminationNet.enhance`.
        """
        parts = images.to(self.model.device).split(batch_size)
        return torch.cat([self.network.enhance(part, longest=longest) for part in parts])

    def reconstruct(
        self, images: Float[Tensor, "N 3 H W"], *, steps: int, lr: float = 2e-5, batch_size: int = 8, **options: Any
    ) -> FitResult:
        """Warm the network up: results shall have the middle maps of their pictures.

        A network that loses the picture (below 8 dB after 100 steps) is drawn again, and begins anew.

        Args:
            images: backlit, in [0, 1].
            steps, lr, batch_size, options: of `binderclip.fit.fit`, by Adam.

        Raises:
            DataError: 20 networks in a row lost the picture.
        """
        for attempt in range(DRAWS):
            noise = _Psnr(min(PATIENCE, steps))
            result = self._fit(images, None, noise, steps=steps, lr=lr, batch_size=batch_size, **options)
            if not noise.lost:
                return result
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed + 1000 + attempt)
                self.network.draw()
        raise DataError(
            f"{DRAWS} illumination networks in a row turned the pictures white in {min(PATIENCE, steps)} steps: take "
            "more steps, or IlluminationNet(level=1.0), which begins with the pictures as they are"
        )

    def guided(
        self, images: Float[Tensor, "N 3 H W"], guidance: LightGuidance, *, steps: int, lr: float = 2e-5,
        batch_size: int = 8, threshold: float | None = None, **options: Any,
    ) -> FitResult:  # fmt: skip
        """Train the network: results shall please the guidance and keep the middle maps of their pictures.

        The weights with the lowest mean loss over 30 steps are kept.

        Args:
            images: backlit, in [0, 1].
            guidance: stays as it is.
            steps, lr, batch_size, options: of `binderclip.fit.fit`, by Adam.
            threshold: 60 steps more follow while the mean loss of the last 30 is above it, ten times at most; the
                official code's is 90, without a limit. None: never.

        Returns:
            Of the first `steps`, with the metrics `guidance` and `content`, the weighted terms.
        """
        lowest = LowestLoss(self.network)
        result = self._fit(images, guidance, lowest, steps=steps, lr=lr, batch_size=batch_size, **options)
        for _ in range(BLOCKS):
            if threshold is None or lowest.mean() <= threshold:
                break
            self._fit(images, guidance, lowest, steps=MORE, lr=lr, batch_size=batch_size, **options)
        lowest.restore()
        return result

    def _fit(
        self, images: Tensor, guidance: LightGuidance | None, watch: LowestLoss | _Psnr, *, steps: int, lr: float,
        batch_size: int, optimizer: torch.optim.Optimizer | None = None, callbacks: Sequence[Any] = (), **options: Any,
    ) -> FitResult:  # fmt: skip
        batches = ShuffledRows(len(images), batch_size, self.seed)
        weights = torch.ones(len(self.maps.levels))
        weights[-1] = 1.0 if guidance is None else LAST
        frozen_too = () if guidance is None else (guidance,)
        with frozen(self.model, self.maps.model, *frozen_too):
            own = _OwnMaps(self._content_maps, images)

            def step(rows: Int[Tensor, "b"]) -> tuple[Tensor, Mapping[str, Tensor]]:
                shown = images[rows].to(self.model.device)
                made = relit(shown, self.network(shown))
                seen = self._seen(made, guidance is not None)
                apart = [F.mse_loss(a, b) for a, b in zip(seen.maps, own(rows), strict=True)]
                content = self.content * (weights.to(made.device) * torch.stack(apart)).sum()
                if guidance is None:
                    watch.see(F.mse_loss(made, shown))
                    return content, {}
                pull = guidance.loss(seen.embedding)
                terms = {"guidance": pull.detach(), "content": SHARE * content.detach()}
                return watch.see(pull + SHARE * content), terms

            return fit(
                step, self.network, batches, steps=steps, lr=lr, schedule="constant", callbacks=[watch, *callbacks],
                optimizer={"name": "adam", "weight_decay": DECAY} if optimizer is None else optimizer, **options,
            )  # fmt: skip

    def _content_maps(self, images: Tensor) -> list[Tensor]:
        return self.maps(_square(images, self._content_side)).maps

    @property
    def _content_side(self) -> int:
        return self.side if self.maps.model is self.model else self.maps.model.preprocess.size[0]

    def _seen(self, images: Tensor, embed: bool) -> Seen:
        """Middle maps, and the embedding: of one pass where both come from one transformer."""
        seen = self.maps(_square(images, self._content_side))
        return seen if self._together or not embed else Seen(seen.maps, self.embed(images))


class _OwnMaps:
    """Middle maps of the pictures themselves, kept where they are few."""

    def __init__(self, maps: Callable[[Tensor], list[Tensor]], images: Tensor) -> None:
        self.maps, self.images = maps, images
        self.kept: list[Tensor] | None = None
        with torch.no_grad():
            one = maps(images[:1])
            if len(images) * sum(x.numel() * x.element_size() for x in one) <= KEPT:
                parts = [maps(part) for part in images.split(32)]
                self.kept = [torch.cat(levels) for levels in zip(*parts, strict=True)]

    def __call__(self, rows: Int[Tensor, "b"]) -> list[Tensor]:
        if self.kept is not None:
            return [x[rows.to(x.device)] for x in self.kept]
        with torch.no_grad():
            return self.maps(self.images[rows])


class _Psnr:
    """Stop where the results of the last 30 steps lost the picture."""

    def __init__(self, patience: int) -> None:
        self.patience, self.lost = patience, False
        self.recent: deque[Tensor] = deque(maxlen=RECENT)

    def see(self, error: Tensor) -> Tensor:
        """Note a mean squared error, and hand it on."""
        self.recent.append(-10 * error.detach().clamp_min(1e-12).log10())
        return error

    def after_step(self, step: int) -> bool:
        """Whether to stop."""
        if step == self.patience or (step > self.patience and step % LOOK == 0):
            self.lost = bool(torch.stack(list(self.recent)).mean() < DARK)
        return self.lost


def _square(images: Float[Tensor, "B 3 H W"], side: int) -> Float[Tensor, "B 3 s s"]:
    if tuple(images.shape[2:]) == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).clamp(0, 1)


def _spread(model: ImageTextModel) -> list[int]:
    """Five levels from the first to the last, of a tower with fewer blocks all."""
    tower = model.dense_tower
    depth = 4 if isinstance(tower, ConvolutionalTower) else tower.depth
    return sorted({round(depth * part / (LEVELS - 1)) for part in range(LEVELS)})
