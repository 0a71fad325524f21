"""What `curate --plan` says."""

from __future__ import annotations

import math
from typing import Any

from binderclip.curate import AssumedPool, CurationRecipe, plan_curation, read_recipe
from binderclip.data.files import read_file
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError
from binderclip.tasks.plan import PlannedWork, planned_work
from binderclip.tasks.verbs.curate.request import CurateRequest


def planned(request: CurateRequest) -> PlannedWork:
    """The plan of a recipe.

    Args:
        request: with `plan` and a recipe.

    Raises:
        UsageError: as of `read_recipe` and `plan_curation`, or an option that is no list of numbers.
    """
    assert request.recipe is not None
    recipe = read_recipe(request.recipe, request.set)
    rates = None if request.encode_rate is None else _numbers(request.encode_rate, "--encode-rate")
    if rates is not None and len(rates) > 2:
        raise UsageError(f"--encode-rate {request.encode_rate}: give pictures a second, and captions a second")
    sizes: dict[str, Any] = request.bytes_of_picture() | ({} if request.width is None else {"width": request.width})
    pool = AssumedPool(
        kind="parts" if request.pool == "embedded" else "shards",
        encode=None if rates is None else (rates[0], rates[-1]), **sizes,
    )  # fmt: skip
    plan = plan_curation(
        recipe, request.needed_samples(), request.counted_machines(), pool=pool,
        kept=[] if request.kept is None else _shares(request.kept, recipe), shards=request.shards,
        model=request.model or "",
    )  # fmt: skip
    return planned_work(request, plan, request.recipe, request.out)


def _numbers(text: str, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(value) for value in numbers):
        raise UsageError(f"{option} {text[:80]}: numbers with commas between them, such as 0.6,0.3")
    return numbers


def _shares(kept: str, recipe: CurationRecipe) -> list[float]:
    """Shares as they are written, or of the stages of an earlier run's `report.json`."""
    if not kept.endswith(".json"):
        return _numbers(kept, "--kept")
    try:
        stages = parse_json(read_file(kept))["stages"]
        shares = [stage["kept"] / max(stage["entered"], 1) for stage in stages]
    except DataError as error:
        raise UsageError(f"--kept {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--kept {kept}: no report.json of `binderclip curate`, whose stages it would have") from error
    if len(shares) != len(recipe.stages):
        raise UsageError(f"--kept {kept}: has {len(shares)} stages and the recipe {len(recipe.stages)}")
    return shares
