"""How many pairs a stage will see, before its pictures are decoded."""

from __future__ import annotations

from binderclip.data import ImageTextDataset
from binderclip.train.feed.batches import Order
from binderclip.train.feed.pictures import open_sources
from binderclip.train.recipe.passes import OwnCount, TowerPasses, Uncounted, passes_of
from binderclip.train.recipe.stage import Stage

__all__ = ["planned_samples"]


def planned_samples(stage: Stage) -> int | None:
    """Pairs of a stage, a whole number of steps; None where its data does not say, or its kind takes it otherwise.

    Args:
        stage: of `samples`, which are rounded to steps, or of `epochs`, for which its data is opened (not decoded).

    Raises:
        UsageError, DataError: data that cannot be opened, or a batch that is larger than an epoch.
    """
    each = stage.batch_size * stage.accumulate
    if stage.samples is not None:
        return max(1, round(stage.samples / each)) * each
    seen = passes_of(stage)
    if isinstance(seen, Uncounted) or not stage.data:  # other kinds take their data in their own way
        return None
    assert stage.epochs is not None
    if isinstance(seen, OwnCount) and seen.pictures is not None:
        return max(1, round(stage.epochs * seen.pictures() / each)) * each
    sets, weights = open_sources(stage.data)
    once = isinstance(seen, TowerPasses) and seen.trains and not seen.pictures and not seen.captions
    if once:  # it keeps features, and draws its own batches of them
        lengths = [len(dataset) for dataset in sets if isinstance(dataset, ImageTextDataset)]
        return max(1, round(stage.epochs * sum(lengths) / each)) * each if len(lengths) == len(sets) else None
    if all(isinstance(dataset, ImageTextDataset) for dataset in sets):
        batches = Order([len(dataset) for dataset in sets], weights, stage.batch_size, seed=0).batches_per_epoch
        return max(1, round(stage.epochs * batches / stage.accumulate)) * each
    count = getattr(sets[0], "count", None)
    return None if count is None else max(1, round(stage.epochs * count / each)) * each
