"""Cascade-CLIP: groups of a frozen tower's blocks, each with its own decoder from text queries to masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.losses.dense.text_masks import FocalDice
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.models.towers import Tower
from binderclip.models.towers.tokens import Tokens, append_tokens
from binderclip.segment.output.result import Segmentation
from binderclip.segment.trained.head import SegmentationHead
from binderclip.segment.trained.task import HeadTask, RowBatches, run_task
from binderclip.segment.trained.text_query_decoder import TextQueryDecoder
from binderclip.segment.trained.tuned import embed_once, picture_side

__all__ = ["CascadeCLIP", "CascadeTraining", "default_groups", "train_cascade"]


def default_groups(depth: int) -> tuple[tuple[int, ...], ...]:
    """The paper's groups for a tower of any depth: of twelve blocks (5, 6, 7), (8, 9, 10) and (11).

    As many blocks as half the depth, of shallow towers all, stand before the last one and are cut into two groups.

    Raises:
        UsageError: fewer than three blocks.
    """
    if depth < 3:
        raise UsageError(f"a tower of {depth} blocks has no three groups; give groups")
    before = depth - 1 if depth < 6 else round(depth / 2)
    first = depth - 1 - before
    middle = first + (before + 1) // 2
    return tuple(range(first, middle)), tuple(range(middle, depth - 1)), (depth - 1,)


@dataclass(frozen=True)
class TowerOutputs:
    """What a tower makes of B pictures.

    Attributes:
        last: tokens after its last block.
        patches: those after earlier blocks that a group needs, each (B, N, D).
    """

    last: Tokens
    patches: dict[int, Tensor]

    def rows(self, rows: Int[Tensor, "R"]) -> TowerOutputs:
        """Of these pictures."""
        patches = {block: each[rows] for block, each in self.patches.items()}
        return TowerOutputs(self.last.with_x(self.last.x[rows]), patches)


class CascadeCLIP(SegmentationHead):
    """Segmentation by text on a frozen image-text model: one decoder a group of blocks, whose mask logits are summed.

    Middle blocks hold detail that is not aligned with text; mixed into one map it hurts classes that training never
    saw. Each group of blocks therefore gets a decoder of its own. Learned prompts enter every block beside the patches,
    and are replaced in the next. The model's own weights are not part of this module, nor of what it saves.

    Args:
        model: an `ImageTextModel` with a tower of transformer blocks, which stays as it is.
        groups: blocks of each group; default `default_groups`. `((L - 1,),)` is the last block alone, one group of all
            blocks their mixture.
        prompts: tokens a block; 0 for none.
        layers, heads: of each `TextQueryDecoder`.
        dropout: of the prompts.
        size: side in pixels at which pictures are seen, squashed; default twice the model's.

    Attributes:
        seen: classes that training saw, and whose probabilities `segment` lowers; none after transductive training,
            which saw the other names too.

    Raises:
        UsageError: groups that are empty, not of this tower or that share a block; a size that is no multiple of the
            patch.
        NotSupported: a tower whose projection is not linear.

    Paper: Cascade-CLIP: Cascaded Vision-Language Embeddings Alignment for Zero-Shot Semantic Segmentation (ICML 2024,
    arXiv 2406.00670).
    """

    kind = "cascade"

    def __init__(
        self,
        model: Any,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        prompts: int = 10,
        layers: int = 3,
        heads: int = 8,
        dropout: float = 0.1,
        size: int | None = None,
    ) -> None:
        refuse_bare_module(model, "CascadeCLIP")
        super().__init__()
        tower: Tower = model.image_tower
        depth, width, out = tower.depth, tower.width, tower.embed_dim
        chosen = default_groups(depth) if groups is None else tuple(tuple(group) for group in groups)
        flat = [block for group in chosen for block in group]
        if not chosen or not all(chosen) or len(set(flat)) < len(flat) or not set(flat) <= set(range(depth)):
            raise UsageError(f"groups {chosen} are to be different blocks of 0 to {depth - 1}, at least one each")
        if not tower.affine_projection:
            raise NotSupported(f"{model.name}: its projection into the shared space is no matrix")
        side = picture_side(model, size)
        # Held in a tuple: the model's weights are neither trained nor saved with this module's.
        self._held = (model,)
        self.groups, self.size = chosen, side
        self.seen: tuple[str, ...] = ()
        self.settings = {
            "groups": [list(group) for group in chosen], "prompts": prompts, "layers": layers, "heads": heads,
            "dropout": dropout, "size": side,
        }  # fmt: skip
        self.prompts = nn.Parameter(0.02 * torch.randn(depth, prompts, width))
        self.prompt_project, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)
        self.prompt_norm = nn.LayerNorm(width, eps=1e-6)
        middle = [block for block in flat if block != depth - 1]
        self.block_norm = nn.ModuleDict({str(block): _norm_like(tower) for block in middle})
        self.block_project = nn.ModuleDict({str(block): _projection_like(tower) for block in middle})
        # exp(-n^2 / 2) of the n-th block from the end of its group; a block by itself needs no weight.
        self.weights = nn.ParameterDict(
            {
                str(place): nn.Parameter(torch.exp(-(torch.arange(len(group) - 1.0, -1, -1) ** 2) / 2))
                for place, group in enumerate(chosen)
                if len(group) > 1
            }
        )
        self.query = nn.ModuleList(nn.Linear(2 * out, out) for _ in chosen)
        self.decoders = nn.ModuleList(TextQueryDecoder(out, layers=layers, heads=heads) for _ in chosen)
        self.to(model.device)

    def outputs(self, tokens: Tokens) -> TowerOutputs:
        """Run the frozen tower, with the prompts beside the patches.

        Args:
            tokens: of `model.image_tower.embed(pixels)`.
        """
        tower: Tower = self.model.image_tower
        length, count, patches = tokens.x.shape[1], self.prompts.shape[1], {}
        prompts = self.dropout(self.prompt_project(self.prompts))
        for block in range(tower.depth):
            if count:
                own = prompts[block].expand(len(tokens.x), -1, -1).to(tokens.x)
                tokens = (
                    append_tokens(tokens, own)
                    if block == 0
                    else tokens.with_x(torch.cat([tokens.x[:, :length], own], 1))
                )
            tokens = tower.run(tokens, start=block, stop=block + 1)
            if str(block) in self.block_norm:
                patches[block] = tokens.patches
        return TowerOutputs(tokens, patches)

    def features(self, outputs: TowerOutputs) -> tuple[list[Float[Tensor, "B N E"]], Float[Tensor, "B E"]]:
        """Unit patch features of each group, and the unit embedding of the picture.

        Args:
            outputs: of the tower.
        """
        tower: Tower = self.model.image_tower
        last = outputs.last.with_x(self.prompt_norm(outputs.last.x))
        units = {tower.depth - 1: F.normalize(tower.dense(last).flatten(2).mT, dim=-1)}  # each (B, N, E)
        for block, patches in outputs.patches.items():
            projected = self.block_project[str(block)](self.block_norm[str(block)](self.prompt_norm(patches)))
            units[block] = F.normalize(projected, dim=-1)
        maps = []
        for place, group in enumerate(self.groups):
            stacked = torch.stack([units[block] for block in group], -1)  # (B, N, E, blocks)
            maps.append(stacked @ self.weights[str(place)] if len(group) > 1 else stacked[..., 0])
        return maps, F.normalize(tower.project(tower.pool(last)), dim=-1)

    def forward(
        self, pixels: Float[Tensor, "B 3 S S"] | Tokens | TowerOutputs, text: Float[Tensor, "C E"]
    ) -> Float[Tensor, "B C h w"]:
        """Mask logits of each class on the tower's grid.

        Args:
            pixels: of `pixels`, the tokens that the tower embeds them in, or what it makes of these: training computes
                once whatever no prompt changes.
            text: unit vectors of the classes.
        """
        tokens = self.model.image_tower.embed(pixels) if isinstance(pixels, Tensor) else pixels
        maps, picture = self.features(self.outputs(tokens) if isinstance(tokens, Tokens) else tokens)
        related = torch.cat([picture[:, None] * text, text.expand(len(picture), -1, -1)], -1)  # r_c (B, C, 2 E)
        logits = [
            decoder(query(related), features)
            for query, decoder, features in zip(self.query, self.decoders, maps, strict=True)
        ]
        side = self.size // self.model.image_tower.patch
        return torch.stack(logits).sum(0).unflatten(2, (side, side))

    def segment(
        self, image: ImageLike, labels: Sequence[str], *, seen: Sequence[str] | None = None, penalty: float = 0.1
    ) -> Segmentation:
        """The label of each pixel.

        Args:
            image: a path, a PIL image or a float tensor (3, H, W) in [0, 1].
            labels: class names.
            seen: those of them that training saw, which win too easily; default those of the attribute `seen`.
            penalty: taken off their probabilities.

        Raises:
            UsageError: a seen class that is no label. DataError: a picture that cannot be read.
        """
        if seen is None:
            seen = [name for name in labels if name in self.seen]
        elif unknown := [name for name in seen if name not in labels]:
            raise UsageError(f"seen {unknown[0]!r} is none of the labels: {', '.join(labels)}")
        picture, coarse, full = self.scored(image, lambda pixels: self(pixels, self.text_of(labels)))
        known = torch.tensor([name in seen for name in labels], device=full.device)
        return Segmentation(tuple(labels), seen_penalised(full, known, penalty).int().cpu(), coarse, picture)

    def _about(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    @classmethod
    def _built(cls, model: Any, config: Mapping[str, Any], folder: Path) -> CascadeCLIP:
        head = super()._built(model, config, folder)
        head.seen = tuple(str(name) for name in config.get("seen", ()))  # a folder of before has none
        return head


def seen_penalised(logits: Float[Tensor, "C H W"], seen: Tensor, penalty: float = 0.1) -> Int[Tensor, "H W"]:
    """The class of the largest probability (sigmoid), of seen classes less the penalty.

    Args:
        logits: of masks.
        seen: (C,) bool.
        penalty: 0 is the plain argmax.
    """
    return (logits.sigmoid() - penalty * seen[:, None, None].to(logits)).argmax(0)


def _norm_like(tower: Tower) -> nn.LayerNorm:
    """A trainable layer norm that starts as the tower's last."""
    norm = nn.LayerNorm(tower.width, eps=getattr(tower.final_norm, "eps", 1e-5))
    if isinstance(tower.final_norm, nn.LayerNorm):
        norm.load_state_dict({name: value.float() for name, value in tower.final_norm.state_dict().items()})
    return norm


