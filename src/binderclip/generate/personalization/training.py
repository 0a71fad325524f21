"""A new word taught to a denoiser by a few pictures (Custom Diffusion, and ClassDiffusion's loss)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.errors import DataError, UsageError
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.denoisers.prompts import Prompt
from binderclip.generate.personalization.concept import (
    PersonalConcept,
    PersonalPromptEncoder,
    denoiser_identity,
    text_attention,
    with_own_attention,
)
from binderclip.losses import SemanticPreservationLoss
from binderclip.numeric import check_number, check_whole

__all__ = ["PersonalizationStep", "personalize", "placed"]

MOST_PICTURES = 1000
SMALLEST, LARGEST = 0.25, 4.0  # sizes of a picture in its frame, beyond which little of it is seen


@dataclass(frozen=True)
class PersonalizationStep:
    """Figures of one step.

    Attributes:
        number, total: of the step, and how many.
        denoising: mean squared error of the predicted noise.
        cosine: of the new phrase and its class's, before the step.
        loss: the sum that was descended.
    """

    number: int
    total: int
    denoising: float
    cosine: float
    loss: float


def personalize(
    denoiser: LatentDenoiser,
    images: Float[Tensor, "N 3 H W"],
    class_name: str,
    *,
    word: str = "<new1>",
    init: str | None = None,
    spl_weight: float = 1.0,
    released: bool = False,
    steps: int = 500,
    batch_size: int = 2,
    learning_rate: float = 2e-5,
    word_rate: float | None = None,
    weight_decay: float = 1e-2,
    sizes: tuple[float, float] = (0.6, 1.4),
    flip: bool = True,
    generator: torch.Generator | None = None,
    on_step: Callable[[PersonalizationStep], object] | None = None,
) -> PersonalConcept:
    """Teach a denoiser a word for what a few pictures show, so that the word still composes with others.

    A new token's vector and the keys and values of text attention learn to predict the noise in the pictures under
    "photo of a WORD CLASS"; everything else is frozen (Custom Diffusion). The preservation loss keeps the phrase "a
    photo of a WORD CLASS" near "a photo of a CLASS" in the text tower; its gradient reaches the vector alone.

    Args:
        denoiser: of which nothing changes; the result is applied to it.
        images: in [0, 1], 3 to 6 of one thing, of sides that fit the network.
        class_name: what it is one of, such as "dog".
        word: the new one, in angle brackets.
        init: words whose mean vector it begins as; default the class name.
        spl_weight: of the preservation loss; 0 is Custom Diffusion.
        released: as the authors' code does it: in the preservation loss the word has no position embedding and the
            sentence is read off at the word, which never sees the class name behind it; the denoising loss is summed
            over latent channels.
        steps: of AdamW, of a constant rate.
        batch_size: pictures a step, drawn with replacement.
        learning_rate: of keys and values; default the authors' 1e-5 a picture.
        word_rate: of the word's vector; default `learning_rate`.
        weight_decay: of all that is trained.
        sizes: least and largest side of a picture in its frame, drawn uniformly. Below 1 it stands somewhere in a
            frame whose rest the loss leaves out; above 1 a part of it is seen.
        flip: whether every second picture is mirrored, at random.
        generator: of all draws, on the CPU; default torch's.
        on_step: is given the figures of each step.

    Returns:
        What was learnt. Stopped by Ctrl-C after the first step it holds what was learnt until then.

    Raises:
        UsageError: no pictures, a setting out of range, a phrase that is longer than what is read, or a denoiser that
            has a new word already.
        NotSupported: a network without text attention.
        DataError: a loss that is not finite.

    Papers: ClassDiffusion: More Aligned Personalization Tuning with Explicit Class Guidance (arXiv 2405.17532);
        Multi-Concept Customization of Text-to-Image Diffusion (arXiv 2212.04488).
    """
    _check_settings(images, class_name, word, spl_weight, steps, batch_size, weight_decay, sizes)
    check_number("learning_rate", learning_rate, above=0)
    word_rate = learning_rate if word_rate is None else word_rate
    check_number("word_rate", word_rate, above=0)
    if isinstance(denoiser.text, PersonalPromptEncoder):
        raise UsageError(f"the denoiser knows {denoiser.text.word} already: teach a denoiser without a new word")
    text = PersonalPromptEncoder(denoiser.text, word, _first_vector(denoiser, init or class_name))
    _check_length(text, class_name)
    unet = with_own_attention(denoiser)
    trained = [parameter for name, parameter in unet.named_parameters() if name in set(text_attention(denoiser))]
    learning = [*trained, text.vector]
    for parameter in learning:
        parameter.requires_grad_(True)
    student = denoiser.with_parts(unet=unet, text=text)
    optimizer = torch.optim.AdamW(
        [{"params": trained, "lr": learning_rate}, {"params": [text.vector], "lr": word_rate}],
        weight_decay=weight_decay,
    )
    preservation = _Preservation(text, class_name, released)
    history: list[dict[str, float]] = []
    interrupted = False
    try:
        for number in range(1, steps + 1):
            batch, seen = _drawn(images, batch_size, sizes, flip, generator)
            denoising = _denoising_loss(student, batch, seen, f"photo of a {word} {class_name}", generator)
            denoising = denoising * student.channels if released else denoising  # a mask of one channel, see above
            distance = preservation()
            loss = denoising + spl_weight * distance
            for parameter, gradient in zip(learning, torch.autograd.grad(loss, learning), strict=True):
                parameter.grad = gradient  # of these alone, whatever else may be unfrozen
            optimizer.step()
            values = {"denoising": denoising, "cosine": 1 - distance, "loss": loss}
            figures = {name: float(value.detach()) for name, value in values.items()}
            if not math.isfinite(figures["loss"]):
                raise DataError(f"the loss of step {number} is not finite: a lower learning rate may help")
            history.append(figures)
            if on_step is not None:
                on_step(PersonalizationStep(number, steps, **figures))
    except KeyboardInterrupt:
        if not history:
            raise
        interrupted = True
    settings = {
        "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "word_rate": word_rate,
        "spl_weight": spl_weight, "released": released, "init": init or class_name, "pictures": len(images),
    }  # fmt: skip
    parameters = dict(unet.named_parameters())
    weights = {name: parameters[name].detach().clone() for name in text_attention(denoiser)}
    return PersonalConcept(
        word, class_name, text.vector.detach().clone(), weights, denoiser_identity(denoiser), len(history), interrupted,
        settings, history,
    )  # fmt: skip


class _Preservation:
    """The distance of the new phrase, as the word is now, from the class's, which is encoded once."""

    def __init__(self, text: PersonalPromptEncoder, class_name: str, released: bool) -> None:
        self.text, self.released = text, released
        # the release overwrites the embedded word, position and all, and reads the largest id, which is the word's
        self.encoder = PersonalPromptEncoder(text.base, text.word, text.vector, positioned=not released)
        self.phrase = f"a photo of a {text.word} {class_name}"
        with torch.no_grad():
            self.target = self.encoder.pooled([f"a photo of a {class_name}"])
        self.loss = SemanticPreservationLoss()

    def __call__(self) -> Float[Tensor, ""]:
        return self.loss(self.encoder.pooled([self.phrase], at_word=self.released), self.target)


