"""What `generate` does: pictures of texts by a denoiser, wider ones as windows, and their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import ClassifierFreeGuidance, JointWindows, SyncGuidance, load_controlnet, sample
from binderclip.models.files.devices import resolve_device
from binderclip.tasks.events import Saved, emit, start
from binderclip.tasks.fields import MOST_SEED
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.models import image_text_model
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.sampling import (
    JUDGES,
    StepProgress,
    agreement,
    counted_forwards,
    noise_generator,
    opened_denoiser,
    picture_of,
    save_pictures,
)
from binderclip.tasks.verbs.generate.control import control_image, control_picture
from binderclip.tasks.verbs.generate.folder import PatchSampler
from binderclip.tasks.verbs.generate.request import GenerateRequest
from binderclip.tasks.verbs.generate.result import (
    SHEET,
    TABLE,
    GeneratedPicture,
    GeneratedPictures,
    names_of_texts,
)

if TYPE_CHECKING:
    from binderclip.generate import LatentDenoiser

AT_ONCE = 8
"""Pictures that go through the network together."""
OVERLAP = 4
"""A window is moved by its side over this, a quarter as in MultiDiffusion and SyncDiffusion for panoramas."""
SYNC_WEIGHT = 20.0
"""Of SyncDiffusion's gradient."""
COLUMNS = ("text", "seed")
"""With which the table begins."""


def run(request: GenerateRequest) -> GeneratedPictures:
    """Draw every text `request.count` times, write the pictures as they are made, then a sheet and a table.

    Raises:
        UsageError: no such denoiser or folder, a size that the model cannot draw, or a result that would replace what
            is none of ours.
        CheckpointError: a denoiser's folder that lacks weights or has damaged ones.
        NotSupported: one of another layout.
        DataError: a folder without a picture that can be read.
        OutputError: a file cannot be written.
    """
    resolve_device(request.device)
    folder = output_folder(request.out, make=False)
    texts = list(dict.fromkeys(request.texts))
    seeds = [(request.seed + number) % (MOST_SEED + 1) for number in range(request.count)]
    files = [[folder / f"{name}-{seed}.png" for seed in seeds] for name in names_of_texts(texts)]
    writable_paths([*(file for group in files for file in group), folder / SHEET])
    if (folder / TABLE).exists():
        writable_path(folder / TABLE, columns=COLUMNS)
    sampler: Any = PatchSampler(request) if request.from_folder is not None else _ModelSampler(request)
    output_folder(folder)
    groups = [seeds[first : first + AT_ONCE] for first in range(0, len(seeds), AT_ONCE)]
    # a wide picture is drawn by itself, as its windows are a batch
    per_text = len(seeds) if getattr(sampler, "windows", None) else len(groups)
    progress = StepProgress(request.steps * len(texts) * per_text)
    pictures: list[Any] = []
    for text, places in zip(texts, files, strict=True):
        for first in range(0, len(seeds), AT_ONCE):
            made = sampler.draw(text, seeds[first : first + AT_ONCE], progress)
            pictures += [picture_of(pixels) for pixels in made]
            save_pictures(pictures[-len(made) :], places[first : first + AT_ONCE])
    start("comparing the pictures with their texts")
    named = [text for text in texts for _ in seeds]
    scores = agreement(pictures, named, device=request.device)
    rows = [
        GeneratedPicture(text, seeds[row % len(seeds)], path, {judge: scores[judge][row] for judge in JUDGES})
        for row, (text, path) in enumerate(zip(named, (file for group in files for file in group), strict=True))
    ]
    result = GeneratedPictures(
        request, _name(request), sampler.size, rows, getattr(sampler, "forwards", 0), getattr(sampler, "skipped", [])
    )  # fmt: skip
    _write(result, pictures)
    return result


def _name(request: GenerateRequest) -> str:
    if request.from_folder is not None:
        return f"patches of {request.from_folder}"
    return Path(request.model).name or request.model


