"""SAM-CLIP: one image encoder for clicks and for texts, a promptable segmenter's with a head of CLIP's."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.images import open_image
from binderclip.errors import NotSupported, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.output.result import Segmentation
from binderclip.segment.promptable import ImageState, PromptModel, Prompts, load_promptable
from binderclip.segment.trained.head import SegmentationHead

__all__ = ["MergedEncoder"]

SEGMENTER = "segmenter"
SURE = 10.0
"""Log-odds of a class are cut there, as logits of a mask that is given."""


class MergedEncoder(SegmentationHead):
    """A promptable segmenter whose encoder also says what is where, in the space of an image-text model's texts.

    A head reads the encoder's map: transformer blocks that start as copies of the encoder's last one, then LayerNorm
    and an MLP with two hidden layers, which the maximum over cells passes for the whole picture and each cell by itself
    for a dense map. `train_merge` teaches the head and keeps the segmenter's skill; `segmenter` still takes clicks, and
    one pass of its encoder serves both. Of the image-text model only texts are used afterwards.

    Args:
        model: an `ImageTextModel`: the teacher, whose texts are compared with; stays as it is.
        segmenter: a `PromptModel` or its name (`load_promptable`); a copy of it learns. `small-sam` has convolutions
            below two transformer blocks, of which the last is copied.
        layers: blocks of the head.
        hidden: width of the MLP; default four times the encoder's.
        seed: of the MLP.

    Raises:
        NotSupported: another segmenter: a SAM of transformers refuses pictures of any side but one.
        UsageError: an encoder without transformer blocks, layers below 0, a hidden width below 1.

    Examples:
        >>> from binderclip import load
        >>> merged = MergedEncoder(load("small"), "small-sam", layers=1)
        >>> merged.encode_image(torch.rand(2, 3, 96, 96)).shape
        torch.Size([2, 384])
        >>> state = merged.segmenter.encode(torch.rand(3, 96, 96))
        >>> merged.segmenter.predict(state, Prompts.of(points=[(40, 40)]), multimask=False).logits.shape
        torch.Size([1, 1, 96, 96])

    Paper: Wang et al., SAM-CLIP: Merging Vision Foundation Models towards Semantic and Spatial Understanding (CVPR 2024
    Workshops, arXiv 2310.15308).
    """

    kind = "sam-clip"

    def __init__(
        self,
        model: Any,
        segmenter: str | Path | PromptModel = "small-sam",
        *,
        layers: int = 3,
        hidden: int | None = None,
        seed: int = 0,
    ) -> None:
        refuse_bare_module(model, "MergedEncoder")
        super().__init__()
        promptable = segmenter if not isinstance(segmenter, (str, Path)) else load_promptable(segmenter)
        if not isinstance(promptable, PromptModel):
            raise NotSupported(
                f"only segmenters like small-sam can be merged, not {type(promptable).__name__}: its encoder is to "
                "take pictures of several sides"
            )
        width, inner = promptable.backbone.out.embedding_dim, hidden
        inner = 4 * width if inner is None else inner
        if layers < 0 or inner < 1:
            raise UsageError(f"layers must not be negative and hidden at least 1, not {layers} and {inner}")
        if layers and not len(promptable.backbone.blocks):
            raise UsageError(
                f"{promptable.name} has no transformer block that the head could start from; layers=0 goes"
            )
        self._held = (model,)
        self.segmenter = copy.deepcopy(promptable)
        self.size = promptable.image_size
        self.settings = {"layers": layers, "hidden": inner}
        self.layers = nn.Sequential(*(copy.deepcopy(promptable.backbone.blocks[-1]) for _ in range(layers)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.mlp = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, inner), nn.GELU(),
                nn.Linear(inner, model.embed_dim),
            )  # fmt: skip
        self.to(model.device)

    @property
    def head(self) -> list[nn.Module]:
        """What is new: all but the segmenter."""
        return [self.layers, self.mlp]

    def pixels(self, images: ImageLike | Sequence[ImageLike], side: int | None = None) -> Float[Tensor, "B 3 S S"]:
        """Pictures squashed and normalised for the encoder.

        Args:
            images: one or many, as `Preprocess` takes them.
            side: in pixels, a multiple of 8; default the segmenter's own.

        Raises:
            UsageError: another side.
        """
        if side is not None and (side < 8 or side % 8):
            raise UsageError(f"a side must be a positive multiple of 8 pixels, not {side}")
        return self.segmenter.preprocess.at(side or self.size)(images).to(self.segmenter.device)

    def cells(self, coarse: Float[Tensor, "B C h w"]) -> Float[Tensor, "B N C"]:
        """The head's blocks on the encoder's map."""
        return self.layers(coarse.flatten(2).mT)

    def pooled(self, coarse: Float[Tensor, "B C h w"]) -> Float[Tensor, "B E"]:
        """Pictures in the space of the texts, raw: the maximum over cells, then the MLP.

        Args:
            coarse: the encoder's map.
        """
        return self.mlp(self.cells(coarse).amax(1))

    def dense(self, coarse: Float[Tensor, "B C h w"]) -> Float[Tensor, "B E h w"]:
        """Cells in the space of the texts, raw: the same MLP on each.

        Args:
            coarse: the encoder's map.
        """
        return self.mlp(self.cells(coarse)).mT.unflatten(2, (coarse.shape[-2], coarse.shape[-1]))

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        """Pictures in the space of the texts, raw.

        Args:
            pixels: of `pixels`.
        """
        return self.pooled(self.segmenter.backbone.coarse(self.segmenter.backbone.stem.levels(pixels)[2]))

    @torch.no_grad()
    def encode_image(self, images: ImageLike | Sequence[ImageLike], *, normalize: bool = False) -> Float[Tensor, "B E"]:
        """Image features, to be compared with the model's `encode_text`.

        Args:
            images: one or many, as `Preprocess` takes them.
            normalize: rows of length one instead of raw features.
        """
        features = torch.cat([self(some) for some in self.pixels(images).split(64)]).float()
        return F.normalize(features, dim=-1) if normalize else features

    @torch.no_grad()
    def log_odds(
        self, coarse: Float[Tensor, "1 C h w"], text: Float[Tensor, "K E"], scale: float | None = None
    ) -> Float[Tensor, "K h w"]:
        """log p / (1 - p) of each class at each cell, p the softmax of its cosines; at most 10 away from 0.

        Args:
            coarse: the encoder's map of a picture.
            text: unit vectors of the classes.
            scale: of the cosines; default the model's own.
        """
        cosines = torch.einsum("kc,chw->khw", text, F.normalize(self.dense(coarse)[0].float(), dim=0))
        chance = (cosines * (self.model.scale() if scale is None else scale)).softmax(0)
        return torch.logit(chance, eps=1e-7).clamp(-SURE, SURE)

    @torch.no_grad()
    def segment(
        self,
        image: ImageLike,
        labels: Sequence[str],
        *,
        refine: bool = True,
        points: int = 3,
        threshold: float = 0.5,
        scale: float | None = None,
        seed: int = 0,
    ) -> Segmentation:
        """The label of each pixel, by the head alone or by both heads.

        Args:
            image: a path, a PIL image or a float tensor (3, H, W) in [0, 1].
            labels: class names, each a text.
            refine: whether the mask decoder draws each class that occurs: its map is the mask prompt, with clicks where
                it is probable. Classes that do not occur keep their map.
            points: clicks a class at most.
            threshold: clicks lie where a class is more probable than that; a class that nowhere is does not occur.
            scale: of the cosines before the softmax over classes; default the model's own.
            seed: of the clicks.

        Raises:
            UsageError: no label, no point, a threshold outside [0, 1). DataError: a picture that cannot be read.
        """
        if not labels or points < 1 or not 0 <= threshold < 1:
            raise UsageError(
                f"labels and points are to be one at least and threshold in [0, 1), not {len(labels)}, {points} and "
                f"{threshold:g}"
            )
        picture = open_image(image).convert("RGB")  # type: ignore[arg-type]
        state = self.segmenter.encode(picture)
        coarse = self.log_odds(state.features.coarse, self.text_of(labels), scale)
        full = F.interpolate(coarse[None], state.size, mode="bilinear", align_corners=False)[0]
        occurring = (coarse.sigmoid() > threshold).flatten(1).any(1)
        if refine and bool(occurring.any()):
            full[occurring] = self.drawn(state, coarse[occurring], points=points, threshold=threshold, seed=seed)
        return Segmentation(tuple(labels), full.argmax(0).int().cpu(), coarse.cpu(), picture)

    def drawn(
        self, state: ImageState, odds: Float[Tensor, "P h w"], *, points: int, threshold: float, seed: int
    ) -> Float[Tensor, "P H W"]:
        """Mask logits of the decoder for classes by their maps and clicks.

        Args:
            state: of the encoded picture.
            odds: of classes that occur.
            points, threshold, seed: see `segment`.
        """
        places, kinds = sampled_cells(odds.sigmoid().cpu() > threshold, points, torch.Generator().manual_seed(seed))
        size = places.new_tensor([state.size[1], state.size[0]])
        prompts = Prompts(places * size, kinds, masks=odds)
        return self.segmenter.predict(state, prompts, multimask=False).logits[:, 0]

    def save(self, folder: str | Path, *, card: dict[str, Any] | None = None, dtype: str = "float32") -> Path:
        """Write a folder that `open` reads; `segmenter` in it is one that `load_promptable` opens.

        Args:
            folder: is made where it is missing.
            card: what to say of it, as JSON.
            dtype: of the stored weights: "float32", "float16" or "int8".
        """
        self.segmenter.save(Path(folder) / SEGMENTER, dtype=dtype)
        return super().save(folder, card=card, dtype=dtype)

    @classmethod
    def _built(cls, model: Any, config: Mapping[str, Any], folder: Path) -> MergedEncoder:
        return cls(model, PromptModel.open(folder / SEGMENTER), **config["head"])

    def _stored(self) -> dict[str, Tensor]:
        """The head's weights; the segmenter has a folder of its own."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith(f"{SEGMENTER}.")}


def sampled_cells(
    there: Bool[Tensor, "P h w"], most: int, generator: torch.Generator
) -> tuple[Float[Tensor, "P n 2"], Int[Tensor, "P n"]]:
    """Centres of different random cells of each map, (x, y) in [0, 1], and their labels as clicks.

    Args:
        there: cells to choose from.
        most: of a map; where it has fewer the rest is no click (label -1).
        generator: of the choice.
    """
    height, width = there.shape[-2:]
    draw = torch.rand(there.shape, generator=generator).masked_fill(~there, -1.0).flatten(1)
    value, cell = draw.topk(min(most, draw.shape[1]), dim=1)
    places = torch.stack([(cell % width + 0.5) / width, (cell // width + 0.5) / height], -1)
    return places, torch.where(value < 0, -1, 1)
