"""What `personalize` does: train a word, and save it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import Counted, Saved, emit, start, warn
from binderclip.tasks.files.inputs import find_images, skip_pictures
from binderclip.tasks.files.outputs import output_folder
from binderclip.tasks.files.results import ask_for_room, save_or_keep
from binderclip.tasks.request import VerbResult
from binderclip.tasks.sampling import model_picture, noise_generator, opened_denoiser
from binderclip.tasks.verbs.personalize.request import PersonalizeRequest

if TYPE_CHECKING:
    from binderclip.generate import LatentDenoiser, PersonalConcept, PersonalizationStep

SMALL_SIDE = 128
"""Sides up to which a model is small enough for higher rates: 200 to 500 steps of the paper's would not move it."""
SMALL_RATE, SMALL_WORD_RATE, PAPER_RATE = 1e-4, 1e-3, 1e-5
BYTES = 4


@dataclass(frozen=True)
class PersonalWord(VerbResult):
    """A word that was learned.

    Attributes:
        concept: what was learned. folder: where it is. count: pictures. skipped: (path, reason) of others.
    """

    request: PersonalizeRequest
    concept: PersonalConcept
    folder: Path
    count: int
    skipped: list[tuple[str, str]]
    complete: bool = True

    @property
    def title(self) -> str:
        first, last = self.concept.history[0], self.concept.history[-1]
        asked = self.request.steps
        steps = number_of(self.concept.steps, "step")
        taken = f"stopped after {steps} of {asked}" if self.concept.interrupted else steps
        return (
            f"{self.concept.word}, a {self.concept.class_name}, of {number_of(self.count, 'picture')}: {taken}; cosine "
            f"of its phrase and its class's {first['cosine']:.3f} before, {last['cosine']:.3f} now"
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Figures of the first step, of the middle and of the last."""
        history = self.concept.history
        places = sorted({0, len(history) // 2, len(history) - 1})
        rows = [(place + 1, *(f"{history[place][name]:.4f}" for name in ("denoising", "cosine"))) for place in places]
        return ("step", "error of the noise", "cosine to the class"), rows

    def places(self) -> list[str]:
        return [f"folder {self.folder}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "token": self.concept.word, "class": self.concept.class_name, "count": self.count,
            "steps": self.concept.steps, "interrupted": self.concept.interrupted, "identity": self.concept.identity,
            "last": dict(self.concept.history[-1]), "folder": self.folder,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "request": self.request.as_document(),
        }  # fmt: skip


def run(request: PersonalizeRequest) -> PersonalWord:
    """Teach a denoiser a word, and save what it learned.

    Raises:
        UsageError: a folder that is not empty, or a phrase that the text tower does not read whole.
        DataError: no picture that can be read, or a loss that is not finite.
        NotSupported: a network without text attention.
        CheckpointError: a folder that lacks weights.
        OutputError: the results have no room.
    """
    from binderclip.generate import personalize

    inputs = find_images(request.images)
    folder = Path(request.out or request.token.strip("<>"))
    if any(output_folder(folder, make=False).glob("*")):
        raise UsageError(f"--out {folder} is a folder that is not empty: give another one")
    denoiser = opened_denoiser(request.model, request.device)
    images, skipped = _pictures(inputs.paths, denoiser.side)
    ask_for_room(folder, _size(denoiser))
    small = denoiser.side <= SMALL_SIDE
    rate = request.lr or (SMALL_RATE if small else PAPER_RATE * request.batch_size)
    start("training")
    concept = personalize(
        denoiser, images, request.class_name, word=request.token, init=request.init, spl_weight=request.preserve,
        released=request.released, steps=request.steps, batch_size=request.batch_size, learning_rate=rate,
        word_rate=request.word_lr or (SMALL_WORD_RATE if small and request.lr is None else rate),
        generator=noise_generator(request.seed), on_step=_said,
    )  # fmt: skip
    save_or_keep(concept.save, folder)  # before any event: a task that was stopped ends at the next one
    if concept.interrupted:
        warn(f"stopped: what was learned in {number_of(concept.steps, 'step')} is saved in {folder}")
    emit(Saved(folder))
    complete = not inputs.exit_code(skipped) and not concept.interrupted
    return PersonalWord(request, concept, folder, len(images), skipped, complete)


def _said(step: PersonalizationStep) -> None:
    figures = {"loss": step.loss, "cosine": step.cosine}
    emit(Counted(step.number, step.total, "step", figures=figures))


def _pictures(paths: list[Path], side: int) -> tuple[Float[Tensor, "N 3 s s"], list[tuple[str, str]]]:
    """The middle squares at the model's side, and (path, reason) of what could not be read."""
    squares, skipped = [], []
    start("reading the pictures")
    for path in paths:
        try:
            squares.append(model_picture(path, side).pixels)
        except DataError as error:
            skipped.append((str(path), str(error)))
    skip_pictures(skipped, left=squares)
    return torch.cat(squares), skipped


def _size(denoiser: LatentDenoiser) -> int:
    """Bytes of what will be saved."""
    from binderclip.generate.personalization.concept import text_attention

    parameters = dict(denoiser.unet.named_parameters())
    return BYTES * (denoiser.text.width + sum(parameters[name].numel() for name in text_attention(denoiser)))
