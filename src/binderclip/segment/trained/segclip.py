"""SegCLIP: a tower whose patches are grouped by learned centres, so that captions alone teach it to segment."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from open_clip.transformer import QuickGELU
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.losses import MaskedPatchReconstruction
from binderclip.losses.contrastive.scale import LogitScale
from binderclip.losses.dense.masked_patches import random_patch_order
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.models.layers.semantic_grouping import GroupedPatches, PatchRestoration, SemanticGrouping
from binderclip.models.towers import Tower
from binderclip.models.towers.tokens import Tokens
from binderclip.segment.output.result import Segmentation
from binderclip.segment.trained.head import SegmentationHead
from binderclip.segment.trained.tuned import picture_side, tower_parameters

__all__ = ["GroupedPicture", "SegCLIP", "region_probabilities"]

BACKGROUND = "background"
FROM_CLIP = "backbone."


@dataclass(frozen=True)
class GroupedPicture:
    """Of a batch: raw embeddings (B, E) of the pictures and (B, G, E) of their groups, and which patch is in which."""

    pictures: Float[Tensor, "B E"]
    groups: Float[Tensor, "B G E"]
    patches: GroupedPatches


class SegCLIP(SegmentationHead):
    """An image-text model whose last blocks see groups of patches instead of patches.

    After the first blocks each patch goes to one of a few learned centres (`models.SemanticGrouping`); the last blocks
    run on the groups, and the largest values over the groups are the picture, which is compared with its caption. Which
    patch is in which group is the segmentation: it needs no label map. The class token is left out. The model is
    copied, and all of the copy is trained, text tower included, unless `blocks` and `text` say otherwise.

    Args:
        model: an `ImageTextModel` with a tower of transformer blocks, which is copied.
        groups: centres.
        tail: blocks that see groups; default a sixth of the tower's, as 2 of 12.
        layers, heads: of `SemanticGrouping`.
        blocks: of those before the grouping train the last so many, 0 none; None all, and what is before them. The
            last `tail` blocks, the norm and the projection always learn.
        text: whether the text tower is trained.
        size: side in pixels at which pictures are seen, squashed; default the model's.
        seed: of the new weights.

    Raises:
        UsageError: a tail that leaves no block before it, sizes that do not fit.
        NotSupported: a tower with rotary positions, which groups have not.

    Paper: SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (ICML 2023,
    arXiv 2211.14813). Pictures are seen whole, where the paper slides windows of 224 pixels.

    Examples:
        >>> head = train_segclip(SegCLIP(model), images, captions).head  # doctest: +SKIP
        >>> head.segment("photo.jpg", ["background", "cat", "dog"]).overlay().save("overlay.png")  # doctest: +SKIP
    """

    kind = "segclip"

    def __init__(
        self,
        model: Any,
        *,
        groups: int = 8,
        tail: int | None = None,
        layers: int = 2,
        heads: int | None = None,
        blocks: int | None = None,
        text: bool = True,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        refuse_bare_module(model, "SegCLIP")
        super().__init__()
        depth = model.image_tower.depth
        tail = max(1, round(depth / 6)) if tail is None else tail
        if not 0 < tail < depth:
            raise UsageError(f"tail must be 1 to {depth - 1} of the tower's {depth} blocks, not {tail}")
        first = depth - tail
        if blocks is not None and not 0 <= blocks <= first:
            raise UsageError(f"blocks must be 0 to {first}, those before the grouping, not {blocks}")
        self.size = picture_side(model, model.preprocess.size[0] if size is None else size)
        self.settings = {
            "groups": groups, "tail": tail, "layers": layers, "heads": heads, "blocks": blocks, "text": text,
            "size": self.size,
        }  # fmt: skip
        own = copy.deepcopy(model).eval()
        # In a tuple, so that the weights are registered once, as `backbone`.
        self._held, self.first, self.blocks, self.text = (own,), first, blocks, text
        self.backbone = own.backbone
        tower: Tower = own.image_tower
        grid = (self.size // tower.patch, self.size // tower.patch)
        with torch.no_grad():
            if tower.rope(tower.embed(torch.zeros(1, 3, self.size, self.size, device=own.device))) is not None:
                raise NotSupported(f"{model.name}: its positions are rotary, and groups of patches have no position")
        self._choose(own, tower)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.grouping = SemanticGrouping(tower.width, groups=groups, heads=heads, layers=layers)
            self.restoration = PatchRestoration(groups)
            own_heads = max(1, tower.width // 64)
            self.mirror = nn.Sequential(
                *(Block(tower.width, own_heads, 4.0, qkv_bias=True, act_layer=QuickGELU) for _ in range(tail))
            )
            self.reconstruction = MaskedPatchReconstruction(tower.width, grid, tower.patch)
        self.to(own.device)

    def _choose(self, own: Any, tower: Tower) -> None:
        """What learns: of the model what `blocks` and `text` say, and always what follows the groups.

        The norm and the projection are those weights that single tokens pass on their way into the shared space.
        """
        image = list(own.visual.parameters())
        ids = {id(p) for p in image}
        for parameter in own.backbone.parameters():
            parameter.requires_grad_(self.text if id(parameter) not in ids else True)
        own.logit_scale.requires_grad_(True)
        with torch.enable_grad():
            token = torch.ones(1, tower.width, device=tower.device, dtype=tower.dtype)
            reached = torch.autograd.grad(tower.head(token).sum(), image, allow_unused=True)
            prefix = tower.prefix_tokens()
            if prefix is not None and prefix.requires_grad:
                left = torch.autograd.grad(prefix.sum(), image, allow_unused=True)
                for parameter, gradient in zip(image, left, strict=True):
                    parameter.requires_grad_(gradient is None)  # the class token is left out
        after = [p for p, gradient in zip(image, reached, strict=True) if gradient is not None]
        after += [p for block in tower.blocks[self.first :] for p in block.module.parameters()]
        #: what learns at the full rate although it is the model's
        self.after = list({id(p): p for p in after}.values())
        if self.blocks is None:
            return
        kept = {id(p) for p in (*self.after, *tower_parameters(own, self.blocks + tower.depth - self.first))}
        for parameter in image:
            parameter.requires_grad_(id(parameter) in kept)

    def train(self, mode: bool = True) -> SegCLIP:
        """As for every module; the model's own stay in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def patches(self, pixels: Float[Tensor, "B 3 S S"] | Tokens) -> Tokens:
        """The patches alone, as they enter the first block."""
        tower: Tower = self.model.image_tower
        tokens = pixels if isinstance(pixels, Tokens) else tower.embed(pixels)
        return replace(
            tokens, x=tokens.patches, positions=tokens.positions[:, tokens.prefix :] - tokens.prefix, prefix=0
        )

    def forward(self, pixels: Float[Tensor, "B 3 S S"] | Tokens) -> GroupedPicture:
        """Pictures and their groups in the shared space.

        Args:
            pixels: of `pixels`, or the tokens that the tower embeds them in.
        """
        tower: Tower = self.model.image_tower
        grouped = self.grouping(tower.run(self.patches(pixels), stop=self.first).x)
        tokens = grouped.tokens
        for block in tower.blocks[self.first :]:
            tokens = block(tokens)
        return GroupedPicture(tower.head(tokens.amax(1)).float(), tower.head(tokens).float(), grouped)

    def reconstruct(
        self,
        pixels: Float[Tensor, "B 3 S S"],
        tokens: Tokens | None = None,
        *,
        ratio: float = 0.75,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """The error on hidden patches, which are predicted through the groups of those that are seen.

        Args:
            pixels: of `pixels`.
            tokens: those that the tower embeds them in, where they are known.
            ratio: share of the patches that is hidden.
            generator: of which are.

        On a tower whose patches are embedded by several convolutions the seen ones know something of their neighbours.
        """
        tower: Tower = self.model.image_tower
        patches = self.patches(pixels if tokens is None else tokens)
        count, length, width = patches.x.shape
        seen = random_patch_order(count, length, ratio, generator)[0].to(patches.x.device)
        kept = replace(
            patches, x=patches.x.gather(1, seen[..., None].expand(-1, -1, width)), positions=seen, whole=False
        )
        grouped = self.grouping(tower.run(kept, stop=self.first).x)
        return self.reconstruction(self.mirror(self.restoration(grouped.tokens, grouped.hard)), seen, pixels)

    def class_probabilities(
        self, grouped: GroupedPicture, text: Float[Tensor, "C E"], *, top: int = 5
    ) -> Float[Tensor, "B G C"]:
        """Of each group: `region_probabilities` at the model's scale.

        Args:
            found: of the call.
            text: unit vectors of the classes.
            top: see there.
        """
        scale = LogitScale.of(self.model.backbone).value
        return region_probabilities(grouped.groups, grouped.pictures, text, scale, top=top)

    @torch.no_grad()
    def segment(
        self, image: ImageLike, labels: Sequence[str], *, threshold: float = 0.95, top: int = 5
    ) -> Segmentation:
        """The label of each pixel: the class of its group.

        Args:
            image: a path, a PIL image or a float tensor (3, H, W) in [0, 1].
            labels: class names. A first one "background" is no text: it is where no class reaches the threshold.
            threshold: for the probability (`class_probabilities`), or the highest of the picture where that is less;
                the paper has 0.8, 0.25 and 0.65 on VOC, Context and COCO.
            top: see `class_probabilities`.

        Raises:
            UsageError: no class. DataError: a picture that cannot be read.
        """
        names = tuple(labels)
        background = bool(names) and names[0] == BACKGROUND
        texts = names[1:] if background else names
        if not texts:
            raise UsageError("labels are to name a class at least")
        grouped: list[GroupedPicture] = []

        def soft(pixels: Tensor) -> Tensor:
            grouped.append(self(pixels))
            side = self.size // self.model.image_tower.patch
            return grouped[0].patches.soft.unflatten(2, (side, side))

        picture, coarse, full = self.scored(image, soft)
        chances = self.class_probabilities(grouped[0], self.text_of(texts), top=top)[0]  # (G, C)
        if background:
            bound = chances.new_full((len(chances), 1), min(threshold, float(chances.max())))
            below = chances.amax(1, keepdim=True) < bound
            chances = torch.cat([torch.where(below, 1.0, 0.0), torch.where(below, 0.0, chances)], 1)
        scores = chances[coarse.argmax(0).to(chances.device)].movedim(-1, 0).clamp(min=1e-6).log().cpu()
        return Segmentation(names, chances.argmax(1)[full.argmax(0)].int().cpu(), scores, picture, background)

    def _stored(self) -> dict[str, Tensor]:
        """What segments: of the model the weights that were trained, of the rest all but what training alone uses."""
        moved = {FROM_CLIP + name for name, p in self.backbone.named_parameters() if p.requires_grad}
        return {
            name: value
            for name, value in self.state_dict().items()
            if (name in moved if name.startswith(FROM_CLIP) else name.startswith("grouping."))
        }


def region_probabilities(
    regions: Float[Tensor, "B G E"],
    pictures: Float[Tensor, "B E"],
    text: Float[Tensor, "C E"],
    scale: float | Float[Tensor, ""],
    *,
    top: int = 5,
) -> Float[Tensor, "B G C"]:
    """Softmax of a region over all classes times softmax over those alone that suit the whole picture best.

    Args:
        regions, pictures: embeddings, of any length.
        text: unit vectors of the classes.
        scale: of the cosines.
        top: so many classes suit the picture.

    Paper: SegCLIP (arXiv 2211.14813), by its released program.
    """
    logits = scale * F.normalize(regions, dim=-1) @ text.T
    best = (F.normalize(pictures, dim=-1) @ text.T).topk(min(top, len(text)), dim=-1).indices  # (B, top)
    hidden = torch.ones(len(pictures), len(text), dtype=torch.bool, device=text.device).scatter(1, best, False)
    return logits.softmax(-1) * logits.masked_fill(hidden[:, None], -math.inf).softmax(-1)
