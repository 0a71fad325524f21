"""Training of `binderclip enhance`: both folders as squares, the enhancer's file, and when it is there already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.data import list_images, open_image, to_tensor
from binderclip.errors import DataError, UsageError
from binderclip.models.files.devices import resolve_device
from binderclip.quality import (
    CLIPLIT,
    RAVE,
    IlluminationNet,
    create_enhancer,
    load_enhancer,
    save_enhancer,
)
from binderclip.tasks.events import line, start
from binderclip.tasks.files.outputs import output_folder, writable_path
from binderclip.tasks.files.results import ask_for_room, save_or_keep, size_of
from binderclip.tasks.verbs.enhance.request import EnhanceRequest

FILE = "enhancer.safetensors"
WIDTH, LEVEL, STD = 16, 0.9, 0.1
"""A smaller network than the paper's, which begins near its pictures and never darkens; a few hundred steps move it."""
LATENT_RATE, PROMPT_RATE = 5e-3, 1e-3
"""Of vectors and prompts: the papers' belong to thousands of steps."""
SETTINGS = ("method", "model", "steps", "rounds", "prompt_steps", "batch_size", "lr", "content", "side", "seed")
"""Fields of a request that its training depends on, beside the pictures."""


def trained(request: EnhanceRequest) -> tuple[IlluminationNet, dict[str, Any], list[tuple[str, str]]]:
    """Train on two folders and write the enhancer into the output folder, or take the one of an equal run from there.

    Args:
        request: with `dark` and `bright`.

    Returns:
        The network, its card, and (path, reason) of what could not be read.

    Raises:
        UsageError: another enhancer in the output folder.
        DataError: a folder without a picture that can be read.
        OutputError: the file has no room, which is said before the training.
    """
    device = resolve_device(request.device)
    folder = Path(request.out)
    file = folder / FILE
    if file.exists():
        writable_path(file)
    sets, skipped = {}, []
    for name, place in (("dark", request.dark), ("bright", request.bright)):
        assert place is not None
        start(f"reading {place}")
        sets[name], left_out = squares(list_images(place, without=folder), request.side)
        skipped += left_out
        if not len(sets[name]):
            raise DataError(f"--{name} {place}: no picture there can be read")
    counts = {name: len(pictures) for name, pictures in sets.items()}
    settings = {name: getattr(request, name) for name in SETTINGS}
    card = {**settings, **counts, "pictures": _digest(sets["dark"], sets["bright"])}
    if file.exists():
        network, before = load_enhancer(file, device=request.device)
        if before != card:
            raise UsageError(f"{file} was trained on other pictures or settings: take another --out, or --enhancer")
        return network, card, skipped
    start("loading the model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        network = IlluminationNet(WIDTH, level=LEVEL, std=STD, most=1.0)
    ask_for_room(file, size_of(network))
    trainer = create_enhancer(
        request.method, request.model, network=network, content=request.content, seed=request.seed, device=device
    )
    shared: dict[str, Any] = {
        "warmup_steps": 0, "steps": request.steps, "lr": request.lr, "batch_size": request.batch_size,
        "progress": line,
    }  # fmt: skip
    if isinstance(trainer, RAVE):
        trainer.fit(sets["dark"], sets["bright"], **shared)
    else:
        assert isinstance(trainer, CLIPLIT)
        rate = LATENT_RATE if request.method == "clip-lit-latent" else PROMPT_RATE
        trainer.fit(
            sets["dark"], sets["bright"], rounds=request.rounds, prompt_steps=request.prompt_steps,
            refine_steps=request.prompt_steps, prompt_lr=rate, **shared,
        )  # fmt: skip
    save_or_keep(lambda place: save_enhancer(trainer.network, place, card), output_folder(folder) / FILE)
    return trainer.network, card, skipped


def _digest(*sets: Float[Tensor, "_ 3 s s"]) -> str:
    """Sixteen hexadecimal digits of pictures and their order."""
    digest = hashlib.blake2b(digest_size=8)
    for pictures in sets:
        digest.update(f"{tuple(pictures.shape)}".encode())
        digest.update((255 * pictures).round().byte().numpy().tobytes())
    return digest.hexdigest()


def squares(paths: Sequence[Path], side: int) -> tuple[Float[Tensor, "N 3 s s"], list[tuple[str, str]]]:
    """Pictures resized to squares, and (path, reason) of what could not be read."""
    pictures, skipped = [], []
    for path in paths:
        try:
            picture = open_image(path, mode="RGB", size_hint=side)
        except DataError as error:
            skipped.append((str(path), str(error)))
            continue
        pictures.append(to_tensor(picture.resize((side, side), Image.Resampling.LANCZOS)))
    return torch.stack(pictures) if pictures else torch.zeros(0, 3, side, side), skipped
