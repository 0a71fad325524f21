"""What `spikes` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.request import Option, Request


class SpikesRequest(Request):
    """Show where the gradient of a run stood out, how large it was, and which parameters contributed most.

    A spike is a norm of more than twice the median of the 20 before it that also stands out from their noise. The limit
    is the clip's; `kept` is the factor it applied, 0 where the step was skipped. A parameter's share is that of the
    squared norm.

    Examples:

        binderclip spikes runs/a

        binderclip spikes runs/a --top 3 --json
    """

    task: ClassVar[str] = "spikes"

    run: Annotated[
        str, Option("A run folder of `binderclip train`, or the `out` folder of a `ClipLog`.", positional=True)
    ]
    top: Annotated[int, Field(ge=1, le=10_000), Option("Parameters that are named for each spike.")] = 5
    picture: Annotated[
        str | None, Option("The picture [default: RUN/spikes.png].", ("--picture", "-p"), output=True)
    ] = None