def _denoising_loss(
    student: LatentDenoiser,
    batch: Float[Tensor, "B 3 H W"],
    seen: Float[Tensor, "B 1 H W"],
    phrase: str,
    generator: torch.Generator | None,
) -> Float[Tensor, ""]:
    """Mean over the pictures of the mean squared error where the picture is."""
    device = next(student.unet.parameters()).device
    with torch.no_grad():
        latents = student.encode(batch.to(device))
    inside = -functional.max_pool2d(-seen.to(device), student.factor)  # a latent place of which all pixels are seen
    t = torch.randint(0, len(student.schedule), (len(batch),), generator=generator).to(device)
    noise = torch.randn(latents.shape, generator=generator).to(latents)
    states = student.text.states([phrase])[0]  # with a graph to the word's vector
    prediction = student(student.schedule.add_noise(latents, noise, t), t, [Prompt(phrase, states, states)])
    error = (inside * (prediction - noise).square()).sum((1, 2, 3))
    return (error / (student.channels * inside.sum((1, 2, 3))).clamp(min=1)).mean()


def _drawn(
    images: Float[Tensor, "N 3 H W"],
    count: int,
    sizes: tuple[float, float],
    flip: bool,
    generator: torch.Generator | None,
) -> tuple[Float[Tensor, "B 3 H W"], Float[Tensor, "B 1 H W"]]:
    """Pictures of other sizes in their frames, some mirrored, and where they are."""
    batch, seen = [], []
    for number in torch.randint(len(images), (count,), generator=generator).tolist():
        image = images[number]
        if flip and bool(torch.rand((), generator=generator) < 0.5):
            image = image.flip(-1)
        if sizes == (1.0, 1.0):
            framed, mask = image, torch.ones_like(image[:1])
        else:
            size, top, left = torch.rand(3, generator=generator).tolist()
            framed, mask = placed(image, sizes[0] + size * (sizes[1] - sizes[0]), top, left)
        batch.append(framed)
        seen.append(mask)
    return torch.stack(batch), torch.stack(seen)


