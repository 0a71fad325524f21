"""QualiCLIP: an image tower that has learned to order degraded pictures by their similarity to words of quality."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.fit import FitResult, fit
from binderclip.fit.optimizers import OptimizerLike
from binderclip.losses import LossOutput, QualityRank
from binderclip.models.checks import refuse_bare_module
from binderclip.models.files.registry import BUNDLED
from binderclip.models.files.released import NameTable, Rename, copy_renamed, read_released
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.models.layers.freezing import frozen
from binderclip.quality.score.degraded_crops import DegradedCrops
from binderclip.quality.score.embedding import Positions
from binderclip.quality.score.prompt_quality import PAIRS, PromptQuality, Prompts, loaded
from binderclip.quality.weights import read_weights, take_over, write_weights

ANTONYMS: tuple[tuple[str, str], ...] = (
    ("Good photo.", "Bad photo."),
    ("Sharp image.", "Blurry image."),
    ("Sharp edges.", "Blurry edges."),
    ("High-resolution image.", "Low-resolution image."),
    ("Noise-free image.", "Noisy image."),
    ("High-quality image.", "Low-quality image."),
    ("Good picture.", "Bad picture."),
)
"""The seven pairs that the score averages; the official list lacks a comma between two of the texts."""
WEIGHTS = {"small": BUNDLED / "small-quality" / "quality.safetensors"}
"""Bundled weights, by the model that they belong to."""
KIND = "QualiCLIP"


class QualiCLIP(PromptQuality):
    """Score quality by antonym prompts, with an image tower that was trained without opinions to order degradations.

    Of a picture without distortions two overlapping crops are degraded at five levels; the tower learns that the
    similarity to "Good photo." falls and that to "Bad photo." rises with the level, and that crops of one level agree
    (`losses.QualityRank`). The text tower stays as it is. Scores average the pairs `ANTONYMS`.

    Args:
        model: a name that `load` takes, or a model, whose image tower is copied; the paper's: `open_clip:RN50/openai`.
        prompts: as in `CLIPIQA`, pairs of texts; default the paper's seven.
        parts: patterns (with `*`) of the names of those parameters of the image tower that are trained; default all of
            them, as in the paper. Fewer make a smaller file.
        scale: factor on the cosines of a score; None is the model's own.
        positions, longest: of `NativeEmbedding`.
        device: for a model that is loaded by name.

    Attributes:
        fitted: whether the tower has been trained; without it nothing is scored.

    Raises:
        UsageError: a wrong argument, or a set of more than two texts.
        NotSupported: an image tower that takes no other size than its own.

    Paper: Quality-Aware Image-Text Alignment for Opinion-Unaware Image Quality Assessment (arXiv 2403.11176). The
    distortions of `fit` are ours by default, `library="arniqa"` has the paper's; pyiqa divides the logits by 2, the
    official code and this class do not.

    Examples:
        >>> metric = QualiCLIP()
        >>> photo = torch.rand(3, 80, 80)
        >>> result = metric.fit([photo], steps=1, crop=32, lr=1e-5)
        >>> metric(photo[None]).shape
        torch.Size([1])
    """

    poles: Tensor

    def __init__(
        self,
        model: str | ImageTextModel = "small",
        prompts: Prompts = ANTONYMS,
        *,
        parts: Sequence[str] = ("*",),
        scale: float | None = None,
        positions: Positions = "auto",
        longest: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        refuse_bare_module(model, "QualiCLIP")
        self.parts, self.fitted = tuple(parts), False
        own = loaded(model, device).with_copied_visual()
        super().__init__(own, prompts, scale=scale, positions=positions, longest=longest)
        if any(len(texts) != 2 for texts in self.sets.values()):
            raise UsageError("QualiCLIP takes pairs of texts: PromptQuality takes more")
        self.trained()  # patterns that match nothing are refused here
        with torch.no_grad():
            poles = self.model.encode_text(list(PAIRS["quality"]), normalize=True)
        self.register_buffer("poles", poles, persistent=False)

    def trained(self) -> dict[str, Tensor]:
        """The parameters that `fit` trains and a weight file holds, by their names in the image tower."""
        parameters = dict(self.model.visual.named_parameters())
        for pattern in self.parts:
            if not fnmatch.filter(parameters, pattern):
                raise UsageError(
                    f"parts {pattern!r} matches no parameter of the image tower, such as {next(iter(parameters))}"
                )
        return {
            name: value for name, value in parameters.items() if any(fnmatch.fnmatchcase(name, p) for p in self.parts)
        }

    def total(self, features: Float[Tensor, "N E"]) -> Float[Tensor, "N"]:
        """The score over all pairs, of features of the trained tower.

        Raises:
            UsageError: nothing has been fitted.
        """
        if not self.fitted:
            raise UsageError("the tower is not fitted: call fit(images), or use QualiCLIP.from_weights()")
        return super().total(features)

    def ranks(self, crops: Float[Tensor, "B K L 3 s s"], loss: QualityRank) -> LossOutput:
        """The training loss of crops at rising levels."""
        assert self.native is not None
        features = F.normalize(self.native(crops.to(self.model.device).flatten(0, 2)), dim=-1)
        good, bad = (features @ self.poles.to(features).T).unflatten(0, crops.shape[:3]).unbind(-1)  # (B, K, L)
        return loss(good, bad)

    def fit(
        self,
        images: Sequence[ImageLike],
        *,
        steps: int,
        crop: int = 224,
        kinds: Sequence[str] | None = None,
        library: str = "binderclip",
        loss: QualityRank | None = None,
        lr: float = 1e-9,
        weight_decay: float = 1e-2,
        batch_size: int = 16,
        optimizer: OptimizerLike | None = None,
        seed: int = 0,
        **options: object,
    ) -> FitResult:
        """Train the tower on pictures without distortions; batch statistics of norms stay as they are.

        Args:
            images: of any sizes above `crop`; a few hundred distinct ones at least, the paper has 140,000.
            steps: of the optimizer.
            crop: side in pixels; on a transformer a multiple of its patch.
            kinds: distortions, names in the library; None: those whose levels rise.
            library: `binderclip`, or `arniqa` for the distortions and strengths of the paper (`data.distort`).
            loss: default `QualityRank()`.
            lr: the paper's 1e-9 is for ten epochs of its pictures; a short run on a small model needs 1e-5 to 1e-3.
            weight_decay: of the default optimizer.
            batch_size: pictures a step, ten crops each.
            optimizer, options: of `binderclip.fit.fit`; default AdamW.
            seed: of crops and distortions.

        Raises:
            UsageError: an argument that is wrong.
            DataError: a picture that cannot be read, or is smaller than the crop.
        """
        batches = DegradedCrops(
            images, crop, kinds=kinds, batch_size=batch_size, longest=None if self.native is None else
            self.native.longest, seed=seed, library=library,
        )  # fmt: skip
        rank = loss if loss is not None else QualityRank()
        chosen = optimizer if optimizer is not None else {"name": "adamw", "weight_decay": weight_decay}
        learned = list(self.trained().values())
        with frozen(self.model):
            for parameter in learned:
                parameter.requires_grad_(True)
            result = fit(lambda crops: self.ranks(crops, rank), learned, batches, steps=steps, lr=lr, optimizer=chosen,
                         **options)  # type: ignore[arg-type] # fmt: skip
        self.fitted = True
        return result

    def save_weights(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write what was trained as safetensors, with the prompts and the name of the model it belongs to.

        Args:
            path: of the file.
            dtype: on disk.

        Raises:
            UsageError: nothing has been fitted.
        """
        if not self.fitted:
            raise UsageError("nothing to save: the tower is not fitted")
        tensors = {name: value.detach().to(dtype) for name, value in self.trained().items()}
        settings = {"sets": self.sets, "scale": self.scale, "parts": self.parts}
        return write_weights(path, tensors, KIND, model=self.model.name, **settings)

    @classmethod
    def from_weights(
        cls, path: str | Path | None = None, model: str | ImageTextModel = "small", *, positions: Positions = "auto",
        longest: int | None = None, device: str | torch.device = "cpu",
    ) -> QualiCLIP:  # fmt: skip
        """A metric that was fitted and saved before; its prompts, scale and part stand in the file.

        Args:
            path: of `save_weights`; None for the bundled weights, which `small` has.
            model: the one it was fitted to.
            positions, longest, device: as in the class.

        Raises:
            UsageError: no path, and no bundled weights for this model.
            CheckpointError: the file cannot be read, or belongs to another model.
        """
        refuse_bare_module(model, "QualiCLIP.from_weights")
        opened = loaded(model, device)
        if path is None and opened.name not in WEIGHTS:
            raise UsageError(
                f"there are no bundled weights for {opened.name}, only for {', '.join(WEIGHTS)}: give a path"
            )
        place = WEIGHTS[opened.name] if path is None else path
        weights = read_weights(place, KIND, opened.name, need=("sets", "scale", "parts"))
        sets, scale, parts = (weights.settings[name] for name in ("sets", "scale", "parts"))
        metric = cls(opened, sets, parts=parts, scale=scale, positions=positions, longest=longest)
        take_over(metric.trained(), weights)
        metric.fitted = True
        return metric

    @classmethod
    def from_released(
        cls, path: str | Path, model: str | ImageTextModel = "open_clip:RN50-quickgelu/openai", *,
        positions: Positions = "auto", longest: int | None = None, device: str | torch.device = "cpu",
    ) -> QualiCLIP:  # fmt: skip
        """The authors' metric (`qualiclip.pth`), with their seven pairs.

        Its file holds the whole model, of which the image tower was trained; that of `model` is overwritten in a copy.

        Args:
            path: of the file; nothing in it is run.
            model: the one it was trained from.
            positions, longest, device: as in the class.

        Raises:
            CheckpointError: the file cannot be read, or holds another network.
        """
        refuse_bare_module(model, "QualiCLIP.from_released")
        metric = cls(model, positions=positions, longest=longest, device=device)
        copy_renamed(metric.model.visual.state_dict(), read_released(path), NAMES, path)
        metric.fitted = True
        return metric


NAMES = NameTable(
    "the image tower of QualiCLIP",
    (
        Rename(r"clip_model\.visual\.(.*)", r"\1"),
        Rename(r"clip_model\..*|prompts_features", None),  # the frozen text side
    ),
)
"""Names of the official program."""
