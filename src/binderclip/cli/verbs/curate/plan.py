"""The work of `binderclip curate --plan`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from binderclip.cli.shared.plan import PlanOptions
from binderclip.curate import AssumedPool, CurationRecipe, plan_curation, read_recipe
from binderclip.data import ClusterPlan
from binderclip.data.files import read_file
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError


def planned(
    recipe: str,
    overrides: Sequence[str],
    asked: PlanOptions,
    *,
    shards: bool,
    kind: Literal["shards", "parts"],
    kept: str | None,
    encode: str | None,
    model: str | None,
    width: int | None,
) -> ClusterPlan:
    """The plan of a recipe; the options are those of the verb.

    Raises:
        UsageError: as of `read_recipe` and `plan_curation`, or an option that is no list of numbers.
    """
    checked = read_recipe(recipe, overrides)
    rates = None if encode is None else _numbers(encode, "--encode-rate")
    if rates is not None and len(rates) > 2:
        raise UsageError(f"--encode-rate {encode}: give pictures a second, and captions a second")
    given: dict[str, Any] = {**asked.bytes_of_picture, **({} if width is None else {"width": width})}
    pool = AssumedPool(kind=kind, encode=None if rates is None else (rates[0], rates[-1]), **given)
    shares = [] if kept is None else _shares(kept, checked)
    return plan_curation(
        checked, asked.needed_samples, asked.counted_machines(), pool=pool, kept=shares, shards=shards,
        model=model or "",
    )  # fmt: skip


def _numbers(text: str, option: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(math.isfinite(value) for value in found):
        raise UsageError(f"{option} {text[:80]}: numbers with commas between them, such as 0.6,0.3")
    return found


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
