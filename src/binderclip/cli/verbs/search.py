"""`binderclip search`: index a folder once, then find images, and texts, by words or by an example."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binderclip.cli.shared.cluster import Ray, Workers
from binderclip.cli.shared.options import DEFAULT_MODEL, BatchSize, Device, Dtype, Json, Model, TransformName
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.cli.shared.verb import VerbApp
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.transform import fitted, parse_transform
from binderclip.tasks.cluster import shard_runner
from binderclip.tasks.events import batches
from binderclip.tasks.files.outputs import OUTPUT, picture_path
from binderclip.tasks.files.writing import short_path, short_reason
from binderclip.tasks.report.photographs import note_weak_on_photographs
from binderclip.tasks.verbs.search import INSIDE

if TYPE_CHECKING:
    from binderclip.search import SearchIndex

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
search = VerbApp(no_args_is_help=True, help="Find images in a folder by words or by an example image.")


def _place(given: str | None, folder: Path | str) -> Path | str:
    from binderclip.data.storage import is_object

    if given:
        return given if is_object(given) else Path(given)
    if is_object(folder):
        raise UsageError(f"say where the index of {folder} is to lie: --index PLACE")
    return Path(folder) / INSIDE


@search.command("index")
def index(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder of images; what is below it counts. With --embeddings it may be left out."),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(
            "--index", help="Where the index is kept, a folder or `s3://BUCKET/FOLDER` [default: FOLDER/.binderclip]."
        ),
        OUTPUT,
    ] = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            "--embeddings",
            metavar="DIR",
            help="Take the pictures' embeddings from the parts that `binderclip embed` left there, by the same model, "
            "instead of encoding them; may be `s3://BUCKET/FOLDER`.",
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Start anew, for another model say.")] = False,
    mixed: Annotated[
        bool,
        typer.Option(
            "--mixed",
            help="Texts too: a caption (of `captions.csv`, or `name.txt` beside `name.jpg`) is one document with its "
            "picture, any other TXT or MD file one of its own. `--transform gap-removal` may help.",
        ),
    ] = False,
    transform: TransformName = None,
    workers: Workers = None,
    ray: Ray = None,
    model: Model = DEFAULT_MODEL,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Encode the images of a folder, and its texts with --mixed; a second run encodes only what is new or changed.

    Examples:

        binderclip search index holiday/

        binderclip search index notes/ --mixed --transform gap-removal

        binderclip search index --embeddings embedded/ --index s3://web/photos.index
    """
    choice = parse_transform(transform)
    if folder is None and embeddings is None:
        raise UsageError("give a folder of images, such as `search index photos/`, or --embeddings DIR")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    if embeddings is not None:
        _check_embeddings(embeddings, mixed=mixed, ray=ray)

    from binderclip.data import LocalRunner, list_images
    from binderclip.models import load_encoder
    from binderclip.search import SearchIndex

    path = _place(place, folder if folder is not None else str(embeddings))
    with stages("loading the model") as say:
        clip = load_encoder(model, device=device, dtype=dtype)
        map_first = None if choice is None else fitted(clip, choice, batch_size=batch_size)
        # Without the options an index goes on as it was made.
        found = SearchIndex(path, clip, rebuild=rebuild, mixed=mixed or None, transform=map_first)
        kind = "document" if found.mixed else "image"
        say("looking for documents" if found.mixed else "looking for pictures")
        try:
            if embeddings is not None:
                step = batches("part")
                report = found.update_embeddings(embeddings, pictures=folder, progress=step)
            else:
                assert folder is not None
                step = batches("document" if found.mixed else "picture")
                with shard_runner(ray, workers, device) as remote:
                    report = found.update(
                        folder, batch_size=batch_size, progress=step, runner=remote or LocalRunner(workers or 1),
                        worker_model=partial(load_encoder, model, device=device, dtype=dtype) if remote else None,
                    )  # fmt: skip
        except KeyboardInterrupt:
            note(f"interrupted: the index holds {number_of(len(found), kind)}; the same command goes on from here")
            raise
    if not len(found) and report.skipped:
        sought = number_of(len(report.skipped), "document" if found.mixed else "picture")
        raise DataError(f"none of {sought} in {folder} could be read: {short_reason(*report.skipped[0])}")
    if json:
        first = type(found.transform).__name__ if found.transform else None
        print_json({"index": path, f"{kind}s": len(found), "model": model, "transform": first, **vars(report)})
    else:
        print_table(
            f"Index {path}: {number_of(len(found), kind)}, model {model}",
            ("added", "changed", "unchanged", "removed", "skipped"),
            [[report.added, report.changed, report.unchanged, report.removed, len(report.skipped)]],
        )
        _note_correction(found)
        if folder is not None and (report.added or report.changed):
            inside = path if isinstance(path, Path) else None
            note_weak_on_photographs(model, list_images(folder, without=inside))
    warn_skipped(report.skipped)


