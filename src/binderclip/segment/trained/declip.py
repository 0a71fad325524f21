"""Fine-tune an image tower so that its dense map says what is where, without labels (DeCLIP)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import roi_align

from binderclip.errors import UsageError
from binderclip.losses.dense.distillation import content_distillation, context_distillation, region_correlation
from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.models.layers.freezing import frozen
from binderclip.models.towers import Record, Recorder, Site
from binderclip.numeric import check_number
from binderclip.segment.parts.affinity import External, cosines, vision_model
from binderclip.segment.parts.context import Context, Frame, dense_tower, head, open_windows, records, resample
from binderclip.segment.parts.guided_pooling import Likeness
from binderclip.segment.parts.last_block import LastBlock
from binderclip.segment.parts.resolution import resized
from binderclip.segment.parts.rewire import SelfSelf
from binderclip.segment.trained.tuned import tower_parameters
from binderclip.settings import check_choice

__all__ = ["AttentionChain", "DeCLIP", "grid_boxes", "train_declip"]

#: Context -> (B, N, N), rows that sum to 1, on the grid of the vision model
Completion: TypeAlias = "Callable[[Context], Tensor]"


@dataclass(frozen=True)
class AttentionChain:
    """The attention between patches of all blocks of a vision tower, one after the other: A[1] A[2] ... A[L].

    Means over heads, without other tokens, rows that sum to 1. The paper's maps are those of a diffusion model's
    U-Net; a callable that gives such products takes this one's place.

    Args:
        source: name of a vision tower, as in `models.load_vision`.
    """

    source: str = "small-dino"

    @torch.no_grad()
    def __call__(self, context: Context) -> Float[Tensor, "B N N"]:
        """Rows that sum to 1."""
        model, pixels = vision_model(self.source, context.pixels)
        tower = model.image_tower
        recorder = Recorder(Record("attn"), tower.depth)
        tokens = tower.embed(pixels)
        tower.run(tokens, record=recorder)
        chain: Tensor | None = None
        for layer in range(tower.depth):
            weights = recorder.values[Site("attn", layer)].float().mean(1)[:, tokens.prefix :, tokens.prefix :]
            weights = weights / weights.sum(-1, keepdim=True)
            chain = weights if chain is None else chain @ weights
        assert chain is not None
        return chain


@dataclass(frozen=True, kw_only=True)
class DeCLIP:
    """The loss of DeCLIP: content from crops of the picture, context from a vision model, each by features of its own.

    The last block runs by its queries' likeness alone (softmax(q q^T / sqrt(d)) v, no residual sum, no MLP), which
    gives the dense map. Its cells learn what the frozen model says of crops (`content_distillation`); its queries learn
    which patches a vision model finds alike (`context_distillation`). Use what comes of it with the preset `clearclip`.

    Args:
        version: `extended` pools each region's cells by their likeness to the crop, keeps the cells of a region as
            alike as the vision model has them (`region_correlation`) and compares rows by their divergence;
            `conference` is the earlier paper: one cell a region, distance of rows, nothing completed.
        vision: unit features of the vision model; default the values of the bundled `small-dino`.
        completion: rows of attention that the vision model's cosines are multiplied with (`extended` alone); None
            leaves them as they are.
        cells: side n of the n x n cells of a region (`extended` alone).
        content_weight, context_weight: of the two losses.
        temperature: of the rows' divergence.
        most_rows, most_boxes: of the random grid over a picture whose cells are the crops.
        decoupled: False lets the cells themselves learn the context, in place of the queries; for comparison.

    Raises:
        UsageError: another version, or numbers below 1.

    Papers: Generalized Decoupled Learning for Enhancing Open-Vocabulary Dense Perception (arXiv 2508.11256), and
    DeCLIP: Decoupled Learning for Open-Vocabulary Dense Perception (CVPR 2025, arXiv 2505.04410).
    """

    version: Literal["extended", "conference"] = "extended"
    vision: Likeness = field(default_factory=lambda: External("small-dino", of="v"))
    completion: Completion | None = field(default_factory=AttentionChain)
    cells: int = 4
    content_weight: float = 1.0
    context_weight: float = 0.1
    temperature: float = 1.0
    most_rows: int = 16
    most_boxes: int = 20
    decoupled: bool = True

    def __post_init__(self) -> None:
        check_choice("version", self.version, ("extended", "conference"))
        if min(self.cells, self.most_rows, self.most_boxes) < 1:
            raise UsageError("cells, most_rows and most_boxes must be at least 1")

    def __call__(
        self,
        student: Any,
        teacher: Any,
        images: Float[Tensor, "B 3 H W"],
        generator: torch.Generator,
        size: tuple[int, int] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss of a batch, and its parts.

        Args:
            student: an image-text model that is trained.
            teacher: the same as it was, frozen.
            images: in [0, 1]; crops are cut out of them as they are.
            generator: of the grid of crops.
            size: at which the student sees them, multiples of its patch; None as they are.
        """
        pixels = resized(images, size or (images.shape[-2], images.shape[-1]))
        frame = Frame(student, pixels, pixels)
        context = open_windows(frame, pixels, [(0, 0)] * len(pixels), records(self.vision, _QUERIES, _LAST))
        dense = head(context.tower, _LAST(context)).float()  # (B, E, h, w)
        boxes, owner = grid_boxes(images.shape, generator, self.most_rows, self.most_boxes, dense.shape[-2:])
        with torch.no_grad():
            side = teacher.preprocess.size
            cut = [
                resized(images[b, None, :, y0:y1, x0:x1], side)
                for b, (x0, y0, x1, y1) in zip(owner.tolist(), boxes.tolist(), strict=True)
            ]
            crops = teacher.encode_image(torch.cat(cut)).float().to(dense.device)
            seen = self.vision(context).float()
        extended = self.version == "extended"
        content = content_distillation(
            _regions(dense, boxes, owner, images.shape, self.cells if extended else 1), crops
        )
        parts = {"content": content}
        if extended:
            regions = [_regions(each, boxes, owner, images.shape, self.cells) for each in (dense, seen)]
            parts["regions"] = region_correlation(*regions)
        parts["context"] = self._context(context, dense, seen)
        first = parts["content"] + parts.get("regions", 0.0)
        total = self.content_weight * first + self.context_weight * parts["context"]
        return total, {name: value.detach() for name, value in parts.items()}

    def _context(self, context: Context, dense: Tensor, seen: Tensor) -> Tensor:
        own = _QUERIES(context) if self.decoupled else dense
        student, teacher = cosines(resample(own, (seen.shape[-2], seen.shape[-1]))), cosines(seen)
        if self.version == "conference":
            return context_distillation(student, teacher, rule="rows")
        if self.completion is not None:
            chain = self.completion(context).to(teacher)
            if chain.shape != teacher.shape:
                raise UsageError(f"completion gives {tuple(chain.shape)} for a likeness of {tuple(teacher.shape)}")
            teacher = chain @ teacher
        return context_distillation(student, teacher, rule="divergence", temperature=self.temperature)


