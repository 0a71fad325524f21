"""What the tasks that run a diffusion model do alike: opening it, progress, previews, pictures in and out, scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import open_image, to_tensor
from binderclip.errors import UsageError
from binderclip.generate.denoisers.context import SamplingHook, StepContext
from binderclip.generate.edit.full_size import add_change, changed_share
from binderclip.models.files.devices import resolve_device
from binderclip.tasks.diffusion import DEFAULT_DENOISER
from binderclip.tasks.events import Counted, Previewed, Saved, emit, start, warn
from binderclip.tasks.models import image_text_model, latent_denoiser
from binderclip.tasks.report.sheet import save_picture

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.generate import LatentDenoiser

JUDGES = ("small", "small-b")
"""Models whose agreement with a text is said of every picture. The bundled denoiser reads its prompts by the first, so
the second is the one that it cannot please by accident."""
LIMITS = (
    f"{DEFAULT_DENOISER} knows plain shapes and, roughly, emoji of 64 px: for photographs name the folder of a Stable "
    "Diffusion pipeline as the model"
)
"""Said wherever the bundled denoiser works, which nobody would take for more after a look."""
COARSE, TOO_COARSE = 3, 4
"""Pixels of a picture for one of the model: from the first that is said, above the second new content is a blur."""


def opened_denoiser(name: str, device: str, personal: str | None = None) -> LatentDenoiser:
    """The denoiser of a request, said as a stage.

    Args:
        name, device: as `latent_denoiser` takes them.
        personal: folder of a word that `personalize` has taught it.

    Raises:
        UsageError: no such denoiser or device. CheckpointError: a folder that lacks weights or has damaged ones.
        NotSupported: a pipeline of another layout.
    """
    resolve_device(device)  # refused before the weights are read
    start("loading the diffusion model")
    denoiser = latent_denoiser(name, device=device)
    if name == DEFAULT_DENOISER:
        warn(LIMITS)
    if personal is None:
        return denoiser
    from binderclip.generate import PersonalConcept

    return PersonalConcept.load(personal).apply(denoiser)


def check_scale(edge: int, side: int, coarse: bool, instead: str = "") -> None:
    """Refuse or say, before a model works, that what it paints is much coarser than the picture around it.

    Args:
        edge: pixels of the picture that the model sees. side: to which they are reduced.
        coarse: whether it is to be painted all the same.
        instead: another way out, such as a method without a model.

    Raises:
        UsageError: it would be a blur, and nobody asked for one.
    """
    scale = edge / side
    if scale > TOO_COARSE and not coarse:
        raise UsageError(
            f"the mask and what is around it are {edge} px, which the model sees at {side} px: what it paints would be "
            f"a blur, at 1/{scale:.0f} of the picture's detail. Give a smaller mask, the folder of a larger model by "
            f"--model{instead}, or --coarse"
        )
    if scale >= COARSE:
        warn(f"{edge} px go through the model at {side} px: new content has 1/{scale:.0f} of the picture's detail")


def noise_generator(seed: int) -> torch.Generator:
    """The generator of a request's noise, which is on the CPU so that a seed means the same everywhere."""
    return torch.Generator().manual_seed(seed)


class StepProgress(SamplingHook):
    """Says every step of `sample` as an event, and offers the predicted clean pictures to who looks.

    One hook may follow several samplings, whose steps are counted together, so that the time left is that of all.

    Args:
        total: steps of all samplings.
        show: from predicted clean states to pictures [B, 3, H, W], such as `denoiser.decode`; None for no preview.
        message: what is counted.
    """

    def __init__(self, total: int, show: Callable[[Tensor], Tensor] | None = None, message: str = "step") -> None:
        self.total, self.show, self.message, self.done = total, show, message, 0

    def before(self, step: StepContext) -> Tensor:
        """Says that the step begins, where it may be stopped."""
        emit(Counted(min(self.done + 1, self.total), self.total, self.message, begun=True))
        return step.x

    def on_x0(self, step: StepContext, x0: Tensor) -> Tensor:
        """The clean pictures, offered."""
        show = self.show
        if show is not None:
            emit(Previewed(lambda: [picture_of(pixels) for pixels in show(x0)]))
        return x0

    def after(self, step: StepContext, x: Tensor) -> Tensor:
        """The state, and a step more that is done."""
        self.done += 1
        return x


@dataclass
class ForwardCount:
    """Forwards of a network so far.

    Attributes:
        calls: how often it ran. rows: pictures that went through it in all.
    """

    calls: int = 0
    rows: int = 0


@contextmanager
def counted_forwards(denoiser: LatentDenoiser, total: int = 0, message: str = "forward") -> Iterator[ForwardCount]:
    """In here the network's forwards are counted; with a total each is an event, at which the task may be stopped.

    For what has no steps of its own to follow, such as an inversion or a training.

    Args:
        denoiser: whose network is watched.
        total: forwards that are expected; 0 counts in silence.
        message: what is counted.
    """
    count = ForwardCount()

    def called(module: Any, args: tuple[Any, ...], output: Any) -> None:
        count.calls += 1
        count.rows += len(args[0])
        if total:
            emit(Counted(min(count.calls, total), total, message))

    handle = denoiser.unet.register_forward_hook(called)
    try:
        yield count
    finally:
        handle.remove()


# --- pictures that go through a model ---------------------------------------------------------------------------------


FADING = 0.1
"""Of the square's side: how wide a change fades where the picture goes on beyond the square."""