def _write(result: GeneratedPictures, pictures: Sequence[Any]) -> None:
    """The sheet and the table."""
    widest = max(1, round(result.size[1] / result.size[0]))
    entries = [
        (picture, row.text, f"seed {row.seed}, {row.agreement[JUDGES[-1]]:.2f}")
        for picture, row in zip(pictures, result.rows, strict=True)
    ]
    contact_sheet(
        entries, result.sheet, title=f"{result.title}; after the seed: agreement by {JUDGES[-1]}",
        columns=max(1, 6 // widest), side=200 * min(4, widest), most=120,
    )  # fmt: skip
    emit(Saved(result.sheet))
    write_csv(*result.table(), result.folder / TABLE)
    emit(Saved(result.folder / TABLE))


class _ModelSampler:
    """Draws texts by a denoiser.

    Raises:
        UsageError: a size that the denoiser cannot draw, or a control image of another shape.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        control = None if request.control_image is None else control_picture(request.control_image)
        self.denoiser: LatentDenoiser = opened_denoiser(request.model, request.device, request.personal)
        side = self.denoiser.side
        self.size = request.size or (side, side)
        if min(self.size) < side:
            raise UsageError(f"--size {self.size[0]}x{self.size[1]}: this model draws {side} px and more each way")
        self.denoiser.noise(1, self.size)  # refuses what is no multiple of what the network halves
        self.windows: JointWindows | None = None
        if self.size != (side, side):
            factor = self.denoiser.factor
            latents = self.size[0] // factor, self.size[1] // factor
            self.windows = JointWindows(latents, side // factor, max(1, side // factor // OVERLAP))
        elif request.sync:
            raise UsageError(f"--sync is for pictures wider than the model's {side} px: give a larger --size")
        if control is not None:
            self._steer(control)
        self.forwards = 0

    def _steer(self, picture: Image.Image) -> None:
        """Let a ControlNet count, which sees of the control image what a window shows."""
        request = self.request
        assert request.controlnet is not None
        assert request.control_image is not None
        image = control_image(picture, self.size, self.denoiser, request.control_image)
        images, factor = image[None], self.denoiser.factor
        if self.windows is not None:
            boxes = [[factor * edge for edge in box] for box in self.windows.grid.boxes]
            images = torch.stack([image[:, y0:y1, x0:x1] for x0, y0, x1, y1 in boxes])
        start("loading the ControlNet")
        self.denoiser = load_controlnet(self.denoiser, request.controlnet).conditioned_on(
            images.to(request.device), scale=request.conditioning_scale
        )

    def draw(self, text: str, seeds: Sequence[int], progress: StepProgress) -> list[Float[Tensor, "3 H W"]]:
        """A picture for each seed, in [0, 1]."""
        denoiser = self.denoiser
        noise = torch.cat([denoiser.noise(1, self.size, noise_generator(seed)) for seed in seeds])
        with counted_forwards(denoiser) as count, torch.no_grad():
            if self.windows is None:
                progress.show = denoiser.decode
                made = denoiser.decode(self._sampled(noise, text, [progress]))
            else:
                made = torch.cat([self._wide(one, text, self.windows, progress) for one in noise])
        self.forwards += count.calls
        return list(made)

    def _wide(
        self, noise: Float[Tensor, "C h w"], text: str, windows: JointWindows, progress: StepProgress
    ) -> Float[Tensor, "1 3 H W"]:
        """One canvas by its windows; the last hook is the one that joins them."""
        denoiser = self.denoiser
        progress.show = lambda x0: denoiser.decode(windows.merge(x0)[None])
        hooks: list[Any] = [progress]
        if self.request.sync:
            hooks.append(SyncGuidance(style_distance(denoiser, self.request.device), weight=SYNC_WEIGHT))
        states = self._sampled(windows.split(noise), text, [*hooks, windows])
        return denoiser.decode(windows.merge(states)[None])

    def _sampled(self, noise: Tensor, text: str, hooks: list[Any]) -> Tensor:
        return sample(
            self.denoiser, noise, text, terms=[ClassifierFreeGuidance(self.request.guidance)], hooks=hooks,
            num_inference_steps=self.request.steps,
        )  # fmt: skip


def style_distance(denoiser: LatentDenoiser, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """One minus the cosine of what `small` sees in windows and in the anchor, decoded; differentiable.

    In the place of the paper's LPIPS, whose weights are not bundled.
    """
    judge = image_text_model(JUDGES[0], device=device)

    def distance(windows: Float[Tensor, "V C S S"], anchor: Float[Tensor, "1 C S S"]) -> Float[Tensor, " V"]:
        seen = judge.encode_image(denoiser.decode(torch.cat([windows, anchor])), normalize=True)
        return 1 - seen[:-1] @ seen[-1]

    return distance
