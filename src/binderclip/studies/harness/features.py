"""Image features for studies: computed once a model and picture, whatever study asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.data.cache.features import FeatureCache

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset
    from binderclip.models import ImageTextModel


def dataset_features(model: ImageTextModel, data: ImageTextDataset) -> Float[Tensor, "N E"]:
    """Unit features of every picture of a set, through the feature cache.

    Args:
        model: encodes.
        data: pictures that can all be read.
    """
    cache = FeatureCache(model.fingerprint, f"whole, background {data.background}")
    keys = [data.content_hash(index) for index in range(len(data))]
    raw = cache.fetch(keys, lambda missing: model.encode_image([data[index].image for index in missing]))
    return F.normalize(raw.float(), dim=-1)


def dataset_pre_projection(model: ImageTextModel, data: ImageTextDataset) -> Float[Tensor, "N D"]:
    """Raw features of every picture before the image projection, through the feature cache.

    Args:
        model: encodes.
        data: pictures that can all be read.
    """
    from binderclip.adapt import features_for

    cache = FeatureCache(model.fingerprint, f"whole before the projection, background {data.background}")
    keys = [data.content_hash(index) for index in range(len(data))]
    rows = cache.fetch(keys, lambda missing: features_for("pre_projection", model, [data[i].image for i in missing]))
    return rows.float()


def tensor_features(model: ImageTextModel, images: Float[Tensor, "N 3 H W"], key: str) -> Float[Tensor, "N E"]:
    """Unit features of pictures that a study made, through the feature cache.

    Args:
        model: encodes.
        images: in [0, 1].
        key: names how they were made, everything that matters in it.
    """
    cache = FeatureCache(model.fingerprint, f"study, {key}")
    with torch.no_grad():
        raw = cache.fetch([f"{row:06d}" for row in range(len(images))], lambda rows: model.encode_image(images[rows]))
    return F.normalize(raw.float(), dim=-1)
