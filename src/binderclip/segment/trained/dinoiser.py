"""Two small convolutions that teach an image-text tower what a self-supervised one knows (CLIP-DINOiser)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.folders import bundled_of, read_folder, write_folder
from binderclip.models.files.released import NameTable, Rename, copy_renamed, read_released
from binderclip.models.towers import Record
from binderclip.segment.parts.affinity import External, cosines
from binderclip.segment.parts.context import Context, Frame, layer_at, open_windows, records, resample, to_map
from binderclip.segment.parts.guided_pooling import BackgroundSeed, Likeness, Saliency

KIND = "dinoiser"
BUNDLED = "small-dinoiser"
"""The head for the bundled `small`."""


class DINOiserHead(nn.Module):
    """From patch tokens of an earlier block to features whose cosines say what belongs together, and to saliency.

    Args:
        width: channels of the tokens.
        dim: channels of the features.
        kernel: side of their convolution's kernel, odd.
        layer: of which block the normalised input of the MLP is read: an index, or a share of the depth as in
            `layer_at`. The paper's is the 10th of 12.

    Raises:
        UsageError: an even kernel.

    Paper: Wysoczanska et al., CLIP-DINOiser: Teaching CLIP a few DINO tricks (ECCV 2024, arXiv 2312.12359).
    """

    def __init__(self, width: int, *, dim: int = 256, kernel: int = 3, layer: float = 10 / 12) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UsageError(f"kernel must be odd, not {kernel}")
        self.width, self.layer = width, layer
        self.settings = {"width": width, "dim": dim, "kernel": kernel, "layer": layer}
        self.alike = nn.Conv2d(width, dim, kernel, padding=kernel // 2, padding_mode="replicate")
        self.object = nn.Conv2d(width, 1, 1)

    def forward(self, x: Float[Tensor, "B D h w"]) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B h w"]]:
        """Unit features, and logits of saliency (which sees the direction of the tokens only)."""
        return F.normalize(self.alike(x), dim=1), self.object(F.normalize(x, dim=1))[:, 0]

    def tokens(self, context: Context) -> Float[Tensor, "B D h w"]:
        """What the head reads of windows.

        Raises:
            UsageError: a tower of another width.
        """
        x = context.site("ln2", layer_at(self.layer, context.tower.depth))[:, context.prefix :].float()
        if x.shape[-1] != self.width:
            raise UsageError(
                f"this head was trained for a tower of width {self.width}, and this one has {x.shape[-1]}: train one "
                "with segment.train_dinoiser(model, images), or take the preset clip_dinoiser-teacher"
            )
        return to_map(x, context.grid)

    def save(self, folder: str | Path, *, card: dict[str, Any] | None = None, dtype: str = "float32") -> Path:
        """Write a folder that `Student(folder)` opens."""
        return write_folder(
            folder, kind=KIND, config={"head": self.settings}, state=self.state_dict(), card=card or {}, dtype=dtype
        )

    @classmethod
    def open(cls, folder: str | Path) -> DINOiserHead:
        """Read a folder that `save` wrote.

        Raises:
            CheckpointError: no such folder, another kind of model, or damaged weights.
        """
        read = read_folder(folder, KIND)
        head = configured(lambda: cls(**read.config["head"]), folder)
        guarded(lambda: head.load_state_dict(read.state), folder, "this version")
        return head.eval()

    @classmethod
    def from_released(cls, path: str | Path) -> DINOiserHead:
        """The head of the authors' `last.pt`, which learned on `open_clip:ViT-B-16/laion2b_s34b_b88k`.

        `save` writes the folder that `Student` opens; the paper's threshold is 0.2.

        Args:
            path: of the file; nothing in it is run.

        Raises:
            CheckpointError: the file cannot be read, or holds something else.
        """
        state = read_released(path)
        weight = state.get("obj_proj.weight")
        if weight is None or weight.ndim != 4:
            raise CheckpointError(f"{path} holds no head of CLIP-DINOiser: there is no convolution obj_proj")
        head = cls(weight.shape[1], dim=weight.shape[0], kernel=weight.shape[2])
        copy_renamed(head.state_dict(), state, NAMES, path)
        return head.eval()


NAMES = NameTable(
    "DINOiserHead",
    (
        Rename(r"obj_proj\.(weight|bias)", r"alike.\1"),
        Rename(r"bkg_decoder\.(weight|bias)", r"object.\1"),
        Rename(r"clip_backbone\..*", None),  # the frozen tower, which older files repeat
    ),
)
"""Names of CLIP-DINOiser's official program."""


@lru_cache(maxsize=4)
def _opened(source: str) -> DINOiserHead:
    bundled = bundled_of(KIND)
    if source in bundled:
        return DINOiserHead.open(bundled[source])
    if Path(source).is_dir():
        return DINOiserHead.open(source)
    raise UsageError(f"there is no head or folder {source!r}; bundled: {', '.join(bundled) or 'none'}")


