"""`binderclip heads`: what every attention head of a model says, in words."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.shared.options import BatchSize, Device, Dtype, Json
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.cli.verbs.heads.content import HeadPictures, Heads
from binderclip.display import number_of
from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.tasks.events import batches, counted
from binderclip.tasks.files.inputs import find_images
from binderclip.tasks.files.outputs import OUTPUT, writable_path
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.explain import Decomposition, NamedHead
    from binderclip.models import ImageTextModel

LIMIT = 1000


def heads(
    model: Annotated[
        str, typer.Argument(help="A bundled model, `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run folder.")
    ] = "small",
    images: Annotated[
        str,
        typer.Option("--images", "-i", help="Pictures to watch the heads on: a folder, or a named set (`openmoji`)."),
    ] = "openclipart,noto-emoji",
    texts: Annotated[
        Path | None,
        typer.Option("--texts", "-t", help="Descriptions to choose from, one a line [default: 2,000 shipped ones]."),
    ] = None,
    blocks: Annotated[int, typer.Option(min=1, max=1000, help="How many of the last blocks are looked at.")] = 4,
    top: Annotated[int, typer.Option(min=1, max=10, help="Texts of each head that are shown, of the ten chosen.")] = 4,
    limit: Annotated[int, typer.Option(min=2, max=10**6, help="Most pictures, evenly over all there are.")] = LIMIT,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The report: every head's texts, pictures and heat maps."), OUTPUT
    ] = Path("heads.html"),
    report: Annotated[bool, typer.Option(help="Write the report.")] = True,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 32,
    json: Json = False,
) -> None:
    """Say in words what every attention head of a model contributes to its image embeddings (TextSpan).

    Examples:

        binderclip heads small

        binderclip heads open_clip:ViT-B-32/openai --images holiday/ --texts words.txt --out holiday.html

    The share is a head's part of the variance of all the heads that are looked at; `explained` is what its ten texts
    explain of its own. A file that cannot be read is left out and named.
    """
    if report:
        ask_for_room(writable_path(out), REPORT)
    words = None if texts is None else read_texts(texts)
    pictures = find_pictures(images, limit)
    with stages("loading the model") as say:
        shown = _look(model, pictures, words, blocks, say, device, dtype, batch_size)
        if report:
            from binderclip.cli.verbs.heads.report import write_report

            say("writing the report")
            save_or_keep(partial(write_report, shown), out)
    skipped = [(pictures.names[number], reason) for number, reason in shown.found.skipped]
    if json:
        print_json(_document(shown, skipped, out if report else None))
    else:
        _print(shown, top)
    warn_skipped(skipped)
    if report and not json:
        note(f"report {out}")


def read_texts(path: Path) -> list[str]:
    """The texts of a file, one a line, each once.

    Raises:
        UsageError: no such file, not UTF-8, or fewer than two texts.
    """
    if not path.is_file():
        raise UsageError(f"--texts {path}: there is no such file")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UsageError(f"--texts {path} is not a text file in UTF-8 ({error.reason})") from error
    found = list(dict.fromkeys(line for line in lines if line))
    if len(found) < 2:
        raise UsageError(f"--texts {path} holds {len(found) or 'no'} text: give at least two, one a line")
    return found


def find_pictures(images: str, limit: int) -> HeadPictures:
    """Pictures of a file, a folder or a named set, at most `limit`, evenly chosen.

    Raises:
        UsageError: neither a file, a folder nor a set, or a set that is streamed.
        DataError: a folder without images, or fewer than two pictures.
    """
    from binderclip.data import ImageTextDataset, held_out_split, list_data, load_data

    if Path(images).exists():
        paths = find_images([images]).paths
        chosen: list[Any] = [paths[i] for i in _evenly(len(paths), limit)]
        pictures = HeadPictures([str(path) for path in chosen], chosen.__getitem__, images)
    else:
        known = set(list_data())
        if unknown := [part for part in images.split(",") if part.strip() not in known]:
            raise UsageError(f"--images {unknown[0]}: there is no such folder, and named sets are {', '.join(known)}")
        split = held_out_split(images)
        data = load_data(images, split=split)
        if not isinstance(data, ImageTextDataset):
            raise UsageError(f"--images {images}: shards are streamed; give a folder or a named set")
        rows = _evenly(len(data), limit)
        names = [data.keys[row] for row in rows]
        pictures = HeadPictures(names, lambda number: data[rows[number]].image, f"{images}, split {split}")
    if len(pictures.names) < 2:
        raise DataError(f"--images {images}: one picture shows no variation; give at least two, better a hundred")
    return pictures


def _evenly(count: int, limit: int) -> list[int]:
    return list(range(count)) if count <= limit else [i * count // limit for i in range(limit)]


def _look(
    name: str, pictures: HeadPictures, words: list[str] | None, blocks: int, say: Callable[[str], object], device: str,
    dtype: str, batch_size: int,
) -> Heads:  # fmt: skip
    from binderclip.explain import decompose_image_embedding, description_pool, name_heads
    from binderclip.models import load

    clip = load(name, device=device, dtype=dtype)
    try:
        depth = clip.image_tower.depth
    except NotSupported as error:
        raise NotSupported(f"{name} has no attention heads that could be named: {error}") from error
    say(f"looking at {number_of(len(pictures.names), 'picture')}")
    watched = counted(pictures, "picture", len(pictures.names))
    found = decompose_image_embedding(
        clip, watched, layers=range(max(0, depth - blocks), depth), batch_size=batch_size, on_error="skip"
    ).unit()
    if len(found) < 2:
        raise DataError(f"only one of {number_of(len(pictures.names), 'picture')} can be read: {found.skipped[0][1]}")
    pool = description_pool() if words is None else None
    texts = list(pool.texts) if pool is not None else words or []
    rows = _rows(clip, texts, say)
    say("naming the heads")
    named = name_heads(found, rows, texts, roles=None if pool is None else pool.roles)
    named.sort(key=lambda one: -one.share)
    strongest = [_strongest(found, one) for one in named]
    return Heads(clip, pictures, texts, found, named, strongest)


def _rows(clip: ImageTextModel, texts: list[str], say: Callable[[str], object], at_once: int = 64) -> Tensor:
    """The texts as unit rows (Q, E) on the CPU."""
    import torch

    rows = []
    step = batches("text")
    with torch.no_grad():  # thousands of texts with all that gradients need do not fit into memory
        for first in range(0, len(texts), at_once):
            rows.append(clip.encode_text(texts[first : first + at_once], normalize=True).cpu())
            step(min(first + at_once, len(texts)), len(texts))
    return torch.cat(rows)


def _strongest(found: Decomposition, one: NamedHead, most: int = 5) -> list[int]:
    """Rows of the pictures whose output of this head points most along its first text."""
    if not len(one.span):
        return []
    outputs = found.values[:, found.place(one.layer), one.head]
    along = (outputs - outputs.mean(0)) @ one.span.basis[0].to(outputs)
    return along.topk(min(most, len(along))).indices.tolist()


def _print(shown: Heads, top: int) -> None:
    loud = [one for one in shown.named if not shown.silent(one)]
    rows = [
        [f"{one.layer}.{one.head}", one.share, float(one.span.explained[-1]) if len(one.span) else 0.0, one.role,
         "; ".join(one.span.texts[:top])]
        for one in loud
    ]  # fmt: skip
    title = (
        f"{shown.model.name}: {number_of(len(shown.named), 'head')}, "
        f"{number_of(len(shown.found), 'picture')} ({shown.pictures.source})"
    )
    print_table(title, ["head", "share", "explained", "role", "texts"], rows)
    if quiet := [one for one in shown.named if shown.silent(one)]:
        names = ", ".join(f"{one.layer}.{one.head}" for one in sorted(quiet, key=lambda o: (o.layer, o.head)))
        share = sum(one.share for one in quiet)
        typer.echo(
            f"next to nothing is said by {number_of(len(quiet), 'head')} (together "
            f"{share:.1%} of the variance): {names}"
        )


def _document(shown: Heads, skipped: list[tuple[str, str]], out: Path | None) -> dict[str, Any]:
    found = [
        {
            "block": one.layer,
            "head": one.head,
            "share": one.share,
            "silent": shown.silent(one),
            "role": one.role,
            "explained": float(one.span.explained[-1]) if len(one.span) else 0.0,
            "principal_components_explain": float(one.span.bound[-1]) if len(one.span) else 0.0,
            "texts": [
                {"text": text, "role": role, "explained": float(gain)}
                for text, role, gain in zip(one.span.texts, one.roles, one.span.gains, strict=True)
            ],
            "images": [shown.pictures.names[shown.found.index[row]] for row in rows],
        }
        for one, rows in zip(shown.named, shown.strongest, strict=True)
    ]
    return {
        "model": shown.model.name,
        "images": len(shown.found),
        "source": shown.pictures.source,
        "texts": len(shown.texts),
        "heads": found,
        "skipped": [{"image": key, "reason": reason} for key, reason in skipped],
        "report": out,
    }


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(heads)