def _projection_like(tower: Tower) -> nn.Linear:
    """A trainable linear layer that starts as the tower's projection."""
    layer = nn.Linear(tower.width, tower.embed_dim)
    with torch.no_grad():
        unit = torch.eye(tower.width, device=tower.device, dtype=tower.dtype)
        origin = tower.project(torch.zeros_like(unit[:1]))
        layer.weight.copy_((tower.project(unit) - origin).T)
        layer.bias.copy_(origin[0])
    return layer


@dataclass(frozen=True)
class CascadeTraining:
    """What training left: the head in eval mode, and the loss of each step."""

    head: CascadeCLIP
    losses: Float[np.ndarray, "steps"]


def cascade_task(
    head: CascadeCLIP,
    images: Float[Tensor, "N 3 H W"],
    labels: Int[Tensor, "N H W"],
    classes: Sequence[str],
    *,
    steps: int,
    batch: int = 8,
    unseen: Sequence[str] = (),
    transductive: bool = False,
    released: bool = False,
    tokens: Tokens | None = None,
    seed: int = 0,
) -> HeadTask:
    """What `train_cascade` trains; its arguments and errors.

    Args:
        head, images, labels, classes, steps, batch, unseen, transductive, released, tokens, seed: see there.
    """
    if images.ndim != 4 or labels.shape != (len(images), *images.shape[2:]):
        raise UsageError(f"images {tuple(images.shape)} and labels {tuple(labels.shape)} do not belong together")
    if unknown := [name for name in unseen if name not in classes]:
        raise UsageError(f"unseen {unknown[0]!r} is none of the classes: {', '.join(classes)}")
    names = [name for name in classes if name not in unseen]
    if not names:
        raise UsageError("every class is unseen: nothing is left to learn from")
    order = [*names, *unseen]  # the seen ones come first
    place = torch.tensor([order.index(name) for name in classes])
    head.seen = () if transductive and unseen else tuple(names)
    known = (labels >= 0) & (labels < len(classes))
    moved = torch.where(known, place[labels.clamp(0, len(classes) - 1).long()], -1)
    text, loss = head.text_of(order), FocalDice(released=released)
    tokens = embed_once(head.model, head.pixels, images) if tokens is None else tokens
    device = tokens.x.device
    # Without prompts nothing that learns stands before the tower's end.
    ready = None if head.prompts.numel() else outputs_once(head, tokens)

    def step(given: tuple[int, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        number, rows = given
        transduced = transductive and bool(unseen) and number >= steps // 2
        target = moved[rows].to(device)
        # What training sees of the names: unseen ones only where their own guesses are the labels.
        inputs = tokens.with_x(tokens.x[rows]) if ready is None else ready.rows(rows)
        logits = head(inputs, text if transduced else text[: len(names)])
        full = F.interpolate(logits, tuple(target.shape[1:]), mode="bilinear", align_corners=False)
        hidden = target >= len(names)
        if transduced:
            guess = full.detach()[:, len(names) :].argmax(1) + len(names)
            target = torch.where(hidden, guess, target)
        else:
            target = target.masked_fill(hidden, -1)
        return loss(full, target), loss.parts

    rows = RowBatches(len(images), batch, seed)
    return HeadTask(head, step, rows, [{"params": list(head.parameters())}], (head.model,))


@torch.no_grad()
def outputs_once(head: CascadeCLIP, tokens: Tokens, at_once: int = 64) -> TowerOutputs:
    """What the tower makes of all pictures, for a head without prompts.

    Args:
        head: without prompts.
        tokens: of `embed_once`.
        at_once: pictures a pass.
    """
    parts = [head.outputs(tokens.with_x(some)) for some in tokens.x.split(at_once)]
    patches = {block: torch.cat([part.patches[block] for part in parts]) for block in parts[0].patches}
    return TowerOutputs(tokens.with_x(torch.cat([part.last.x for part in parts])), patches)


def decay(progress: float) -> float:
    """The polynomial schedule of the paper, of power 0.9."""
    return float((1 - progress) ** 0.9)


def train_cascade(
    head: CascadeCLIP,
    images: Float[Tensor, "N 3 H W"],
    labels: Int[Tensor, "N H W"],
    classes: Sequence[str],
    *,
    unseen: Sequence[str] = (),
    transductive: bool = False,
    steps: int = 400,
    batch: int = 8,
    lr: float = 2e-4,
    weight_decay: float = 0.01,
    released: bool = False,
    tokens: Tokens | None = None,
    seed: int = 0,
) -> CascadeTraining:
    """Train the prompts and decoders on classes that are seen; pixels of unseen ones are ignored.

    Args:
        head: to be trained; the image-text model stays as it is.
        images: in [0, 1].
        labels: indices into `classes`; -1 and 255 are ignored.
        classes: names of all.
        unseen: those that training must not see.
        transductive: after half of the steps, pixels of unseen classes get the likeliest of the unseen names, so that
            these names, but not their pixels' labels, are known in training.
        steps, batch, lr, weight_decay: of AdamW, with polynomial decay of power 0.9.
        released: pixels that are ignored count as the released code has it, see `losses.FocalDice`.
        tokens: what the tower's first block is given of the images (`embed_once`), where it is known.
        seed: of the batches.

    Raises:
        UsageError: an unseen class that is none, no seen one, or pictures and labels that do not belong together.

    Paper: Cascade-CLIP: Cascaded Vision-Language Embeddings Alignment for Zero-Shot Semantic Segmentation (ICML 2024,
    arXiv 2406.00670).
    """
    task = cascade_task(
        head, images, labels, classes, steps=steps, batch=batch, unseen=unseen, transductive=transductive,
        released=released, tokens=tokens, seed=seed,
    )  # fmt: skip
    result = run_task(task, steps=steps, lr=lr, weight_decay=weight_decay, schedule=decay)
    return CascadeTraining(head, np.asarray(result.history["loss"]))
