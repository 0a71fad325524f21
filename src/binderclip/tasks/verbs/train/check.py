"""What is said of a recipe without training: its plan, its entries, or the command of another program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from binderclip.errors import BinderclipError
from binderclip.tasks.plan import PlannedWork, planned_work
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.train.own_data import recipe_of

if TYPE_CHECKING:
    from binderclip.tasks.verbs.train.request import TrainRequest


@dataclass(frozen=True)
class RecipeText(VerbResult):
    """A recipe as a text.

    Attributes:
        title: of the recipe.
        text: to be printed. document: the same as plain values.
        notes: what to know of it, a line each.
    """

    request: TrainRequest
    title: str
    text: str
    document: dict[str, Any]
    notes: list[str]

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """No rows: there is the text."""
        return (), []

    def conclusion(self) -> list[str]:
        """The text."""
        return [self.text]

    def remarks(self) -> list[str]:
        """What to know of it."""
        return self.notes

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: the entries of a recipe, or the commands."""
        return {**self.document, "request": self.request.as_document()}


def planned(request: TrainRequest) -> PlannedWork:
    """What training would cost on machines.

    Raises:
        UsageError: a wrong recipe, or no --samples.
    """
    from binderclip.train import load_recipe, plan_training

    assert request.recipe is not None
    plan = plan_training(
        load_recipe(request.recipe, set=request.overrides), request.needed_samples(),
        request.counted_machines(request.flops), parallel="fsdp" if request.parallel == "fsdp" else "ddp",
        **request.bytes_of_picture(),
    )  # fmt: skip
    return planned_work(request, plan, request.recipe, request.out)


def other_program(request: TrainRequest) -> RecipeText:
    """The nearest commands of open_clip.

    Raises:
        UsageError: a wrong recipe.
    """
    from binderclip.train import open_clip_commands

    recipe = recipe_of(request)
    commands = open_clip_commands(recipe)
    lines = "\n".join(map(str, commands))
    return RecipeText(request, recipe.name, lines, {"commands": [vars(command) for command in commands]}, [])


def checked(request: TrainRequest) -> RecipeText:
    """The recipe with every default, and its cost, without being built or fetched.

    Raises:
        UsageError: a wrong recipe.
    """
    from binderclip.settings import write_toml

    recipe = recipe_of(request)
    document = recipe.document()
    cost = str(recipe.cost(samples=[_length(stage) for stage in recipe.stage]))
    return RecipeText(request, recipe.name, write_toml(document).rstrip("\n"), document, [cost])


def _length(stage: Any) -> int | None:
    """Pairs of a stage; None where its data cannot be opened here, which a check does not need."""
    from binderclip.train.feed.length import planned_samples

    try:
        return planned_samples(stage)
    except BinderclipError:
        return None
