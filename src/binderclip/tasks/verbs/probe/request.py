"""What `probe` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.models.files import registry
from binderclip.tasks.fields import MOST_SEED, BatchSize, Device, Dtype, HeldOutSplit, Labels, ModelArgument
from binderclip.tasks.request import Option, Request


class ProbeRequest(Request):
    """For which groups of pictures a model is worse: gaps with intervals, what chance alone makes, and what helps.

    Examples:

        binderclip probe small --data openmoji --groups concept_split

        binderclip probe small --data birds/ --groups background --positive gull --out birds-probe

    Pictures are classified once; `predictions.parquet` keeps every score, and all else comes from it. A gap counts as
    found where shuffled groups make one as large in less than 5 % of cases, over all gaps of the page. Mitigations are
    fitted on one half of the pictures and measured on the other.
    """

    task: ClassVar[str] = "probe"

    model: ModelArgument = registry.DEFAULT
    data: Annotated[
        str,
        Option("Pictures with classes: a folder, a zip, Parquet files, or a named set.", label="Pictures with classes"),
    ] = "openmoji"
    groups: Annotated[
        list[str],
        Option(
            "A column whose values are groups, several joined by commas for their combinations; give it again for "
            "another grouping [default: every column with 2 to 12 values].",
            ("--groups", "-g"),
            label="Columns that make groups",
        ),
    ] = []
    labels: Labels | None = None
    positive: Annotated[
        str | None,
        Option(
            "A class that is a decision: also compare how often it is said, and rightly.",
            label="A class that is a decision",
        ),
    ] = None
    templates: Annotated[str, Option("Sentences around a class name.", ("--templates", "-t"))] = "simple"
    split: HeldOutSplit = None
    limit: Annotated[
        int | None, Field(ge=20, le=10**6), Option("Use only the first so many pictures.", label="Pictures at most")
    ] = None
    draws: Annotated[
        int, Field(ge=100, le=20_000), Option("Resamples, and permutations; more where many gaps need it.")
    ] = 1000
    null: Annotated[
        str,
        Option(
            "What chance is: `given` shuffles groups within each class, `all` over all pictures, for groups that share "
            "no class.",
            choices=lambda: ("given", "all"),
        ),
    ] = "given"
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("Of the draws and of the halves.")] = 0
    out: Annotated[str, Option("Folder of the page, the table and the figures.", ("--out", "-o"), output=True)] = (
        "probe"
    )
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64

    @property
    def groupings(self) -> list[tuple[str, ...]]:
        """The columns of each grouping."""
        return [tuple(column for part in one.split(",") if (column := part.strip())) for one in self.groups]