def _check_embeddings(embeddings: str, *, mixed: bool, ray: str | None) -> None:
    """Refuse what does not go with embeddings that are there already."""
    from binderclip.data.storage import is_object

    for option, given in (("--mixed", mixed), ("--ray", ray is not None)):
        if given:
            raise UsageError(f"{option} does not go with --embeddings, where pictures are encoded already")
    if not is_object(embeddings) and not Path(embeddings).is_dir():
        raise UsageError(f"there is no folder {embeddings}")


def _is_file(text: str) -> bool:
    """Whether words or a path name a file; a sentence may be longer than a file's name can be."""
    try:
        return Path(text).is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False


def _note_correction(index: SearchIndex) -> None:
    """Say how the scores for a text differ from cosines, where they do."""
    if index.correction:
        note(f"scores of pictures for words: {index.correction}")


def _indexed(place: str) -> Path | str:
    """Where the index of a folder lies, or the place itself."""
    from binderclip.data.storage import is_object

    if is_object(place):
        return place
    return Path(place, INSIDE) if Path(place, INSIDE).is_dir() else Path(place)


@search.command("query")
def query(
    text_or_image: Annotated[str, typer.Argument(metavar="TEXT_OR_IMAGE", help="Words, or the path of an image file.")],
    place: Annotated[
        str, typer.Option("--index", "-i", help="The indexed folder, or the place given to `search index --index`.")
    ] = ".",
    top: Annotated[int, typer.Option(min=1, max=10_000, help="Images to show.")] = 10,
    picture: Annotated[
        str | None, typer.Option("--picture", help="Also save a sheet of what was found as PNG."), OUTPUT
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The model the index was made with [default: read from it].")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Find images by words, or those that look like an image, itself left out.

    Examples:

        binderclip search query "a red bicycle" --index holiday/

        binderclip search query street.jpg -i holiday/ --picture found.png
    """
    is_image = _is_file(text_or_image)
    if not is_image and Path(text_or_image).suffix.lower() in IMAGE_SUFFIXES:
        raise UsageError(f"there is no file {text_or_image}")
    sheet = picture_path(picture) if picture else None

    from binderclip.search import SearchIndex
    from binderclip.search.index import read_note

    path = _indexed(place)
    found = read_note(path) if not isinstance(path, Path) or path.is_dir() else None
    if found is None:
        raise UsageError(f"there is no index at {path}; make one with `binderclip search index FOLDER`")

    from binderclip.models import load_encoder

    clip = load_encoder(model or found["model"], device=device, dtype=dtype)
    stored = SearchIndex(path, clip)
    if is_image:
        # Who shows a picture of the folder knows that it is like itself.
        asked = Path(text_or_image).resolve()
        hits = [hit for hit in stored.query(Path(text_or_image), top=top + 1) if hit.path.resolve() != asked][:top]
    else:
        hits = stored.query(text_or_image, top=top)
    if json:
        print_json({"query": text_or_image, "hits": [{"image": h.path, "score": h.score} for h in hits]})
    else:
        print_table(
            f"{text_or_image}, model {clip.name}",
            ("rank", "document" if stored.mixed else "image", stored.measure),
            [[n, short_path(h.path), h.score] for n, h in enumerate(hits, 1)],
        )
        if not is_image:
            _note_correction(stored)
        pictures = [hit.path for hit in hits if hit.path.suffix.lower() in IMAGE_SUFFIXES and hit.path.is_file()]
        note_weak_on_photographs(model or found["model"], pictures)
    if sheet:
        from binderclip.tasks.report.sheet import contact_sheet

        shown = [hit for hit in hits if hit.path.suffix.lower() in IMAGE_SUFFIXES]
        there = [(hit.path, hit.path.name, f"{hit.score:.2f}") for hit in shown if hit.path.is_file()]
        if there:
            contact_sheet(there, sheet, title=f"more like {text_or_image}" if is_image else text_or_image, columns=5)
            note(f"sheet {sheet}")
        if len(there) < len(shown):
            note(f"{len(shown) - len(there)} of these files are gone; bring the index up to date with `search index`")


def register(app: typer.Typer) -> None:
    """Add the group to the application."""
    app.add_typer(search, name="search")
