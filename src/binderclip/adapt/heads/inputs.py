"""What a head takes: features, pre-projection features or pixels, made from pictures by one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel
    from binderclip.models.image_text.preprocess import ImageLike

InputLevel = Literal["features", "pre_projection", "images"]


def level_input(model: Any, images: Float[Tensor, "B 3 H W"], level: InputLevel) -> Float[Tensor, "B ..."]:
    """Images in [0, 1] -> what a head of this level takes, differentiably.

    Args:
        model: an `ImageTextModel`; for `features` anything with `encode_image` of images in [0, 1].
        images: any size; resized by the model's own preprocessing.
        level: `features` (B, E), raw; `pre_projection` (B, D), pooled and normed, before the projection; `images`
            (B, 3, h, w) at the model's input size, still in [0, 1].

    Raises:
        UsageError: an unknown level.
    """
    refuse_bare_module(model, "level_input", own=level == "features")
    if level == "features":
        return model.encode_image(images)
    if level == "pre_projection":
        return model.image_tower.pre_projection(model.preprocess(images).to(model.device, model.dtype)).float()
    if level == "images":
        return model.preprocess.fit(images)
    raise UsageError(f"level {level!r} is unknown: one of {', '.join(get_args(InputLevel))}")


@torch.no_grad()
def features_for(
    head: Any,
    model: ImageTextModel,
    images: Sequence[ImageLike],
    *,
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
) -> Float[Tensor, "N ..."]:
    """X for `head.fit` and `head.predict`, whatever level the head works at; three lines of user code for any head.

    Args:
        head: an estimator or a class of `adapt.METHODS`, or a level by name.
        model: the model the head stands on.
        images: paths, PIL images, arrays, or float tensors (3, H, W) in [0, 1].
        batch_size: images that go through the model at once.
        progress: called with the number of pictures done after every batch.

    Returns:
        On the CPU: raw features (N, E), pre-projection features (N, D), or pixels (N, 3, h, w) in [0, 1].

    Raises:
        UsageError: no image.
        DataError: a picture that cannot be read.

    Examples:
        >>> X = features_for(head, model, paths)        # doctest: +SKIP
        >>> head.fit(X, labels)                         # doctest: +SKIP
        >>> head.predict(features_for(head, model, ["new.jpg"]))  # doctest: +SKIP
    """
    refuse_bare_module(model, "features_for")
    level: InputLevel = head if isinstance(head, str) else head.input_level  # type: ignore[assignment]
    items = list(images)
    if not items:
        raise UsageError("images is empty: give at least one")
    rows = []
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        floats = [item for item in batch if isinstance(item, Tensor) and item.is_floating_point()]
        if len(floats) == len(batch):
            pixels = torch.cat([model.preprocess.fit(item[None]) for item in floats])
        else:
            eight_bit = [torch.from_numpy(model.preprocess.pixels(item).copy()) for item in batch]
            pixels = torch.stack(eight_bit).permute(0, 3, 1, 2).float() / 255
        rows.append(level_input(model, pixels, level).cpu())
        if progress is not None:
            progress(start + len(batch))
    return torch.cat(rows)
