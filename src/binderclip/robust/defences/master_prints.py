"""Defences against master prints: a narrower gap, a text for what is no picture, and a detector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.losses import info_nce
from binderclip.numeric import check_number, check_whole
from binderclip.robust.attacks.black_box import Evolution
from binderclip.robust.checks import check_finite, check_images
from binderclip.robust.objectives import MinSimilarity

__all__ = ["OFF_MANIFOLD", "shift_modality_gap", "train_fooling_detector", "tune_off_manifold"]

OFF_MANIFOLD = "<off-manifold>"
"""What the text of a picture says that is none."""


def shift_modality_gap(
    images: Float[Tensor, "N d"],
    texts: Float[Tensor, "K d"],
    share: float = 0.25,
    *,
    gap: Float[Tensor, "d"] | None = None,
) -> tuple[Float[Tensor, "N d"], Float[Tensor, "K d"]]:
    """Move images and texts towards each other by a share of the gap between their means; unit rows.

    At a share of 0.5 the means coincide, before rows are brought to length 1.

    Args:
        images, texts: raw embeddings.
        share: lambda, of the gap; 0 changes nothing but lengths.
        gap: mean image minus mean text; default that of the rows given.

    Raises:
        UsageError: other widths, no row, or embeddings or a share that are not finite.

    Paper: Fooling Contrastive Language-Image Pre-trained Models with CLIPMasterPrints (arXiv 2307.03798).
    """
    if not len(images) or not len(texts) or images.shape[1] != texts.shape[1]:
        raise UsageError(f"images {tuple(images.shape)} and texts {tuple(texts.shape)} are no embeddings of one space")
    check_number("share", share)
    for name, each in (("image embeddings", images), ("text embeddings", texts)):
        check_finite(name, each)
    if gap is not None:
        check_finite("numbers of the gap", gap)
    own = images.mean(0) - texts.mean(0) if gap is None else gap
    return F.normalize(images - share * own, dim=1), F.normalize(texts + share * own, dim=1)


def tune_off_manifold(
    model: Any,
    images: Float[Tensor, "N 3 H W"],
    texts: Sequence[str],
    *,
    latent: tuple[int, ...],
    decode: Callable[[Tensor], Tensor] | None = None,
    targets: Sequence[str] | None = None,
    epochs: int = 10,
    batch_size: int = 20,
    lr: float = 1e-7,
    weight_decay: float = 0.2,
    sigma: float = 1.0,
    seed: int = 0,
) -> Any:
    """A copy of an image-text model that has learned to call master prints `<off-manifold>`.

    Contrastive training; each batch has two more pairs with that text: the best image of a black-box search against the
    model as it is, one generation a step, and an image of random latents.

    Args:
        model: stays as it is.
        images, texts: the pairs to train on, images in [0, 1].
        latent, decode: of the search, see `Evolution`.
        targets: texts the search aims at; default all different ones of `texts`.
        epochs, batch_size, lr, weight_decay: of Adam (betas 0.9 and 0.98, eps 1e-6), the decay as part of the gradient.
        sigma: of the search.
        seed: of order and search.

    Raises:
        UsageError: numbers of images and texts that differ, or fewer than two; images outside [0, 1] or not finite, or
            a setting out of range.

    Paper: Fooling Contrastive Language-Image Pre-trained Models with CLIPMasterPrints (arXiv 2307.03798).
    """
    if len(images) != len(texts) or len(images) < 2:
        raise UsageError(
            f"{number_of(len(images), 'image')} and "
            f"{number_of(len(texts), 'text')}: give one text an image, two pairs at least"
        )
    check_images("images", images, shape="(B, 3, H, W)")
    _check_training(epochs=epochs, batch_size=batch_size, seed=seed, lr=lr)
    check_number("weight_decay", weight_decay, least=0)
    check_number("sigma", sigma, above=0)
    tuned = copy.deepcopy(model).train()
    aimed = list(dict.fromkeys(texts)) if targets is None else list(targets)
    evolution = Evolution(latent, decode, sigma=sigma, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    make = decode or (lambda latents: latents.clamp(0, 1))

    def batches() -> Iterator[Tensor]:
        for _ in range(epochs):
            yield from torch.randperm(len(images), generator=generator).split(batch_size)

    def step(rows: Tensor) -> Tensor:
        evolution.step(MinSimilarity(tuned, aimed))
        assert evolution.current is not None
        with torch.no_grad():
            noise = make(torch.randn(1, *latent, generator=generator))[0]
        extra = torch.stack([evolution.current, noise]).to(images)
        seen = tuned.encode_image(torch.cat([images[rows], extra]))
        text_features = tuned.encode_text([texts[row] for row in rows.tolist()] + [OFF_MANIFOLD] * 2)
        return info_nce(seen, text_features, tuned.scale())

    steps = epochs * -(-len(images) // batch_size)
    optimizer = {"name": "adam", "weight_decay": weight_decay, "betas": (0.9, 0.98), "eps": 1e-6}
    fit(step, tuned, batches(), steps=steps, optimizer=optimizer, lr=lr, schedule="constant")
    return tuned.eval()


def train_fooling_detector(
    classifier: Any,
    genuine: Float[Tensor, "N 3 H W"],
    fooling: Float[Tensor, "M 3 H W"],
    *,
    epochs: int = 5,
    batch_size: int = 32,
    lr: float = 1e-3,
    seed: int = 0,
) -> Any:
    """A copy of an image classifier, all of it trained to tell genuine images from fooling ones.

    Args:
        classifier: an `ImageClassifier`, such as `load_vision("lite0")`; stays as it is. The paper's is a VGG-19 with
            batch normalisation, trained in batches of 152.
        genuine, fooling: images in [0, 1].
        epochs, batch_size, lr: of AdamW.
        seed: of the last layer and the order.

    Returns:
        An `ImageClassifier` of the classes `genuine` and `fooling`.

    Raises:
        UsageError: no image of one kind, images of several sizes, outside [0, 1] or not finite, or a setting out of
            range.

    Paper: Fooling Contrastive Language-Image Pre-trained Models with CLIPMasterPrints (arXiv 2307.03798).
    """
    if not len(genuine) or not len(fooling) or genuine.shape[1:] != fooling.shape[1:]:
        raise UsageError(
            f"genuine {tuple(genuine.shape)} and fooling {tuple(fooling.shape)}: give images of both kinds and one size"
        )
    for name, each in (("genuine images", genuine), ("fooling images", fooling)):
        check_images(name, each, shape="(B, 3, H, W)")
    _check_training(epochs=epochs, batch_size=batch_size, seed=seed, lr=lr)
    detector = copy.deepcopy(classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector.module.reset_classifier(2)
    detector.classes = ["genuine", "fooling"]
    detector.to(classifier.device)
    images = torch.cat([genuine, fooling])
    labels = torch.tensor([0] * len(genuine) + [1] * len(fooling))
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(images), generator=generator)
            yield from order.split(batch_size)

    def step(rows: Tensor) -> Tensor:
        logits = detector(images[rows].to(detector.device))
        return F.cross_entropy(logits, labels[rows].to(logits.device))

    detector.train()
    fit(step, detector, batches(), steps=epochs * -(-len(images) // batch_size), lr=lr)
    return detector.eval()


def _check_training(*, epochs: int, batch_size: int, seed: int, lr: float) -> None:
    check_whole("epochs", epochs, least=1)
    check_whole("batch_size", batch_size, least=1)
    check_whole("seed", seed)
    check_number("lr", lr, above=0)
