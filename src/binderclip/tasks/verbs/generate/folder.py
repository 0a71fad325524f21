"""Drawing without a model: out of patches of a folder's pictures that fit the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.data import list_images, open_image, to_tensor
from binderclip.data.images import contained
from binderclip.errors import DataError, UsageError
from binderclip.generate import LocalMixtureDenoiser, NoiseSchedule, sample
from binderclip.tasks.events import counted, start
from binderclip.tasks.files.inputs import skip_pictures
from binderclip.tasks.models import image_text_model
from binderclip.tasks.sampling import JUDGES, StepProgress, noise_generator
from binderclip.tasks.verbs.generate.request import GenerateRequest

SIDE = 64
"""Of the pictures where no size is given."""
SHARPNESS = 0.03
"""Difference of two pictures' cosines with the text by which one is e times as likely as the other."""
MOST = 5000
"""Pictures of a folder that are read, spread evenly over it."""


class PatchSampler:
    """Draws texts out of a folder's pictures, which are read and encoded once.

    Args:
        request: with a folder.

    Raises:
        UsageError: no such folder, or a device that is not there. DataError: no picture in it can be read.
    """

    def __init__(self, request: GenerateRequest) -> None:
        assert request.from_folder is not None
        self.request, self.size = request, request.size or (SIDE, SIDE)
        if not Path(request.from_folder).is_dir():
            raise UsageError(f"--from-folder {request.from_folder} is no folder")
        paths = list_images(request.from_folder, without=request.out)
        if not paths:
            raise DataError(f"no pictures in {request.from_folder}, nor below it")
        paths = paths[:: -(-len(paths) // MOST)]
        start("loading the model that compares pictures with the text")
        self.model = image_text_model(JUDGES[0], device=request.device)
        pictures, self.skipped = [], list[tuple[str, str]]()
        for path in counted(paths, "reading picture", len(paths)):
            try:
                pictures.append(_on_canvas(open_image(path, size_hint=2 * max(self.size)), self.size))
            except DataError as error:
                self.skipped.append((str(path), str(error)))
        skip_pictures(self.skipped, left=pictures)
        with torch.no_grad():
            self.features = self.model.encode_image(pictures, normalize=True).cpu()
        self.pixels = 2 * torch.stack([to_tensor(picture) for picture in pictures]) - 1

    def denoiser(self, text: str) -> LocalMixtureDenoiser:
        """The denoiser of the pictures that fit a text best, weighted by how well."""
        with torch.no_grad():
            cosines = (self.features @ self.model.encode_text([text], normalize=True).cpu().T)[:, 0]
        best = cosines.argsort(descending=True, stable=True)[: self.request.nearest]
        weights = (cosines[best] / SHARPNESS).softmax(0)
        # exact denoisers need a start that is all noise, which Stable Diffusion's schedule is not: there a picture of
        # small norm would win before anything else is seen
        schedule = NoiseSchedule.karras(max(2, self.request.steps))
        denoiser = LocalMixtureDenoiser(self.pixels[best], weights, reach=self.request.reach, schedule=schedule)
        return denoiser.to(self.request.device)

    def draw(self, text: str, seeds: Sequence[int], progress: StepProgress) -> list[Float[Tensor, "3 H W"]]:
        """A picture for each seed, in [0, 1]."""
        denoiser = self.denoiser(text)
        noise = torch.stack([torch.randn(3, *self.size, generator=noise_generator(seed)) for seed in seeds])
        progress.show = lambda x0: (x0 / 2 + 0.5).clamp(0, 1)
        made = sample(
            denoiser, noise.to(denoiser.pictures), num_inference_steps=self.request.steps, hooks=[progress]
        )  # fmt: skip
        return list((made / 2 + 0.5).clamp(0, 1))


def _on_canvas(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture in the middle of a white canvas of (height, width), as large as fits."""
    height, width = size
    ratio = min(width / picture.width, height / picture.height)
    shown = contained(picture, max(1, round(ratio * max(picture.size))))
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(shown, ((width - shown.width) // 2, (height - shown.height) // 2))
    return canvas
