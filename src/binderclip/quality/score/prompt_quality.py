"""Scores by ordered prompts: how near a picture lies to the good end of a row of texts from best to worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.encode import EncodedImages, OnError
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.image_text.preprocess import ImageLike, as_list, float_batch
from binderclip.quality.score.embedding import NativeEmbedding, Positions
from binderclip.quality.score.picture_score import PictureScore

Average = Literal["probabilities", "logits"]
Size = Literal["native", "model"]
Prompts: TypeAlias = "str | Sequence[str | Sequence[str]] | Mapping[str, Sequence[str]]"

PAIRS: dict[str, tuple[str, str]] = {
    "quality": ("Good photo.", "Bad photo."),
    "brightness": ("Bright photo.", "Dark photo."),
    "sharpness": ("Sharp photo.", "Blurry photo."),
    "noisiness": ("Clean photo.", "Noisy photo."),
    "colorfullness": ("Colorful photo.", "Dull photo."),
    "contrast": ("High contrast photo.", "Low contrast photo."),
    "aesthetic": ("Aesthetic photo.", "Not aesthetic photo."),
    "happy": ("Happy photo.", "Sad photo."),
    "natural": ("Natural photo.", "Synthetic photo."),
    "new": ("New photo.", "Old photo."),
    "scary": ("Scary photo.", "Peaceful photo."),
    "complexity": ("Complex photo.", "Simple photo."),
    "warm": ("Warm photo.", "Cold photo."),
    "real": ("Real photo.", "Abstract photo."),
    "beautiful": ("Beautiful photo.", "Ugly photo."),
    "lonely": ("Lonely photo.", "Sociable photo."),
    "relaxing": ("Relaxing photo.", "Stressful photo."),
}
"""Antonym prompts by the keywords of torchmetrics; down to `complexity` those of CLIP-IQA, its better end first."""


def prompt_sets(prompts: Prompts) -> dict[str, tuple[str, ...]]:
    """Name -> texts from best to worst, of every set of prompts.

    Args:
        prompts: a keyword of `PAIRS`; a list of keywords and of texts from best to worst, such as `["quality", ("Sharp
            photo.", "Blurry photo.")]`; or name -> texts. A set of texts without a name is named by its first text.

    Raises:
        UsageError: an unknown keyword, no set, an empty text, a name twice, sets of one text or of different lengths.
    """
    named: list[tuple[str, Sequence[str]]]
    if isinstance(prompts, Mapping):
        named = [(str(name), texts) for name, texts in prompts.items()]
    else:
        entries = [prompts] if isinstance(prompts, str) else list(prompts)
        named = [(one, _keyword(one)) if isinstance(one, str) else (str(one[0]) if one else "", one) for one in entries]
    if not named:
        raise UsageError(
            "prompts is empty: give at least one set, such as 'quality' or [('Sharp photo.', 'Blurry photo.')]"
        )
    sets: dict[str, tuple[str, ...]] = {}
    for name, texts in named:
        if isinstance(texts, str) or len(texts) < 2 or not all(isinstance(t, str) and t.strip() for t in texts):
            raise UsageError(f"prompts {name!r}: two texts or more from best to worst are needed, not {texts!r}")
        if name in sets:
            raise UsageError(f"prompts names {name!r} twice")
        sets[name] = tuple(texts)
    lengths = sorted({len(texts) for texts in sets.values()})
    if len(lengths) > 1:
        raise UsageError(f"every set of prompts needs as many texts as the others, these have {lengths}")
    return sets


def _keyword(name: str) -> tuple[str, str]:
    if name not in PAIRS:
        raise UsageError(f"prompts {name!r} is unknown: a pair of texts, or one of {', '.join(PAIRS)}")
    return PAIRS[name]


class PromptQuality(PictureScore):
    """Score pictures by sets of prompts, each from best to worst: the expected place in a softmax over the set.

    `softmax(scale * cosines) . (1, ..., 0)` of each set, with equally spaced weights; over several sets the mean of
    their scores, or one softmax of their mean logits. All sets share one pass of the image tower.

    Args:
        model: a name that `load` takes, or a model.
        prompts: see `prompt_sets`.
        scale: factor on the cosines; None is the model's own.
        average: `probabilities`: the mean of the sets' scores; `logits`: the score of their mean logits.
        size: `native` embeds pictures as they are, see `NativeEmbedding`; `model` uses the model's own preprocessing,
            which resizes and crops.
        positions, longest: of `NativeEmbedding`.
        device: for a model that is loaded by name.

    Attributes:
        lower_better: False.
        sets: name -> texts.

    Raises:
        UsageError: prompts or another argument that is wrong.
        NotSupported: an image tower that takes no other size than its own.

    Papers: CLIP-IQA (arXiv 2207.12396) for pairs, Q-Boost (arXiv 2312.15300) for three texts and mean logits.
    """

    def __init__(
        self,
        model: str | ImageTextModel = "small",
        prompts: Prompts = "quality",
        *,
        scale: float | None = None,
        average: Average = "probabilities",
        size: Size = "native",
        positions: Positions = "auto",
        longest: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        refuse_bare_module(model, "PromptQuality")
        super().__init__()
        for name, value, known in (("average", average, get_args(Average)), ("size", size, get_args(Size))):
            if value not in known:
                raise UsageError(f"{name} {value!r} is unknown: one of {', '.join(known)}")
        if scale is not None and not scale > 0:
            raise UsageError(f"scale must be above 0, not {scale}")
        self.sets = prompt_sets(prompts)
        self.model = loaded(model, device)
        self.average: Average = average
        self.size: Size = size
        self.scale = float(self.model.scale().detach()) if scale is None else float(scale)
        self.native = NativeEmbedding(self.model, positions, longest) if size == "native" else None
        self._encode_prompts()

    def _encode_prompts(self) -> None:
        """Encode the texts once; learned prompts replace this and `text`."""
        with torch.no_grad():
            flat = self.model.encode_text([text for texts in self.sets.values() for text in texts], normalize=True)
        self.register_buffer("_text", flat.unflatten(0, (len(self.sets), -1)), persistent=False)

    @property
    def text(self) -> Float[Tensor, "S T E"]:
        """Unit features of the prompts."""
        return self._text  # type: ignore[return-value]

    def embed(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "N E"]:
        """Unit image features; those of a float tensor carry gradients.

        Raises:
            UsageError: no image, or floats outside [0, 1].
            DataError: a picture that cannot be read, or is smaller than a patch.
        """
        batch = float_batch(images)
        if self.native is None:
            return self.model.encode_image(images, normalize=True)
        if batch is not None:
            return F.normalize(self.native(batch), dim=-1)
        items = as_list(images)
        if not items:
            raise UsageError("images is empty: give at least one")
        if any(isinstance(item, Tensor) and item.is_floating_point() for item in items):
            return torch.cat([self.embed(item) for item in items])
        return F.normalize(self.native.files(items, on_error="raise").features, dim=-1)

    def logits(self, features: Float[Tensor, "N E"]) -> Float[Tensor, "N S T"]:
        """Scaled cosines of image features, of any length, with every prompt."""
        return self.scale * torch.einsum("ne,ste->nst", F.normalize(features, dim=-1), self.text.to(features))

    def each(self, features: Float[Tensor, "N E"]) -> Float[Tensor, "N S"]:
        """The score of each set of prompts alone."""
        return expected_place(self.logits(features))

    def total(self, features: Float[Tensor, "N E"]) -> Float[Tensor, "N"]:
        """The score over all sets."""
        if self.average == "logits":
            return expected_place(self.logits(features).mean(dim=1))
        return self.each(features).mean(dim=1)

    def forward(self, images: ImageLike | Sequence[ImageLike]) -> Float[Tensor, "N"]:
        """Scores in [0, 1], higher is better.

        Args:
            images: one image or many: paths, PIL images, arrays, or float tensors (B, 3, H, W) in [0, 1], through which
                gradients pass.
        """
        return self.total(self.embed(images))

    @property
    def names(self) -> list[str]:
        """Of the sets of prompts."""
        return list(self.sets)

    def files(
        self,
        sources: Sequence[ImageLike],
        *,
        batch_size: int = 64,
        on_error: OnError = "skip",
        progress: Callable[[int], object] | None = None,
    ) -> EncodedImages:
        """Image features of pictures, without gradients, in their own sizes or as the model prepares them."""
        encode: Callable[..., EncodedImages] = self.model.encode_files if self.native is None else self.native.files
        return encode(list(sources), batch_size=batch_size, on_error=on_error, progress=progress)


def expected_place(logits: Float[Tensor, "*N T"]) -> Float[Tensor, "*N"]:
    """The mean place between 1, the first of T, and 0, the last, under a softmax."""
    return logits.softmax(dim=-1) @ torch.linspace(1, 0, logits.shape[-1]).to(logits)


def loaded(model: str | ImageTextModel, device: str | torch.device) -> ImageTextModel:
    """A model, loaded where it is a name.

    Raises:
        UsageError: neither.
    """
    if isinstance(model, ImageTextModel):
        return model
    if not isinstance(model, str):
        raise UsageError(f"model must be a name or an ImageTextModel, not {type(model).__name__}")
    from binderclip.models.loading import load

    return load(model, device=str(device))
