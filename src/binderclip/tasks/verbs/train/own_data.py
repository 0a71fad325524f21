"""What `train --data` makes of a user's own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.events import warn
from binderclip.tasks.verbs.train.held_out import FEW_HELD_OUT

if TYPE_CHECKING:
    from binderclip.tasks.verbs.train.request import TrainRequest
    from binderclip.train import Recipe

FINETUNE = "finetune"
"""Recipe for a user's own pictures where none is named."""
HELD_OUT = 0.1
"""Share of a user's pictures that is measured and not learned from, where they have no splits."""


def recipe_of(request: TrainRequest) -> Recipe:
    """The recipe that a request names, with its changes and the user's own pictures.

    Raises:
        UsageError: a wrong recipe, or too few pictures. DataError: nothing usable in them.
    """
    from binderclip.train import load_recipe

    name = request.recipe or FINETUNE
    own = [] if request.data is None else own_data(request.data, name, request.overrides)
    return load_recipe(name, set=[*own, *request.overrides])


def own_data(data: str, recipe: str, overrides: Sequence[str]) -> list[str]:
    """The entries of a recipe that make it learn from a user's pictures, as `--set` takes them.

    Args:
        data: anything `load_data` opens.
        recipe: whose batches have to fit.
        overrides: what else was set.

    Raises:
        UsageError: there is no such data, or too little of it.
        DataError: nothing usable in it.
    """
    from binderclip.data import ImageTextDataset, list_data, load_data
    from binderclip.train import DataSpec, load_recipe
    from binderclip.train.feed.pictures import open_sources

    named = {part.strip() for part in data.split(",")} <= {*list_data()}
    opened = load_data(data, "train" if named else None)
    entry: dict[str, object] = {"name": data}
    held: dict[str, object] = {"name": data, "split": "val"}
    settings = [f"stage.data={_toml(entry)}", f"evaluation.data={_toml(held)}"]
    if not isinstance(opened, ImageTextDataset):
        return [settings[0], "evaluation.data=[]"]
    splits = {str(part) for part in opened.attributes.get("split", []) if part is not None}
    if not named and not splits & {"train", "val"}:
        if len(opened) < 4:
            raise UsageError(
                f"--data {data}: {number_of(len(opened), 'picture')}, too few to train on; give at least 4"
            )
        entry["hold_out"] = held["hold_out"] = HELD_OUT
        settings = [f"stage.data={_toml(entry)}", f"evaluation.data={_toml(held)}"]
    elif not named and "train" not in splits:
        raise UsageError(f"--data {data}: there is a split val and none train to learn from")
    elif not named and "val" not in splits:
        warn(f"{data} has no split val: nothing is measured on pictures that are not learned from")
        settings = [settings[0], "evaluation.data=[]"]
    # Equal pictures are on one side, so how many are left is known only when it is done.
    count = len(open_sources([DataSpec.model_validate(entry)])[0][0])
    if "hold_out" in entry and (measured := len(opened) - count) < FEW_HELD_OUT:
        warn(
            f"{measured} of {number_of(len(opened), 'picture')} are held out, too few for a figure that means much: "
            "give more, or put them into subfolders train and val"
        )
    batch = min(stage.batch_size for stage in load_recipe(recipe, set=[*settings, *overrides]).stage)
    if batch > count:
        warn(f"{number_of(count, 'picture')} to learn from: the batch is made of all of them instead of {batch}")
        settings.append(f"stage.batch_size={count}")
    return settings


def _toml(entry: dict[str, object]) -> str:
    """A list of one data source, in TOML."""
    import json

    return "[{" + ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in entry.items()) + "}]"
