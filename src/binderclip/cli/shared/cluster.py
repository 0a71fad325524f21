"""`--ray` and `--workers`: where work that is done shard by shard runs."""

from __future__ import annotations

from typing import Annotated

import typer

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Let the workers of a Ray cluster compute: `local`, `auto`, HOST:PORT or ray://HOST:PORT.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, max=10_000, help="Shards that are worked on at once [default: 1; with --ray one a processor, or GPU]."
    ),
]
