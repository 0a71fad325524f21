"""OVCamouflage: mask queries on frozen features, refined with text, and named by any vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data.images import open_image, to_tensor
from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.numeric import check_number
from binderclip.segment.trained.camouflage.features import CamouflageFeatures
from binderclip.segment.trained.camouflage.modules import (
    CamouflagedInstanceNorm,
    MultiScaleFusion,
    TextVisualAggregation,
)
from binderclip.segment.trained.mask_text_decoder import DecodedMasks, MaskTextDecoder

__all__ = ["CamouflageMasks", "CamouflagedObjects", "OVCamouflage"]

OBJECT = 0  # of the generator's two classes, object and no object


@dataclass(frozen=True)
class CamouflageMasks:
    """Of a batch, N queries and C texts.

    Attributes:
        masks: logits of the refined masks.
        classes: log-probabilities of the texts and, last, of no object.
        decoded: the generator's masks, which know no texts, after each layer.
    """

    masks: Float[Tensor, "B N H W"]
    classes: Float[Tensor, "B N C1"]
    decoded: DecodedMasks


@dataclass(frozen=True)
class CamouflagedObjects:
    """Objects of one picture, the surest first; their masks may overlap.

    Attributes:
        masks: at the size of the picture.
        labels: index into `classes`.
        scores: probability of the class times the mean mask probability inside the mask.
        classes: the names that were asked for.
    """

    masks: Bool[Tensor, "S H W"]
    labels: Int[Tensor, " S"]
    scores: Float[Tensor, " S"]
    classes: tuple[str, ...]


class OVCamouflage(nn.Module):
    """Finds camouflaged objects in the features of a frozen diffusion network, and names them by any texts.

    Features of several scales are fused (`MultiScaleFusion`); mask queries that know no classes look at them
    (`MaskTextDecoder` without text); pixel embeddings are strengthened where a mask's texts say so
    (`TextVisualAggregation`), and give each mask its refinement (`CamouflagedInstanceNorm`). A class's probability is
    the softmax of cosines between a mask's embedding and the texts. Features and text tower are frozen and no part of
    this module's weights.

    Args:
        features: gives frozen maps: `DiffusionFeatures`, `TowerFeatures`, or any callable with `widths`.
        model: an image-text model, of which the texts come.
        queries: N, at least the objects of a picture.
        width: d, a multiple of 8 and of `heads`.
        layers, heads, hidden: of the decoder.
        fusion: False leaves the projected maps as they are.
        refine: False leaves the generator's masks.
        template: makes a sentence of a class name.
        temperature: of the classes at first; it is learned.
        seed: of the weights.

    Raises:
        UsageError: a width that is no multiple of 8 and of `heads`, a template without one place for the name, or a
            setting out of range.

    Paper: Leveraging Open-Vocabulary Diffusion to Camouflaged Instance Segmentation (arXiv 2312.17505). No code is
    public: what is reconstructed says so in each module. The pixel decoder is a feature pyramid of the fused maps
    instead of Mask2Former's deformable attention.

    Examples:
        >>> head = OVCamouflage(DiffusionFeatures(denoiser), model)  # doctest: +SKIP
        >>> train_ov_camouflage(head, images, names, labels, masks)  # doctest: +SKIP
        >>> head.segment("forest.jpg", ["moth", "owl"]).masks.shape  # doctest: +SKIP
    """

    def __init__(
        self,
        features: CamouflageFeatures,
        model: Any,
        *,
        queries: int = 100,
        width: int = 256,
        layers: int = 9,
        heads: int = 8,
        hidden: int | None = None,
        fusion: bool = True,
        refine: bool = True,
        template: str = "a photo of a camouflaged {}",
        temperature: float = 0.07,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_number("temperature", temperature, above=0)
        if width < 8 or width % 8:
            raise UsageError(f"width must be a multiple of 8, not {width}")
        if template.count("{}") != 1:
            raise UsageError(f"template must have one place {{}} for the name, got {template!r}")
        self._held, self.template = (features, model), template
        levels = len(features.widths) - 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.fusion = MultiScaleFusion(features.widths, width)
            self.fuses, self.refines = fusion, refine
            self.smooth = nn.ModuleList(
                nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width), nn.ReLU())
                for _ in range(levels)
            )
            self.pixel = nn.ConvTranspose2d(width, width, 2, 2)
            self.decoder = MaskTextDecoder(
                width, 1, queries=queries, layers=layers, levels=levels, heads=heads, hidden=hidden
            )
            self.text = nn.Linear(model.embed_dim, width, bias=False)
            self.aggregate = TextVisualAggregation()
            self.instance_norm = CamouflagedInstanceNorm(width)
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.to(model.device)

    @property
    def features(self) -> CamouflageFeatures:
        """What gives the maps."""
        return self._held[0]

    def maps(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """The frozen maps of pictures, which training may keep.

        Args:
            images: in [0, 1].

        Raises:
            UsageError: maps of other widths than `features` says.
        """
        maps = [each.to(self.log_temperature) for each in self.features(images)]
        if (widths := tuple(each.shape[1] for each in maps)) != tuple(self.features.widths):
            raise UsageError(f"features gave maps of widths {widths}, not {tuple(self.features.widths)}")
        return maps

    @torch.no_grad()
    def texts(self, classes: Sequence[str]) -> Float[Tensor, "C E"]:
        """Unit vectors of the template with each name.

        Args:
            classes: names.

        Raises:
            UsageError: none, or a name twice.
        """
        if not classes or len(set(classes)) < len(classes):
            raise UsageError(f"classes must be different names, one at least, got {', '.join(classes) or 'none'}")
        raw = self._held[1].encode_text([self.template.format(name) for name in classes])
        return F.normalize(raw.to(self.log_temperature), dim=-1)

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]], texts: Float[Tensor, "C E"]) -> CamouflageMasks:
        """Masks at twice the grid of the finest map, and classes.

        Args:
            maps: of `maps`.
            texts: of `texts`; zeros say nothing.
        """
        fused = self.fusion(maps) if self.fuses else [p(m) for p, m in zip(self.fusion.project, maps, strict=False)]
        pyramid: list[Tensor] = []  # coarsest first
        for smooth, own in zip(self.smooth, reversed(fused), strict=True):
            if pyramid:
                size = (own.shape[-2], own.shape[-1])
                own = own + F.interpolate(pyramid[-1], size, mode="bilinear", align_corners=False)
            pyramid.append(smooth(own))
        pixels = self.pixel(pyramid[-1])  # E_pix (B, d, 2 h, 2 w)
        decoded = self.decoder(pyramid, pixels, pixels.new_zeros(0, pixels.shape[1]))
        generated = decoded.layers[-1]
        own_texts = self.text(texts)  # t_c (C, d)
        masks = generated.masks
        if self.refines:
            masks = self.instance_norm(self.aggregate(pixels, masks, own_texts), masks)
        embeddings = F.normalize(self.decoder.embed(self.decoder.norm(decoded.queries)), dim=-1)  # z_n (B, N, d)
        cosines = embeddings @ F.normalize(own_texts, dim=-1).mT
        named = (cosines / self.log_temperature.exp()).log_softmax(-1)
        there = generated.classes.log_softmax(-1)  # object, no object
        classes = torch.cat([there[..., :1] + named, there[..., 1:]], -1)
        return CamouflageMasks(masks, classes, decoded)

    @torch.no_grad()
    def segment(self, image: ImageLike, classes: Sequence[str], *, score: float = 0.5) -> CamouflagedObjects:
        """The objects of one picture.

        Args:
            image: a path, a PIL image or a float tensor (3, H, W) in [0, 1].
            classes: any names.
            score: least score of an object.

        Raises:
            UsageError: no name, or one twice. DataError: a picture that cannot be read.
        """
        check_number("score", score, least=0, most=1)
        picture = to_tensor(open_image(image).convert("RGB"))  # type: ignore[arg-type]
        training = self.training
        self.eval()
        output = self(self.maps(picture[None].to(self.log_temperature)), self.texts(classes))
        self.train(training)
        return self.objects(output, classes, (picture.shape[-2], picture.shape[-1]), score=score)[0]

    def objects(
        self, output: CamouflageMasks, classes: Sequence[str], size: tuple[int, int], *, score: float = 0.5
    ) -> list[CamouflagedObjects]:
        """The objects in each picture of a batch.

        Args:
            output: of the forward.
            classes: the names of its texts.
            size: (H, W) of the masks.
            score: least score of an object.
        """
        enlarged = F.interpolate(output.masks, size, mode="bilinear", align_corners=False)
        result = []
        for masks, logs in zip(enlarged, output.classes, strict=True):
            chances, labels = logs[:, :-1].exp().max(-1)
            drawn = masks > 0
            inside = (masks.sigmoid() * drawn).sum((1, 2)) / drawn.sum((1, 2)).clamp(min=1)
            scores = chances * inside  # 0 for an empty mask
            order = scores.argsort(descending=True)
            order = order[(scores[order] >= score) & drawn.flatten(1).any(1)[order]]
            result.append(CamouflagedObjects(drawn[order], labels[order], scores[order], tuple(classes)))
        return result