@dataclass(frozen=True)
class Student:
    """Features of the segmenter's own tower, by a trained head: no other model runs.

    Args:
        head: a `DINOiserHead`, a folder it was saved to, or the name of a bundled one.

    Raises:
        UsageError: (when called) no such head, or one for a tower of another width.
        CheckpointError: (when called) a damaged folder.

    Paper: CLIP-DINOiser: Teaching CLIP a few DINO tricks (arXiv 2312.12359).
    """

    head: str | DINOiserHead = BUNDLED

    @property
    def record(self) -> Record:
        """The normalised inputs of the blocks' MLPs; which block is meant depends on the tower."""
        return Record("ln2")

    def __call__(self, context: Context) -> Float[Tensor, "B C h w"]:
        """Unit features of every window."""
        return self._both(context)[0]

    def saliency(self, context: Context) -> Float[Tensor, "B h w"]:
        """In [0, 1]."""
        return self._both(context)[1].sigmoid()

    def _both(self, context: Context) -> tuple[Tensor, Tensor]:
        key = ("student", self)
        if key not in context.notes:
            head = _opened(self.head) if isinstance(self.head, str) else self.head
            head = head.to(context.pixels.device)
            with torch.no_grad():
                context.notes[key] = head(head.tokens(context))
        return context.notes[key]


@dataclass(frozen=True)
class StudentSaliency:
    """The saliency of a `Student`, as a part of `GuidedPooling`.

    Args:
        student: whose.
    """

    student: Student = field(default_factory=Student)

    @property
    def record(self) -> Record:
        """What the student wants."""
        return self.student.record

    def __call__(self, context: Context) -> Float[Tensor, "B h w"]:
        """In [0, 1]."""
        return self.student.saliency(context)


def train_dinoiser(
    model: Any,
    images: Float[Tensor, "N 3 H W"],
    *,
    teacher: Likeness | None = None,
    saliency: Saliency | None = None,
    steps: int = 6300,
    lr: float = 5e-5,
    background_lr: float = 1e-2,
    batch_size: int = 16,
    threshold: float = 0.2,
    dim: int = 256,
    layer: float = 10 / 12,
    seed: int = 0,
) -> DINOiserHead:
    """Train a head on pictures without labels; towers and teachers rest, so that each picture passes them once.

    The loss is binary cross-entropy of the features' cosines, negative ones cut off and taken as logits as they are,
    with whether the teacher's cosine reaches the threshold; and of the saliency with what the teacher says stands out.
    As the first logits end at 1, that loss ends well above 0. Augment the pictures beforehand, if at all.

    Args:
        model: an image-text model.
        images: in [0, 1], of one size that is a multiple of the tower's patch.
        teacher: features of the windows; default the values of the bundled `small-dino`.
        saliency: what stands out, above 0.5; default `BackgroundSeed`.
        steps, lr, background_lr, batch_size: of AdamW; the rates are tenths of themselves in the last fifth.
        threshold: as in `GuidedPooling`.
        dim, layer: of the head.
        seed: of initialisation and order.

    Raises:
        UsageError: no picture, or sides that are no multiple of the patch.

    Paper: Wysoczanska et al., CLIP-DINOiser: Teaching CLIP a few DINO tricks (ECCV 2024, arXiv 2312.12359).
    """
    from binderclip.fit import fit

    tower = model.image_tower
    if images.ndim != 4 or not len(images) or any(side % tower.patch for side in images.shape[-2:]):
        raise UsageError(
            f"images must be (N, 3, H, W) with sides that are multiples of {tower.patch}, not {tuple(images.shape)}"
        )
    teacher = External("small-dino", of="v") if teacher is None else teacher
    saliency = BackgroundSeed() if saliency is None else saliency
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = DINOiserHead(tower.width, dim=dim, layer=layer)
    head.to(model.device)
    lessons = _lessons(model, images, head, teacher, saliency)

    def step(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, alike, stands_out = (part[rows] for part in lessons)
        return dinoiser_loss(head, tokens, alike, stands_out, threshold=threshold)

    groups = [
        {"params": list(head.alike.parameters()), "lr": lr},
        {"params": list(head.object.parameters()), "lr": background_lr},
    ]
    fit(
        step, groups, _batches(len(images), batch_size, steps, seed), steps=steps, lr=lr,
        schedule=lambda progress: 1.0 if progress < 0.8 else 0.1, module=head,
    )  # fmt: skip
    return head.eval()


def dinoiser_loss(
    head: DINOiserHead,
    tokens: Float[Tensor, "B D h w"],
    alike: Float[Tensor, "B C h w"],
    stands_out: Float[Tensor, "B h w"],
    *,
    threshold: float = 0.2,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The loss of `train_dinoiser`, and its two parts.

    Args:
        head: in training.
        tokens: it reads.
        alike: features of the teacher.
        stands_out: saliency of the teacher.
        threshold: of the teacher's cosines.
    """
    features, logits = head(tokens)
    together = (cosines(alike) >= threshold).float()
    first = F.binary_cross_entropy_with_logits(cosines(features).clamp(min=0), together)
    second = F.binary_cross_entropy_with_logits(logits, (stands_out > 0.5).float())
    return first + second, {"alike": first.detach(), "background": second.detach()}


@torch.no_grad()
def _lessons(
    model: Any, images: Tensor, head: DINOiserHead, teacher: Likeness, saliency: Saliency
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, the teacher's features and its saliency of every picture, on the tower's grid."""
    record = records(teacher, saliency, Student(head))
    training, parts = model.training, []
    model.eval()
    try:
        for pixels in images.to(model.device).split(8):
            frame = Frame(model, pixels, pixels)
            context = open_windows(frame, pixels, [(0, 0)] * len(pixels), record)
            stands_out = resample(saliency(context)[:, None].float(), context.grid)[:, 0]
            parts.append((head.tokens(context), resample(teacher(context), context.grid), stands_out))
    finally:
        model.train(training)
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))  # type: ignore[return-value]


def _batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = 0
    while drawn < steps:
        for rows in torch.randperm(count, generator=generator).split(size):
            yield rows
            drawn += 1