_QUERIES = External(of="q")
_LAST = LastBlock(SelfSelf("q", fallback=False))


def grid_boxes(
    shape: torch.Size | tuple[int, ...],
    generator: torch.Generator,
    most_rows: int = 16,
    most_boxes: int = 20,
    grid: torch.Size | tuple[int, ...] | None = None,
) -> tuple[Int[Tensor, "R 4"], Int[Tensor, "R"]]:
    """Cells of a random grid over each picture: m rows, and from half to twice as many columns.

    Args:
        shape: (B, 3, H, W) of the pictures.
        generator: of the grids, one a picture, and of the cells that are kept.
        most_rows: m is at most that, columns too.
        most_boxes: cells that are kept of a picture.
        grid: (h, w) of the map they will be read from: no cell is smaller than one of its own.

    Returns:
        xyxy in whole pixels, half-open, and the row of each one's picture.
    """
    count, height, width = shape[0], shape[-2], shape[-1]
    rows, columns = (most_rows, most_rows) if grid is None else (min(most_rows, grid[0]), min(most_rows, grid[1]))
    boxes, owner = [], []
    for index in range(count):
        m = int(torch.randint(1, rows + 1, (), generator=generator))
        least, most = min((m + 1) // 2, columns), min(2 * m, columns)
        n = int(torch.randint(least, most + 1, (), generator=generator))
        y, x = (torch.linspace(0, side, parts + 1).round().long() for side, parts in ((height, m), (width, n)))
        cells = torch.stack(
            [x[:-1].expand(m, n), y[:-1, None].expand(m, n), x[1:].expand(m, n), y[1:, None].expand(m, n)], -1
        )
        kept = torch.randperm(m * n, generator=generator)[:most_boxes]
        boxes.append(cells.reshape(-1, 4)[kept])
        owner += [index] * len(kept)
    return torch.cat(boxes), torch.tensor(owner)


def _regions(
    maps: Float[Tensor, "B E h w"], boxes: Int[Tensor, "R 4"], owner: Int[Tensor, "R"], shape: torch.Size, cells: int
) -> Float[Tensor, "R E n n"]:
    """Cells of boxes (in pixels of the pictures) out of maps."""
    ratio = boxes.new_tensor([maps.shape[-1], maps.shape[-2]] * 2) / boxes.new_tensor([shape[-1], shape[-2]] * 2)
    placed = torch.cat([owner[:, None].float(), boxes * ratio], 1).to(maps)
    return roi_align(maps, placed, cells, aligned=True)


def train_declip(
    model: Any,
    images: Float[Tensor, "N 3 H W"],
    *,
    objective: DeCLIP | None = None,
    steps: int = 1000,
    lr: float = 1e-5,
    weight_decay: float = 0.1,
    warmup: int | float = 0.1,
    batch_size: int = 16,
    alpha: float = 0.7,
    blocks: int | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
) -> Any:
    """A copy of an image-text model whose image tower has learned from pictures without labels, by AdamW.

    The text tower and the scale stay as they are. `copy.save(folder)` keeps it; `binderclip segment --model FOLDER
    --preset clearclip` uses it.

    Args:
        model: stays as it is, and teaches.
        images: in [0, 1], of one size.
        objective: the loss; default `DeCLIP()`.
        steps, lr, weight_decay, warmup: of AdamW, with a cosine to 0. The paper takes 6 epochs of COCO's pictures and
            1,000 steps of warm-up.
        batch_size: pictures a step.
        alpha: the weights are alpha times the trained ones and 1 - alpha times those of before.
        blocks: train the last ones of so many and the final norm; None trains the whole image tower.
        size: at which the student sees them; see `DeCLIP`. The paper's is 560 pixels a side.
        seed: of the order and the grids.

    Raises:
        UsageError: no picture, sides that are no multiple of the patch, alpha outside [0, 1], or blocks it has not.
        NotSupported: a tower that cannot be opened, or has no attention.
    """
    from binderclip.fit import fit

    patch = dense_tower(model).patch
    seen = size or tuple(images.shape[-2:])
    if images.ndim != 4 or not len(images) or any(side % patch for side in seen):
        raise UsageError(
            f"images must be (N, 3, H, W), seen with sides that are multiples of {patch}, not {tuple(images.shape)} "
            f"seen at {seen}"
        )
    check_number("alpha", alpha, least=0, most=1)
    student = copy.deepcopy(model).eval()
    parameters = tower_parameters(student, blocks)
    if not parameters:
        raise UsageError("blocks=0 leaves nothing to train")
    before = [p.detach().clone() for p in parameters]
    objective = objective or DeCLIP()
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[Tensor]:
        order = torch.Generator().manual_seed(seed + 1)
        while True:
            yield from torch.randperm(len(images), generator=order).split(min(batch_size, len(images)))

    def step(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(student, model, images[rows].to(student.device), generator, size)

    asked = [p.requires_grad for p in student.parameters()]
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    groups = [{"params": parameters, "weight_decay": weight_decay}]
    with frozen(model), fast_gradients(student):
        fit(step, groups, batches(), steps=steps, optimizer="adamw", lr=lr, warmup=warmup)
    with torch.no_grad():
        for parameter, old in zip(parameters, before, strict=True):
            parameter.copy_(alpha * parameter + (1 - alpha) * old)
    for parameter, was in zip(student.parameters(), asked, strict=True):
        parameter.requires_grad_(was)
    return student