@dataclass(frozen=True)
class ModelPicture:
    """A picture as a model takes it: its middle square at the model's side.

    Attributes:
        original: as it was opened, RGB.
        box: (left, top, right, bottom) of the square in it.
        pixels: the square at the model's side, in [0, 1].
    """

    original: Image.Image
    box: tuple[int, int, int, int]
    pixels: Float[Tensor, "1 3 s s"]

    @property
    def cropped(self) -> bool:
        """Whether the square is not all of it."""
        return self.box != (0, 0, *self.original.size)

    @property
    def scale(self) -> float:
        """Pixels of the square's side for one of the model."""
        return (self.box[2] - self.box[0]) / int(self.pixels.shape[-1])

    @property
    def square(self) -> Float[Tensor, "1 3 e e"]:
        """The square at its own size, in [0, 1]."""
        return to_tensor(self.original.crop(self.box))[None]

    def in_words(self) -> str:
        """What was done to it, in words."""
        width, height = self.original.size
        side = self.pixels.shape[-1]
        crop = "its middle square " if self.cropped else ""
        resized = "" if self.box[2] - self.box[0] == side else f"{crop}resized to {side} x {side}"
        return f"{width} x {height} px, {resized or f'{crop}as it is'}"

    def restored(self, edited: Float[Tensor, "1 3 s s"], before: Float[Tensor, "1 3 s s"] | None = None) -> Image.Image:
        """The edited square in its place in the original, at the original's size.

        Args:
            edited: at the model's side.
            before: what the model gives of the unedited square; where both are alike the original's pixels stay, and
                towards sides where the picture goes on. None replaces the whole square.
        """
        size = self.box[3] - self.box[1], self.box[2] - self.box[0]
        large = F.interpolate(edited.float().cpu(), size, mode="bicubic", align_corners=False).clamp(0, 1)
        if before is not None:
            share = changed_share(before.float().cpu(), edited.float().cpu())
            share = F.interpolate(share, size, mode="bilinear", align_corners=False)
            large = torch.lerp(self.square, large, share * self._fading())
        return self._with_square(large)

    def recoloured(self, edited: Float[Tensor, "1 3 s s"], before: Float[Tensor, "1 3 s s"]) -> Image.Image:
        """The original with what the edit changed, at its own size and with its own detail (`generate.add_change`).

        The change fades towards sides of the square where the picture goes on, so that no seam stands there.

        Args:
            edited, before: at the model's side, what the model gives of the square edited and unedited.
        """
        changed = add_change(self.square, before.float().cpu(), edited.float().cpu())
        return self._with_square(torch.lerp(self.square, changed, self._fading()))

    def _fading(self) -> Float[Tensor, "1 1 e e"]:
        """1 inside of the square, falling to 0 over a part of it at those sides where the picture goes on."""
        left, top, right, bottom = self.box
        width, height = self.original.size
        edge = right - left
        rising = ((torch.arange(edge) + 0.5) / (FADING * edge)).clamp(max=1)
        weights = []
        for first, last in ((top > 0, bottom < height), (left > 0, right < width)):
            weight = torch.ones(edge)
            weight = torch.minimum(weight, rising) if first else weight
            weights.append(torch.minimum(weight, rising.flip(0)) if last else weight)
        return (weights[0][:, None] * weights[1])[None, None]

    def _with_square(self, pixels: Float[Tensor, "1 3 e e"]) -> Image.Image:
        whole = self.original.copy()
        whole.paste(picture_of(pixels[0]), self.box[:2])
        return whole


def model_picture(source: Any, side: int) -> ModelPicture:
    """Open a picture and take its middle square at a model's side.

    Args:
        source: anything that `open_image` takes.
        side: in pixels.

    Raises:
        DataError: it cannot be read.
    """
    from PIL import Image

    original = open_image(source, mode="RGB")
    edge = min(original.size)
    left, top = (original.width - edge) // 2, (original.height - edge) // 2
    box = (left, top, left + edge, top + edge)
    square = original.crop(box)
    if edge != side:
        square = square.resize((side, side), Image.Resampling.LANCZOS)
    return ModelPicture(original, box, to_tensor(square)[None])


def picture_of(pixels: Float[Tensor, "3 H W"]) -> Image.Image:
    """Values in [0, 1] as an 8-bit picture."""
    from PIL import Image

    values = (255 * pixels.detach().float().cpu().clamp(0, 1)).round().byte()
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def save_pictures(pictures: Sequence[Image.Image], paths: Sequence[Path]) -> None:
    """Write pictures, each said as an event.

    Raises:
        OutputError: one cannot be written; those before it are there.
    """
    for picture, path in zip(pictures, paths, strict=True):
        save_picture(picture, path)
        emit(Saved(path))


# --- what a picture is worth ------------------------------------------------------------------------------------------


@torch.no_grad()
def agreement(pictures: Sequence[Any], texts: Sequence[str], *, device: str = "cpu") -> dict[str, list[float]]:
    """How well each picture fits its text: the cosine of both, by each of `JUDGES`, which are loaded once.

    Args:
        pictures: anything that `encode_image` takes, such as PIL pictures.
        texts: one for each.
        device: where the judges run.

    Returns:
        The cosines by the name of the judge.
    """
    cosines = {}
    for name in JUDGES:
        model = image_text_model(name, device=device)
        images = model.encode_image(list(pictures), normalize=True)
        once = list(dict.fromkeys(texts))
        words = model.encode_text(once, normalize=True)[[once.index(text) for text in texts]]
        cosines[name] = (images * words).sum(1).tolist()
    return cosines
