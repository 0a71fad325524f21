"""MTA-CLIP: a mask transformer on an image-text model whose masks are drawn to the texts of their classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.dense.mask_sets import MaskSetLoss
from binderclip.losses.dense.mask_text import MaskTextContrast
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.models.text.prompts import PromptContext
from binderclip.models.towers.tokens import Tokens
from binderclip.segment.output.result import Segmentation
from binderclip.segment.parts.context import dense_tower
from binderclip.segment.trained.head import SegmentationHead
from binderclip.segment.trained.mask_text_decoder import DecodedMasks, MaskTextDecoder, PatchPyramid
from binderclip.segment.trained.panoptic import MaskPrediction
from binderclip.segment.trained.task import HeadTask, RowBatches, run_task
from binderclip.segment.trained.tuned import embed_once, picture_side, tower_parameters

__all__ = ["MTACLIP", "MTACLIPTraining", "MaskTextOutput", "train_mta_clip"]


@dataclass(frozen=True)
class MaskTextOutput:
    """Of a batch: what the decoder found, and its masks and texts in the space of the image-text model."""

    decoded: DecodedMasks
    masks: Float[Tensor, "B N E"]
    texts: Float[Tensor, "B K P E"]


class MTACLIP(SegmentationHead):
    """Segmentation into fixed classes by mask queries that look at a picture together with the texts of the classes.

    Each class has P learned contexts in front of its name, so that unlike parts of it may have texts of their own. The
    texts go through the decoder with the queries; afterwards both are projected by one matrix, and training draws each
    mask to the nearest text of its class (`losses.MaskTextContrast`). The image tower is a copy that is trained as far
    as `blocks` says; the text tower stays as it is.

    Args:
        model: an `ImageTextModel`, which is copied.
        classes: K names, the ground among them where it is one ("background").
        queries: N, at least the classes of a picture.
        width: of the decoder, a multiple of 8 and of `heads`.
        layers, heads, hidden: of `MaskTextDecoder`.
        prompts: P.
        n_ctx: learned tokens a context.
        text_tokens: False leaves a mask transformer that sees no text.
        blocks: train the last ones of so many and the final norm, 0 none; None the whole image tower.
        size: side in pixels at which pictures are seen, squashed; default twice the model's.
        seed: of the weights.

    Raises:
        UsageError: fewer than two classes or equal ones, sizes that do not fit, contexts too long for the text tower.
        NotSupported: a tower that cannot be opened.

    Paper: MTA-CLIP: Language-Guided Semantic Segmentation with Mask-Text Alignment (ECCV 2024, arXiv 2407.21654); there
    is no public code. On a plain tower the maps are those of `PatchPyramid` instead of Mask2Former's pixel decoder.

    Examples:
        >>> head = train_mta_clip(MTACLIP(model, ["sky", "roof"]), images, labels).head  # doctest: +SKIP
        >>> head.segment("photo.jpg").overlay().save("overlay.png")  # doctest: +SKIP
    """

    kind = "mta-clip"

    def __init__(
        self,
        model: Any,
        classes: Sequence[str],
        *,
        queries: int = 100,
        width: int = 256,
        layers: int = 9,
        heads: int = 8,
        hidden: int | None = None,
        prompts: int = 8,
        n_ctx: int = 8,
        text_tokens: bool = True,
        blocks: int | None = None,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        refuse_bare_module(model, "MTACLIP")
        super().__init__()
        self.classes = tuple(classes)
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise UsageError(f"classes must be two different names or more, not {', '.join(self.classes) or 'none'}")
        if width < 8 or width % 8:
            raise UsageError(f"width must be a multiple of 8, not {width}")
        self.size = picture_side(model, size)
        self.settings = {
            "queries": queries, "width": width, "layers": layers, "heads": heads, "hidden": hidden, "prompts": prompts,
            "n_ctx": n_ctx, "text_tokens": text_tokens, "blocks": blocks, "size": self.size,
        }  # fmt: skip
        own = copy.deepcopy(model).eval()
        for parameter in own.parameters():
            parameter.requires_grad_(False)
        for parameter in tower_parameters(own, blocks):
            parameter.requires_grad_(True)
        # In a tuple: of the model's weights only those of the image tower are this module's.
        self._held, self.blocks, self.text_tokens = (own,), blocks, text_tokens
        self.visual = own.visual
        tower, out = dense_tower(own), own.embed_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.context = PromptContext(own, self.classes, n_ctx=n_ctx, n_prompts=prompts)
            self.pyramid = PatchPyramid(tower.width, width)
            self.decoder = MaskTextDecoder(
                width, len(self.classes), queries=queries, layers=layers, heads=heads, hidden=hidden
            )
            self.compress = nn.Linear(out, width)
            self.project = nn.Linear(width, out, bias=False)
        self.to(own.device)

    def train(self, mode: bool = True) -> MTACLIP:
        """As for every module; the image tower stays in eval mode."""
        super().train(mode)
        self.visual.eval()
        return self

    def texts(self) -> Float[Tensor, "K P E"]:
        """Unit vectors of the classes' contexts."""
        return F.normalize(self.context(), dim=-1).transpose(0, 1)

    def maps(self, pixels: Float[Tensor, "B 3 S S"] | Tokens, start: int = 0) -> list[Float[Tensor, "B C _ _"]]:
        """The four maps of the pyramid on the tower's last, normed patches, coarsest first.

        Args:
            pixels: of `pixels`, or tokens of the tower.
            start: the block that these tokens enter.
        """
        tower = dense_tower(self.model)
        tokens = tower.run(pixels, start=start) if isinstance(pixels, Tokens) else tower.run(tower.embed(pixels))
        assert tokens.grid is not None
        return self.pyramid(tower.norm(tokens.patches).mT.unflatten(2, tokens.grid).float())

    def forward(self, pixels: Float[Tensor, "B 3 S S"] | Tokens, start: int = 0) -> MaskTextOutput:
        """Masks of a quarter of the patch's side, classes, and both in the shared space.

        Args:
            pixels, start: see `maps`.
        """
        maps = self.maps(pixels, start)
        texts = self.texts()  # T (K, P, E)
        asked = self.compress(texts.flatten(0, 1)) if self.text_tokens else self.compress(texts[:0].flatten(0, 1))
        decoded = self.decoder(maps[:3], maps[3], asked)
        # t_j = W T'_j + T_j: the text keeps what it meant.
        met = self.project(decoded.texts).unflatten(1, texts.shape[:2]) if self.text_tokens else 0.0
        sentences = texts + met if self.text_tokens else texts.expand(len(maps[0]), -1, -1, -1)
        return MaskTextOutput(decoded, self.project(decoded.queries), sentences)

    @torch.no_grad()
    def class_scores(self, pixels: Float[Tensor, "B 3 S S"] | Tokens, start: int = 0) -> Float[Tensor, "B K h w"]:
        """How much of each class is at each place: sum over queries of class probability times mask probability.

        Args:
            pixels, start: see `maps`.
        """
        last = self(pixels, start).decoded.layers[-1]
        return torch.einsum("bnk,bnhw->bkhw", last.classes.softmax(-1)[..., :-1], last.masks.sigmoid())

    def segment(self, image: ImageLike, labels: Sequence[str] | None = None) -> Segmentation:
        """The class of each pixel.

        Args:
            image: a path, a PIL image or a float tensor (3, H, W) in [0, 1].
            labels: those of the classes that may occur; default all.

        Raises:
            UsageError: a label that is none of the classes. DataError: a picture that cannot be read.
        """
        names = self.classes if labels is None else tuple(labels)
        if unknown := [name for name in names if name not in self.classes]:
            raise UsageError(f"{unknown[0]!r} is none of the classes of this head: {', '.join(self.classes)}")
        rows = [self.classes.index(name) for name in names]
        picture, coarse, full = self.scored(image, lambda pixels: self.class_scores(pixels)[:, rows])
        return Segmentation(names, full.argmax(0).int().cpu(), coarse.clamp(min=1e-6).log(), picture)

    @classmethod
    def _built(cls, model: Any, config: Mapping[str, Any], folder: Path) -> MTACLIP:
        return cls(model, config["classes"], **config["head"])

    def _about(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def _stored(self) -> dict[str, Tensor]:
        """Of the image tower the weights that are trained."""
        fixed = {f"visual.{name}" for name, value in self.visual.named_parameters() if not value.requires_grad}
        fixed |= {f"visual.{name}" for name, _ in self.visual.named_buffers()}
        return {name: value for name, value in self.state_dict().items() if name not in fixed}


@dataclass(frozen=True)
class MTACLIPTraining:
    """What training left: the head in eval mode, and of each step the loss and the part of it that aligns with text."""

    head: MTACLIP
    losses: Float[np.ndarray, "steps"]
    alignment: Float[np.ndarray, "steps"]


def mta_clip_task(
    head: MTACLIP,
    images: Float[Tensor, "N 3 H W"],
    labels: Int[Tensor, "N H W"],
    *,
    batch: int = 8,
    negatives: Literal["mixed", "separate"] = "mixed",
    alignment: float = 1.0,
    tower_lr: float = 0.1,
    mask_side: int | None = None,
    tokens: Tokens | None = None,
    seed: int = 0,
) -> HeadTask:
    """What `train_mta_clip` trains; its arguments and errors.

    Args:
        head, images, labels, batch, negatives, alignment, tower_lr, mask_side, tokens, seed: see there.
    """
    if images.ndim != 4 or not len(images) or labels.shape != (len(images), *images.shape[2:]):
        raise UsageError(f"images {tuple(images.shape)} and labels {tuple(labels.shape)} do not belong together")
    if mask_side is not None:
        if mask_side < 1:
            raise UsageError(f"mask_side must be at least 1 pixel, not {mask_side}")
        labels = F.interpolate(labels[:, None].double(), (mask_side, mask_side), mode="nearest-exact")[:, 0].long()
    loss, contrast = MaskSetLoss(), MaskTextContrast(negatives)
    start = 0 if head.blocks is None else dense_tower(head.model).depth - head.blocks
    fixed = tokens
    if tokens is not None:
        if head.blocks is None or len(tokens.x) != len(images):
            raise UsageError(
                f"tokens of {len(tokens.x)} pictures for {len(images)}: give one row each, and none where the whole "
                "image tower learns (blocks=None)"
            )
    elif head.blocks is not None:
        fixed = embed_once(head.model, head.pixels, images, blocks=start)
    kinds = [[int(k) for k in each.unique() if 0 <= k < len(head.classes)] for each in labels]
    device = next(head.decoder.parameters()).device

    def step(given: tuple[int, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        _, rows = given
        output = head(head.pixels(images[rows])) if fixed is None else head(fixed.with_x(fixed.x[rows]), start)
        own = [torch.tensor(kinds[row], dtype=torch.long, device=device) for row in rows.tolist()]
        drawn = [labels[row].to(device) == kind[:, None, None] for row, kind in zip(rows.tolist(), own, strict=True)]
        costs = [loss(full.masks, full.classes, own, drawn) for full in _at_size(output.decoded.layers, labels)]
        aligned = costs[-1].new_zeros(())
        if alignment:
            places = [(row, queries, own[row][columns]) for row, (queries, columns) in enumerate(loss.pairs)]
            masks = torch.cat([output.masks[row, queries] for row, queries, _ in places])
            texts = torch.cat([output.texts[row].expand(len(queries), -1, -1, -1) for row, queries, _ in places])
            aligned = contrast(masks, texts, torch.cat([kind for *_, kind in places]))
        return torch.stack(costs).sum() + alignment * aligned, {"alignment": aligned.detach()}

    tuned = [p for p in head.visual.parameters() if p.requires_grad]
    ours = {id(p) for p in head.visual.parameters()}
    groups: list[dict[str, Any]] = [{"params": [p for p in head.parameters() if id(p) not in ours]}]
    if tuned:
        groups.append({"params": tuned, "lr_scale": tower_lr})
    return HeadTask(head, step, RowBatches(len(images), batch, seed), groups)


def train_mta_clip(
    head: MTACLIP,
    images: Float[Tensor, "N 3 H W"],
    labels: Int[Tensor, "N H W"],
    *,
    negatives: Literal["mixed", "separate"] = "mixed",
    alignment: float = 1.0,
    steps: int = 1000,
    batch: int = 8,
    lr: float = 1e-4,
    tower_lr: float = 0.1,
    mask_side: int | None = None,
    tokens: Tokens | None = None,
    weight_decay: float = 0.05,
    seed: int = 0,
) -> MTACLIPTraining:
    """Train a head on label maps, by AdamW; every layer of the decoder has the loss of masks and classes.

    Args:
        head: to be trained.
        images: in [0, 1].
        labels: indices into the head's classes; others (-1, 255) belong to no mask.
        negatives: of `losses.MaskTextContrast`.
        alignment: weight of that loss, which the last layer has; 0 leaves it out.
        steps, batch, lr, weight_decay: of AdamW, with a cosine to 0.
        tower_lr: the image tower learns at so many times `lr`.
        mask_side: in pixels, at which masks are matched and compared; default that of the labels. The paper samples
            12,544 points of each mask; whole masks of large pictures take most of a step and of its memory.
        tokens: what enters the first block that learns, or leaves the last where none does, for each picture
            (`segment.trained.tuned.embed_once`), where it is known; default computed once.
        seed: of the batches.

    Raises:
        UsageError: pictures, labels and tokens that do not belong together, or more classes in a picture than queries.

    Paper: MTA-CLIP: Language-Guided Semantic Segmentation with Mask-Text Alignment (ECCV 2024, arXiv 2407.21654).
    """
    task = mta_clip_task(
        head, images, labels, batch=batch, negatives=negatives, alignment=alignment, tower_lr=tower_lr,
        mask_side=mask_side, tokens=tokens, seed=seed,
    )  # fmt: skip
    result = run_task(task, steps=steps, lr=lr, weight_decay=weight_decay, schedule="cosine")
    history = {name: np.asarray(result.history[name]) for name in ("loss", "alignment")}
    return MTACLIPTraining(head, history["loss"], history["alignment"])


def _at_size(layers: Sequence[MaskPrediction], labels: Int[Tensor, "N H W"]) -> list[MaskPrediction]:
    size = (labels.shape[-2], labels.shape[-1])
    return [
        MaskPrediction(F.interpolate(each.masks, size, mode="bilinear", align_corners=False), each.classes)
        for each in layers
    ]
