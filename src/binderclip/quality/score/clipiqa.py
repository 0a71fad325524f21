"""CLIP-IQA: the look and feel of a picture by pairs of antonyms, and by pairs whose context is learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.fit import FitResult, fit
from binderclip.fit.optimizers import OptimizerLike
from binderclip.models.checks import refuse_bare_module
from binderclip.models.fine_tuned import load_prompt_context
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.models.layers.freezing import frozen
from binderclip.models.text.prompts import PromptContext
from binderclip.quality.score.embedding import Positions
from binderclip.quality.score.prompt_quality import PAIRS, PromptQuality, Prompts, Size, loaded
from binderclip.quality.weights import read_weights, take_over, write_weights

ENSEMBLE: tuple[tuple[str, str], ...] = (
    ("Good image", "bad image"),
    ("Sharp image", "blurry image"),
    ("sharp edges", "blurry edges"),
    ("High resolution image", "low resolution image"),
    ("Noise-free image", "noisy image"),
)
"""The five pairs that pyiqa's `clipiqa` averages."""
KIND = "CLIP-IQA+"


class CLIPIQA(PromptQuality):
    """Score the quality, or another look and feel, of pictures by pairs of antonym prompts, without any training.

    Each pair gives `softmax(scale * [v . t_good, v . t_bad])`; a lone prompt would leave open what it is measured
    against. Pictures keep their own size, since a resize hides distortions; CLIP's ResNets, which the paper uses, drop
    their positional embedding for that.

    Args:
        model: a name that `load` takes, or a model; the paper's is `open_clip:RN50/openai`.
        prompts: a keyword of `PAIRS`, pairs of your own, better text first, or several; over several the score is the
            mean. Default the paper's pair "Good photo." and "Bad photo.".
        scale: factor on the cosines; None is the model's own, about 100 for CLIP.
        size: `native`, or `model` for the model's own resize and crop, as in torchmetrics.
        positions, longest: of `NativeEmbedding`.
        device: for a model that is loaded by name.

    Raises:
        UsageError: a wrong argument, or a set of more than two texts.
        NotSupported: an image tower that takes no other size than its own.

    Paper: Exploring CLIP for Assessing the Look and Feel of Images (arXiv 2207.12396).

    Examples:
        >>> metric = CLIPIQA(prompts=["quality", ("Sharp photo.", "Blurry photo.")])
        >>> metric(torch.full((1, 3, 64, 96), 0.5)).shape
        torch.Size([1])
    """

    def __init__(
        self,
        model: str | ImageTextModel = "small",
        prompts: Prompts = "quality",
        *,
        scale: float | None = None,
        size: Size = "native",
        positions: Positions = "auto",
        longest: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        refuse_bare_module(model, "CLIPIQA")
        super().__init__(
            model, prompts, scale=scale, size=size, positions=positions, longest=longest, device=device
        )  # fmt: skip
        _pairs_only(self)


class CLIPIQAPlus(PromptQuality):
    """CLIP-IQA with a learned context that all prompts share, `v_1 .. v_8 Good photo. v_9 .. v_16`, fitted to opinions.

    Only the context is trained, by the squared error of the score. With several pairs a perceptron of three layers, 128
    hidden units and leaky ReLU turns their scores into one, which then may leave [0, 1].

    Args:
        model: a name that `load` takes, or a model; it is never changed.
        prompts: as in `CLIPIQA`.
        n_ctx: context vectors, half of them on either side of the phrase.
        scale, size, positions, longest, device: as in `CLIPIQA`.
        seed: of the start, N(0, 0.02^2) in CLIP's units.

    Attributes:
        context: the learned vectors, see `PromptContext`.
        head: the perceptron, or None with one pair.
        fitted: whether a context was learned; without one nothing can be scored.

    Raises:
        UsageError: a wrong argument, a set of more than two texts, or a prompt that does not fit into the text tower.
        NotSupported: a tower that cannot be opened.

    Paper: Exploring CLIP for Assessing the Look and Feel of Images (arXiv 2207.12396).

    Examples:
        >>> metric = CLIPIQAPlus(n_ctx=4)
        >>> features = torch.nn.functional.normalize(torch.randn(8, 384), dim=1)
        >>> result = metric.fit_features(features, torch.linspace(0, 1, 8), steps=2)
        >>> metric.total(features).shape
        torch.Size([8])
    """

    def __init__(
        self,
        model: str | ImageTextModel = "small",
        prompts: Prompts = "quality",
        *,
        n_ctx: int = 16,
        scale: float | None = None,
        size: Size = "native",
        positions: Positions = "auto",
        longest: int | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        refuse_bare_module(model, "CLIPIQAPlus")
        self.n_ctx, self.seed, self.fitted = n_ctx, seed, False
        super().__init__(
            model, prompts, scale=scale, size=size, positions=positions, longest=longest, device=device
        )  # fmt: skip
        _pairs_only(self)

    def _encode_prompts(self) -> None:
        phrases = [text for texts in self.sets.values() for text in texts]
        generator = torch.Generator().manual_seed(self.seed)
        self.context = PromptContext(
            self.model, phrases, n_ctx=self.n_ctx, position="middle", generator=generator
        )  # fmt: skip
        self.head: nn.Module | None = None
        if len(self.sets) > 1:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                widths = ((len(self.sets), 128), (128, 128), (128, 1))
                layers = [part for pair in widths for part in (nn.Linear(*pair), nn.LeakyReLU(0.1))]
            self.head = nn.Sequential(*layers[:-1]).to(self.model.device)

    @property
    def text(self) -> Float[Tensor, "S T E"]:
        """Unit features of the prompts as they are now; gradients reach the context."""
        return F.normalize(self.context()[0], dim=-1).unflatten(0, (len(self.sets), -1))

    def total(self, features: Float[Tensor, "N E"]) -> Float[Tensor, "N"]:
        """The score over all pairs.

        Raises:
            UsageError: nothing has been fitted.
        """
        if not self.fitted:
            raise UsageError("the context is not fitted: call fit(images, scores), or use from_weights(path)")
        return self._total(features)

    def _total(self, features: Float[Tensor, "N E"]) -> Float[Tensor, "N"]:
        each = self.each(features)
        return each[:, 0] if self.head is None else self.head(each)[:, 0]

    def fit(
        self,
        images: Sequence[ImageLike] | Float[Tensor, "N 3 H W"],
        scores: Float[Tensor, "N"] | Sequence[float],
        *,
        flip: bool = True,
        steps: int = 500_000,
        lr: float = 0.002,
        batch_size: int = 128,
        optimizer: OptimizerLike = "sgd",
        **options: object,
    ) -> FitResult:
        """Learn the context from pictures with opinion scores.

        Every picture is embedded once, and once mirrored: the tower is frozen, so this is what training through it
        sees. Defaults are the paper's.

        Args:
            images: of any sizes.
            scores: opinions scaled to [0, 1], higher is better.
            flip: also learn from mirrored pictures.
            steps, lr, batch_size, optimizer, options: as in `fit_features`.

        Raises:
            UsageError: scores that do not fit.
            DataError: a picture that cannot be read.
        """
        with torch.no_grad():
            views = [self.embed(images)]
            if flip:
                views.append(self.embed(_mirrored(images)))
        stacked = torch.stack(views, dim=1)  # (N, V, E)
        return self.fit_features(
            stacked, scores, steps=steps, lr=lr, batch_size=batch_size, optimizer=optimizer, **options
        )  # fmt: skip

    def fit_features(
        self,
        features: Float[Tensor, "N E"] | Float[Tensor, "N V E"],
        scores: Float[Tensor, "N"] | Sequence[float],
        *,
        steps: int = 500_000,
        lr: float = 0.002,
        batch_size: int = 128,
        optimizer: OptimizerLike = "sgd",
        **options: object,
    ) -> FitResult:
        """Learn the context from features that are there already.

        Args:
            features: one a picture, or V views of each, of which every step draws one.
            scores: opinions scaled to [0, 1].
            steps: of the optimizer; the paper's half a million, a few hundred do for a few hundred pictures.
            lr: learning rate, on a cosine schedule.
            batch_size: pictures a step, drawn without replacement.
            optimizer, options: of `binderclip.fit.fit`.

        Raises:
            UsageError: scores of another number, outside [0, 1] or not finite.
        """
        target = torch.as_tensor(scores, dtype=torch.float32)
        if target.shape != features.shape[:1] or len(target) == 0:
            raise UsageError(f"scores must be one a picture, {len(features)}, not of shape {tuple(target.shape)}")
        if not bool(((target >= 0) & (target <= 1)).all()):
            raise UsageError("scores must lie in [0, 1]: divide opinion scores by the largest one of their scale")
        views = features.detach().float().to(self.model.device)
        views = views[:, None] if views.ndim == 2 else views
        targets = target.to(views.device)
        learned = [*self.context.parameters(), *(self.head.parameters() if self.head is not None else ())]

        def step(rows: tuple[Tensor, Tensor]) -> Tensor:
            picked, view = (part.to(views.device) for part in rows)
            return F.mse_loss(self._total(views[picked, view]), targets[picked])

        batches = _Drawn(len(views), views.shape[1], batch_size, self.seed)
        with frozen(self.model):
            result = fit(step, learned, batches, steps=steps, lr=lr, optimizer=optimizer, **options)  # type: ignore[arg-type]
        self.fitted = True
        return result

    def _learned(self) -> dict[str, Tensor]:
        tensors = {"context": self.context.weight.detach()}
        if self.head is not None:
            tensors |= {f"head.{name}": value for name, value in self.head.state_dict().items()}
        return tensors

    def save_weights(self, path: str | Path) -> Path:
        """Write what was learned as safetensors, with the prompts and the name of the model it belongs to.

        Raises:
            UsageError: nothing has been fitted.
        """
        if not self.fitted:
            raise UsageError("nothing to save: the context is not fitted")
        return write_weights(path, self._learned(), KIND, model=self.model.name, sets=self.sets, scale=self.scale)

    @classmethod
    def from_weights(
        cls, path: str | Path, model: str | ImageTextModel = "small", *, size: Size = "native",
        positions: Positions = "auto", longest: int | None = None, device: str | torch.device = "cpu",
    ) -> CLIPIQAPlus:  # fmt: skip
        """A metric that was fitted and saved before; its prompts and scale stand in the file.

        Args:
            path: of `save_weights`.
            model: the one it was fitted to.
            size, positions, longest, device: as in the class.

        Raises:
            CheckpointError: the file cannot be read, or belongs to another model.
        """
        refuse_bare_module(model, "CLIPIQAPlus.from_weights")
        opened = loaded(model, device)
        weights = read_weights(path, KIND, opened.name, need=("sets", "scale"))
        context = weights.tensors.get("context")
        if context is None or context.ndim != 3:
            raise CheckpointError(f"{path} cannot be read as weights of {KIND}: it has no context")
        sets, scale = weights.settings["sets"], weights.settings["scale"]
        n_ctx = context.shape[1]
        metric = cls(opened, sets, n_ctx=n_ctx, scale=scale, size=size, positions=positions, longest=longest)
        take_over(metric._learned(), weights)
        metric.fitted = True
        return metric

    @classmethod
    def from_released(
        cls, path: str | Path, model: str | ImageTextModel = "open_clip:RN50-quickgelu/openai", *,
        size: Size = "native", positions: Positions = "auto", longest: int | None = None,
        device: str | torch.device = "cpu",
    ) -> CLIPIQAPlus:  # fmt: skip
        """The authors' CLIP-IQA+ of one pair, "Good photo." and "Bad photo.".

        Args:
            path: of their checkpoint, of which the context `ctx` is read; nothing in it is run.
            model: the one it was fitted to.
            size, positions, longest, device: as in the class.

        Raises:
            CheckpointError: the file cannot be read, or its context belongs to another model.
        """
        refuse_bare_module(model, "CLIPIQAPlus.from_released")
        opened = loaded(model, device)
        context = load_prompt_context(path, opened, PAIRS["quality"], position="middle")
        if context.class_specific:
            raise CheckpointError(f"{path} holds a context for each text, and CLIP-IQA+ has one for both")
        metric = cls(opened, n_ctx=context.n_ctx, size=size, positions=positions, longest=longest)
        metric.context.load(context.context.detach())
        metric.fitted = True
        return metric


class _Drawn:
    """Endless batches of (rows, views): pictures in a new order every pass, a view of each at random."""

    def __init__(self, count: int, views: int, batch: int, seed: int) -> None:
        if batch < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch}")
        self.count, self.views, self.batch, self.seed, self.epoch = count, views, batch, seed, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        self.epoch += 1
        for rows in torch.randperm(self.count, generator=generator).split(self.batch):
            yield rows, torch.randint(self.views, (len(rows),), generator=generator)


def _pairs_only(score: PromptQuality) -> None:
    tones = len(next(iter(score.sets.values())))
    if tones != 2:
        raise UsageError(f"CLIP-IQA takes pairs of texts, these have {tones}: PromptQuality takes more")


def _mirrored(images: Sequence[ImageLike] | Tensor) -> Sequence[ImageLike] | Tensor:
    """The same pictures, left and right exchanged."""
    if isinstance(images, Tensor):
        return images.flip(-1)
    from PIL import ImageOps

    from binderclip.data.images import open_image

    return [one.flip(-1) if isinstance(one, Tensor) else ImageOps.mirror(open_image(one)) for one in images]