def placed(
    image: Float[Tensor, "3 H W"], size: float, top: float, left: float
) -> tuple[Float[Tensor, "3 H W"], Float[Tensor, "1 H W"]]:
    """A picture scaled in a frame of its own sides, and the mask of where it is.

    Args:
        image: the picture.
        size: of the picture, 1 for the frame's; above it a part is seen.
        top, left: where it stands, as parts in [0, 1] of the room that is left, or of what is cut off.

    Returns:
        The frame, grey around the picture, and 1 where the picture is.
    """
    height, width = image.shape[-2:]
    rows, columns = max(1, round(size * height)), max(1, round(size * width))
    scaled = functional.interpolate(image[None], (rows, columns), mode="bilinear", antialias=True)[0].clamp(0, 1)
    first_row, first_column = round(top * abs(height - rows)), round(left * abs(width - columns))
    if size >= 1:
        cut = scaled[:, first_row : first_row + height, first_column : first_column + width]
        return cut, torch.ones_like(cut[:1])
    frame, mask = torch.full_like(image, 0.5), torch.zeros_like(image[:1])
    where = (..., slice(first_row, first_row + rows), slice(first_column, first_column + columns))
    frame[where], mask[where] = scaled, 1.0
    return frame, mask


def _first_vector(denoiser: LatentDenoiser, words: str) -> Float[Tensor, " D"]:
    ids = denoiser.text.tokens(words)
    if not ids:
        raise UsageError(f"init must be words that the text tower knows, got {words!r}")
    with torch.no_grad():
        return denoiser.text.word_vectors(torch.tensor(ids)).mean(0).clone()


def _check_length(text: PersonalPromptEncoder, class_name: str) -> None:
    count, most = len(text.tokens(f"a photo of a {text.word} {class_name}")), text.length - 2  # start and end
    if count > most:
        raise UsageError(f"class_name {class_name!r} is too long: with it a phrase has {count} tokens, {most} are read")


def _check_settings(
    images: Tensor,
    class_name: str,
    word: str,
    spl_weight: float,
    steps: int,
    batch_size: int,
    weight_decay: float,
    sizes: tuple[float, float],
) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not 1 <= len(images) <= MOST_PICTURES:
        raise UsageError(f"images must be 1 to {MOST_PICTURES} pictures (N, 3, H, W), got shape {tuple(images.shape)}")
    if not bool(images.isfinite().all()):
        raise UsageError("images must be finite")
    if not class_name.strip() or word in class_name:
        raise UsageError(f"class_name must be what the pictures show, such as 'dog', got {class_name!r}")
    check_number("spl_weight", spl_weight, least=0)
    check_whole("steps", steps, least=1)
    check_whole("batch_size", batch_size, least=1)
    check_number("weight_decay", weight_decay, least=0)
    low, high = sizes
    if not SMALLEST <= low <= high <= LARGEST:
        raise UsageError(f"sizes must be two rising numbers in [{SMALLEST}, {LARGEST}], got {sizes}")
