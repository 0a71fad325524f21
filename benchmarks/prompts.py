"""A step of prompt learning on cached image features against encoding the images in every step, as CoOp's code does."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Row, compare
from binderclip.adapt import PromptModule, Training, train_tunable
from binderclip.models import ImageTextModel, PromptContext, load
from binderclip.models.layers.freezing import frozen

NAMES = ("cat", "dog", "house", "tree", "red apple", "car", "heart", "arrow", "flag", "person")
BATCH, VECTORS, STEPS = 32, 4, 4
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}


def run(*, classes: tuple[int, ...] = (10, 100), repeats: int = 5) -> list[Row]:
    """The bundled `small`, batch 32, few and many classes.

    Args:
        classes: numbers of classes.
        repeats: pairs of short trainings.
    """
    model = load("small").eval()
    with frozen(model):
        return [_row(model, count, repeats) for count in classes]


def _row(model: ImageTextModel, count: int, repeats: int) -> Row:
    names = [f"{NAMES[i % 10]} {i // 10}" if i >= 10 else NAMES[i] for i in range(count)]
    images = torch.rand(BATCH, 3, *model.preprocess.size, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(BATCH) % count
    features = model.encode_image(images, normalize=True).detach()
    ours = PromptModule(PromptContext(model, names, n_ctx=VECTORS, init="a photo of a"), float(model.scale()))
    peer = EveryStep(model, names)
    with torch.no_grad():
        losses = float(ours.losses(features, targets, targets)["task"]), float(peer.loss(images, targets))
    if not math.isclose(*losses, rel_tol=1e-4):
        raise RuntimeError(f"the two sides do not compute the same: losses {losses}")
    training = Training(lr=0.002, steps=STEPS, batch_size=BATCH, optimizer=SGD, schedule="constant")
    return compare(
        f"{count} classes, {STEPS} steps of batch {BATCH}",
        lambda: train_tunable(ours, features[:, None], targets, training),
        lambda: peer.train(images, targets),
        repeats=repeats,
        goal="at least 1.0x",
        target=1.0,
        peer_name="CoOp's loop in open_clip",
        note="our features are computed once before; one step of the peer encodes 32 pictures, and prompts at the full "
        "length where ours are cut to the longest",
    )


class EveryStep:
    """The same training with open_clip's own forwards: images encoded in every step, prompts padded to the full length.

    Args:
        model: frozen.
        names: class names.
    """

    def __init__(self, model: ImageTextModel, names: list[str]) -> None:
        self.model = model
        begin = PromptContext(model, names[:1], n_ctx=VECTORS, init="a photo of a")
        self.context = begin.context[0].detach().clone().requires_grad_()
        # One token a word, so the words of the template hold the places of the vectors.
        self.ids = model.tokenize([f"a photo of a {name}." for name in names]).ids
        self.scale = float(model.scale())

    def _put(self, module: Any, args: Any, words: Tensor) -> Tensor:
        middle = self.context.expand(len(words), -1, -1)
        return torch.cat([words[:, :1], middle, words[:, 1 + VECTORS :]], dim=1)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of one batch of pictures."""
        backbone = self.model.backbone
        with torch.no_grad():
            x = F.normalize(self.model.encode_pixels(self.model.preprocess(images)), dim=-1)
        hook = backbone.text.token_embedding.register_forward_hook(self._put)
        try:
            rows = F.normalize(backbone.encode_text(self.ids), dim=-1)
        finally:
            hook.remove()
        return F.cross_entropy(self.scale * x @ rows.T, targets)

    def train(self, images: Tensor, targets: Tensor) -> None:
        """A few steps."""
        optimizer = torch.optim.SGD([self.context], lr=0.002, momentum=0.9, weight_decay=5e-4)
        for _ in range(STEPS):
            optimizer.zero_grad()
            self.loss(images, targets).backward()
            optimizer.step()
