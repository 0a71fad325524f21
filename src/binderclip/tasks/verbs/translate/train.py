"""Training of `binderclip translate`: pictures of both folders, the network as it grows, and its sheet of samples."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import list_images, open_image, to_tensor
from binderclip.errors import DataError, UsageError
from binderclip.fit import Callback, Checkpoint
from binderclip.fit.records import StepRecord
from binderclip.generate import CUT, PatchDiscriminator, ResnetTranslator, save_translator, translate_picture
from binderclip.models.files.devices import resolve_device
from binderclip.tasks.events import Counted, Previewed, Saved, emit, start, warn
from binderclip.tasks.files.outputs import output_folder, writable_paths
from binderclip.tasks.files.results import ask_for_room, size_of
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.verbs.translate.request import TranslateRequest

CARD, WEIGHTS, SAMPLES, CHECKPOINTS = "card.json", "weights.safetensors", "samples.png", "checkpoints"
SHOWN, SHEETS = 6, 8
"""Pictures of the sheet, and how often it is written."""
MOST_PICTURES = 4000
"""Of a folder, that are held as squares."""
ZOOM = 4
"""How many times a training square's side the longer side of SinCUT's one picture is, at most."""
SETTINGS = "side", "width", "blocks", "batch_size", "lr", "seed"
"""Fields of a request that its training depends on, beside the pictures, the method and the number of steps."""


@dataclass(frozen=True)
class Domain:
    """Pictures of a folder.

    Attributes:
        pictures: squares; of SinCUT one picture that squares are cut from.
        skipped: (path, reason) of what could not be read.
    """

    pictures: Float[Tensor, "N 3 h w"]
    skipped: list[tuple[str, str]]


class FolderPairs:
    """Batches of both domains in [-1, 1], made by their number, so that a training that goes on has the same ones.

    Args:
        domains: A and B.
        count: pictures of each in a batch.
        side: of the squares.
        seed: of all draws.
    """

    def __init__(self, domains: Sequence[Tensor], count: int, side: int, seed: int, device: torch.device) -> None:
        self.domains, self.count, self.side, self.seed, self.device = domains, count, side, seed, device
        self.first = 0

    def seek(self, used: int) -> None:
        """Begin after so many batches."""
        self.first = used

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        number = self.first
        while True:
            rng = np.random.default_rng([self.seed, number])
            a, b = (self._drawn(pictures, rng) for pictures in self.domains)
            yield a, b
            number += 1

    def _drawn(self, pictures: Tensor, rng: np.random.Generator) -> Tensor:
        parts = []
        for _ in range(self.count):
            picture = pictures[int(rng.integers(len(pictures)))]
            least = min(picture.shape[1:])
            if tuple(picture.shape[1:]) != (self.side, self.side):  # SinCUT: a square of any size from `side` on
                cut = int(rng.integers(min(self.side, least), least + 1))
                top, left = (int(rng.integers(0, extent - cut + 1)) for extent in picture.shape[1:])
                square = picture[None, :, top : top + cut, left : left + cut]
                picture = F.interpolate(square, (self.side, self.side), mode="bilinear", antialias=True)[0]
            parts.append(picture.flip(2) if rng.random() < 0.5 else picture)
        return (2 * torch.stack(parts) - 1).to(self.device)


class _Growing(Callback):
    """Says the steps and writes the sheet as the training goes on."""

    def __init__(self, job: TranslatorTraining, steps: int) -> None:
        self.job, self.steps, self.done = job, steps, 0
        self.every = max(1, steps // SHEETS)
        self.figures: dict[str, float] = {}

    def on_start(self, step: int, steps: int) -> None:
        self.done = step

    def on_step(self, record: StepRecord) -> None:
        self.figures = {"loss": float(record.loss)}

    def after_step(self, step: int) -> None:
        self.done = step
        if step % self.every == 0 and step < self.steps:
            self.job.write_samples(step)
        emit(Counted(step, self.steps, "step", self.figures))


class TranslatorTraining:
    """A training and its folder.

    Args:
        request: what is asked, without `model`.

    Raises:
        UsageError: A or B is no folder, or a file in the output folder is none of ours.
        DataError: a folder without a picture that can be read.
        OutputError: no room, which is said before the training.
    """

    def __init__(self, request: TranslateRequest) -> None:
        self.request, self.folder = request, Path(request.out)
        self.device = resolve_device(request.device)
        for place in request.images:
            if not Path(place).is_dir():
                raise UsageError(
                    f"{place} is no folder: A and B are folders of pictures (or --model FOLDER is missing)"
                )
        output_folder(self.folder, make=False)
        writable_paths([self.folder / SAMPLES, self.folder / CARD, self.folder / WEIGHTS])
        paths = [list_images(place, without=self.folder) for place in request.images]
        single = all(len(part) == 1 for part in paths)
        self.method = ("sincut" if single else "fastcut") if request.method == "auto" else request.method
        start("reading the pictures")
        self.domains = [
            _read(place, part, request.side, whole=self.method == "sincut")
            for place, part in zip(request.images, paths, strict=True)
        ]
        self.skipped = [entry for domain in self.domains for entry in domain.skipped]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            self.translator = ResnetTranslator(ngf=request.width, n_blocks=request.blocks).to(self.device)
            critic = PatchDiscriminator(ndf=request.width, n_layers=2).to(self.device)
            taps = (0, 4, 8) if self.method == "sincut" else (0, 4, 8, 12, 11 + request.blocks)
            mode: Any = self.method
            self.trainer = CUT(self.translator, critic, mode=mode, nce_layers=taps, lr=request.lr)
            self.trainer.translation.to(self.device)
        # The network, and two checkpoints of it with two moments of every weight and the discriminator.
        ask_for_room(self.folder / WEIGHTS, 8 * size_of(self.translator) + 1_000_000)

    @property
    def card(self) -> dict[str, Any]:
        """What the network is trained on, and how."""
        request = self.request
        a, b = (len(domain.pictures) for domain in self.domains)
        digest = hashlib.blake2b(digest_size=8)
        for domain in self.domains:
            digest.update((255 * domain.pictures).round().byte().numpy().tobytes())
        settings = {name: getattr(request, name) for name in SETTINGS}
        return {"method": self.method, **settings, "a": a, "b": b, "pictures": digest.hexdigest()}

    def run(self) -> dict[str, Any]:
        """Train to the last step; where it is stopped the network so far is kept.

        Returns:
            The card, with the number of steps done.

        Raises:
            CheckpointError: the folder holds a training of other pictures or settings.
            Diverged: a loss became NaN; the network of the last sheet is kept.
            Stopped: the task was ended.
        """
        request, card = self.request, self.card
        output_folder(self.folder)
        torch.manual_seed(request.seed)  # of flips and places of patches; a checkpoint keeps its state
        growing = _Growing(self, request.steps)
        pairs = FolderPairs(
            [domain.pictures for domain in self.domains], request.batch_size, request.side, request.seed, self.device
        )
        every = max(1, request.steps // SHEETS)
        try:
            self.trainer.fit(
                pairs, steps=request.steps, callbacks=[growing], log_every=10,
                checkpoint=Checkpoint(self.folder / CHECKPOINTS, every=every, identity=card),
            )  # fmt: skip
        except KeyboardInterrupt:
            if not growing.done:
                warn("stopped before the first step was done: nothing is kept")
                raise
            save_translator(self.translator, self.folder, {**card, "steps": growing.done})
            warn(f"stopped: the network of step {growing.done} is kept in {self.folder}; the same command goes on")
            raise
        done = {**card, "steps": request.steps}
        save_translator(self.translator, self.folder, done)
        emit(Saved(self.folder / WEIGHTS))
        self.write_samples(request.steps)
        return done

    @torch.no_grad()
    def write_samples(self, step: int) -> Path:
        """Write the sheet: pictures of A before and after, and as many of B, to compare."""
        cards = []
        a, b = (domain.pictures for domain in self.domains)
        for row in range(min(SHOWN, max(len(a), len(b)))):
            picture = a[row % len(a)]
            self.translator.eval()
            made = translate_picture(self.translator, picture.to(self.device), longest=4 * self.request.side).cpu()
            self.translator.train()
            cards += [(_shown(picture), "A", ""), (_shown(made), "A as B", ""), (_shown(b[row % len(b)]), "B", "")]
        sheet = contact_sheet(cards, self.folder / SAMPLES, title=f"{self.method}, step {step}", side=160)
        emit(Saved(sheet))
        emit(Previewed(lambda: [open_image(sheet, mode="RGB")], sheet))
        return sheet


def _shown(picture: Float[Tensor, "3 H W"]) -> Image.Image:
    return Image.fromarray((255 * picture.clamp(0, 1)).round().byte().permute(1, 2, 0).contiguous().numpy())


def _read(place: str, paths: Sequence[Path], side: int, *, whole: bool) -> Domain:
    """The pictures of a folder as squares; with `whole` the first one at up to `ZOOM` times the side."""
    pictures, skipped = [], []
    for path in paths[:MOST_PICTURES]:
        try:
            picture = open_image(path, mode="RGB", size_hint=ZOOM * side if whole else side)
        except DataError as error:
            skipped.append((str(path), str(error)))
            continue
        if whole:
            scale = min(1.0, ZOOM * side / max(picture.size))
            size = [max(side, round(scale * extent)) for extent in picture.size]
            pictures.append(to_tensor(picture.resize(size, Image.Resampling.LANCZOS)))  # type: ignore[arg-type]
            break
        pictures.append(to_tensor(picture.resize((side, side), Image.Resampling.LANCZOS)))
    if not pictures:
        raise DataError(f"{place}: no picture there can be read")
    if len(paths) > MOST_PICTURES:
        warn(f"{place}: the first {MOST_PICTURES} of {len(paths)} pictures are learned from")
    return Domain(torch.stack(pictures), skipped)
