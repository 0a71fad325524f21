"""A geometry as plain values, which a model folder keeps, and back."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.similarity.geometry import SIMILARITIES, Cosine, Similarity

__all__ = ["frozen_similarity", "similarity_from_record", "similarity_record"]


def similarity_record(geometry: Similarity) -> dict[str, Any]:
    """Name, settings and learned values of a geometry, for JSON.

    Raises:
        NotSupported: a geometry that has no name in `SIMILARITIES`.
    """
    name = next((name for name, kind in SIMILARITIES.items() if type(geometry) is kind), None)
    if name is None:
        raise NotSupported(
            f"a model folder keeps similarities by name ({', '.join(SIMILARITIES)}), and "
            f"{type(geometry).__name__} has none"
        )
    learned = {key: float(value) for key, value in geometry.state_dict().items()}
    return {"geometry": name, "settings": geometry.settings(), "learned": learned}


def similarity_from_record(record: Mapping[str, Any]) -> Similarity:
    """The geometry of a `similarity_record`, without gradients.

    Raises:
        CheckpointError: an unknown geometry, settings it does not take, or values that are missing or not finite.
    """
    try:
        name, settings, learned = record["geometry"], record["settings"], record["learned"]
        if name not in SIMILARITIES:
            raise ValueError(f"geometry {name!r} is unknown: one of {', '.join(SIMILARITIES)}")
        geometry = SIMILARITIES[name](**settings)
        expected = geometry.state_dict()
        if set(learned) != set(expected):
            raise ValueError(f"geometry {name!r} has learned {sorted(expected)}, and the record {sorted(learned)}")
        values = {key: float(value) for key, value in learned.items()}
        if not all(math.isfinite(value) for value in values.values()):
            raise ValueError(f"learned values must be finite, got {values}")
        geometry.load_state_dict({key: torch.tensor(value).to(expected[key]) for key, value in values.items()})
    except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
        raise CheckpointError(f"no similarity can be made of its record: {error}") from error
    return geometry.requires_grad_(False)


def frozen_similarity(geometry: Similarity | None) -> Similarity | None:
    """A copy that neither learns nor belongs to a loss; None for plain cosines, which need no record."""
    if geometry is None or type(geometry) is Cosine:
        return None
    share, geometry.share = geometry.share, None  # a process group cannot be copied
    try:
        return copy.deepcopy(geometry).requires_grad_(False)
    finally:
        geometry.share = share
