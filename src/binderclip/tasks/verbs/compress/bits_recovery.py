"""Training of a model in four bits to follow what it was, and whether that helped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from binderclip.compress import PackedWeights, fine_tune_rounded
from binderclip.compress.quantise.fine_tuning import round_again
from binderclip.display import number_of
from binderclip.models.files.saving import save
from binderclip.tasks.events import batches, start, warn
from binderclip.tasks.files.results import save_or_keep
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.verbs.compress.request import CompressRequest
from binderclip.tasks.verbs.compress.sample import SampleHalves, recovery_rows

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.compress import PairedSample
    from binderclip.fit import StepRecord
    from binderclip.models import ImageTextModel


CARD = "bits"
"""Entry of a card: the bits that a model's weights were rounded to."""
BITS = 4
"""Of weights that can be trained rounded."""
INT8 = 8
"""Of weights that are trained before they are rounded: int8 layers pass no gradient."""


class RecoverySteps:
    """Says how far a recovery is, and keeps the model so far where it is interrupted.

    Args:
        request: with the steps, and the folder of the model.
    """

    def __init__(self, request: CompressRequest) -> None:
        self._request, self._done, self._progress = request, 0, batches("step of the recovery")

    def on_step(self, record: StepRecord) -> None:
        """Called behind every step, by `fit`."""
        self._done = record.step
        self._progress(record.step, self._request.steps)

    def keep(self, write: Callable[[Path], Any]) -> None:
        """Save the model as it is, and say so, unless no step was done.

        Args:
            write: saves it as a folder.
        """
        if not self._done:
            return
        out = Path(self._request.out)
        save_or_keep(write, out)
        bits = f", not yet in {INT8} bits and" if self._request.bits == INT8 else ","
        warn(
            f"interrupted after {self._done} of {self._request.steps} steps of the recovery: {short_path(out)} is the "
            f"model so far{bits} without figures"
        )


@dataclass(frozen=True)
class BitsRecovery:
    """What fine-tuning of rounded weights did.

    Attributes:
        steps: of the optimizer.
        rounded, tuned: side -> mean cosine of held-out features to those of the float model, before and after them.
        pictures: that are held out.
        kept: whether the fine-tuned weights are those of the model; else they followed it less well.
    """

    steps: int
    rounded: dict[str, float]
    tuned: dict[str, float]
    pictures: int
    kept: bool

    def remark(self) -> str:
        """What came of it, in a sentence or two."""
        changes = " and ".join(
            f"of {side}s from {self.rounded[side]:.4f} to {self.tuned[side]:.4f}" for side in self.rounded
        )
        moved = (
            f"{number_of(self.steps, 'step')} with rounded weights moved the mean cosine to the features in float32 "
            f"{changes}, on {number_of(self.pictures, 'held-out picture')} and what they are called; pictures of "
            "another kind may lose by it."
        )
        return moved if self.kept else f"{moved} They did not help, so the weights are those before them."

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "steps": self.steps, "rounded": self.rounded, "tuned": self.tuned, "pictures": self.pictures,
            "kept": self.kept,
        }  # fmt: skip


def recover_bits(
    request: CompressRequest,
    teacher: ImageTextModel,
    weights: Mapping[str, Tensor],
    model: ImageTextModel,
    halves: SampleHalves,
    packed: PackedWeights,
    left_out: Sequence[str],
) -> tuple[PackedWeights, BitsRecovery]:
    """Fine-tune a rounded model on the judged half, and keep what follows the float model better on the other.

    Args:
        request: with steps, learning rate, sides and seed.
        teacher: the whole model in float. weights: those of the model, by name, before they were rounded.
        model: the rounded one, which may have lost modules too, changed in place.
        halves: pictures and texts.
        packed: the weights of the model as they are stored.
        left_out: modules that were not rounded, whose own parameters stay as well.

    Raises:
        KeyboardInterrupt: it was interrupted; the model so far is rounded and saved, without being measured.
    """
    state = copy.deepcopy(model.state_dict())
    held_out = _features(request, teacher, halves.held_out)
    rounded = _cosines(_features(request, model, halves.held_out), held_out)
    start("fine-tuning the rounded weights")
    steps = RecoverySteps(request)
    model._cache.clear()
    judged = halves.judged
    targets = _features(request, teacher, judged)  # once: the pictures are the same at every pass

    def loss(batch: tuple[Tensor, list[int]]) -> Tensor:
        pictures, texts = batch
        own: dict[str, tuple[Tensor, Tensor]] = {}
        if "image" in request.sides:
            own["image"] = model.encode_image(judged.pixels[pictures]), targets["image"][pictures]
        if "text" in request.sides:
            own["text"] = model.encode_text([judged.texts[row] for row in texts]), targets["text"][texts]
        return torch.stack([1 - torch.cosine_similarity(*pair).mean() for pair in own.values()]).mean()

    with _frozen(model, [*left_out, *_of_classifier(model)]):
        try:
            tuned_packed, _ = fine_tune_rounded(
                model, packed, weights, loss, recovery_rows(judged, request.batch_size, request.seed),
                steps=request.steps, lr=request.lr, log_every=1, callbacks=[steps],
            )  # fmt: skip
        except KeyboardInterrupt:
            model.card[CARD] = BITS
            steps.keep(partial(save, model, packed=stored_tensors(round_again(model, packed))))
            raise
    model._cache.clear()
    tuned = _cosines(_features(request, model, halves.held_out), held_out)
    kept = sum(tuned.values()) > sum(rounded.values())
    if not kept:
        model.load_state_dict(state)
        model._cache.clear()
    return tuned_packed if kept else packed, BitsRecovery(
        request.steps, rounded, tuned, len(halves.held_out.pixels), kept
    )


def stored_tensors(packed: PackedWeights) -> dict[str, Tensor]:
    """What a folder keeps of packed weights, by name in the backbone."""
    return {name.removeprefix("backbone."): tensor for name, tensor in packed.tensors.items()}


def _of_classifier(model: ImageTextModel) -> list[str]:
    """Names of the modules of the classifier of photographs beside the towers, where there is one.

    It learned from a million photographs. Trained along on 95 emoji, it won nothing there and lost nine photographs a
    sixth of their cosine to the float model.
    """
    parts = set() if model.concepts is None else set(model.concepts.modules())
    return [name for name, module in model.named_modules() if module in parts]


@contextmanager
def _frozen(model: ImageTextModel, names: Sequence[str]) -> Iterator[None]:
    """Keep the parameters that stand in these modules themselves from being trained."""
    frozen = [
        parameter
        for name in names
        for parameter in model.get_submodule(name).parameters(recurse=False)
        if parameter.requires_grad
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


@torch.no_grad()
def _features(request: CompressRequest, model: ImageTextModel, sample: PairedSample) -> dict[str, Tensor]:
    """Side -> features of a sample, of the towers that are rounded."""
    size, features = request.batch_size, {}
    if "image" in request.sides:
        features["image"] = model.encode_image(sample.pixels, batch_size=size)
    if "text" in request.sides:
        features["text"] = model.encode_text(list(sample.texts), batch_size=size)
    return features


def _cosines(own: dict[str, Tensor], target: dict[str, Tensor]) -> dict[str, float]:
    """Side -> mean cosine of features to the float model's."""
    return {side: float(torch.cosine_similarity(own[side], target[side]).mean()) for side in own}
