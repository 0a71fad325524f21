"""What `vectorize` does with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.generate.draw.vector.svg import hex_colour
from binderclip.models.files.devices import resolve_device
from binderclip.tasks.events import Saved, emit, start, warn
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.writing import short_path, write_csv
from binderclip.tasks.verbs.draw.growing import Looks
from binderclip.tasks.verbs.vectorize.drawn import PathDrawing, PictureToDraw
from binderclip.tasks.verbs.vectorize.request import VectorizeRequest
from binderclip.tasks.verbs.vectorize.result import COLUMNS, TABLE, VectorizedPicture, VectorizedPictures


def run(request: VectorizeRequest) -> VectorizedPictures:
    """Draw every picture again as closed paths, and write SVG, PNG and the table.

    Raises:
        UsageError: a result would replace one of the pictures, or what is none of ours.
        DataError: no picture can be read.
        OutputError: a file that cannot be written.
    """
    resolve_device(request.device)
    folder = output_folder(request.out, make=False)
    if (folder / TABLE).exists():
        writable_path(folder / TABLE, columns=COLUMNS)
    inputs = find_images(request.images, without=str(folder))
    names = output_names(inputs.paths, taken=[Path(TABLE).stem])
    files = [(folder / f"{name}.svg", folder / f"{name}.png") for name in names]
    writable_paths([path for pair in files for path in pair], sources=inputs.paths)
    output_folder(folder)
    start("drawing")
    pictures: list[VectorizedPicture] = []
    skipped: list[tuple[str, str]] = []
    unfinished: list[Path] = []
    try:
        _draw_all(request, inputs.paths, files, pictures, skipped, unfinished)
    except KeyboardInterrupt:
        _write_table(VectorizedPictures(request, pictures, skipped))
        parts = [f"{number_of(len(pictures), 'picture')} done"] if pictures else []
        parts += [f"{'the next' if pictures else 'the first'} one so far"] if unfinished else []
        done = f"{', and '.join(parts)}, in {short_path(folder)}"
        warn(f"interrupted: {done if parts else 'no picture was begun yet'}")
        raise
    skip_pictures(skipped, left=pictures)
    result = VectorizedPictures(request, pictures, skipped, complete=not inputs.exit_code(skipped))
    _write_table(result)
    for path in (*result.files(), folder / TABLE):
        emit(Saved(path))
    return result


def _draw_all(
    request: VectorizeRequest,
    paths: Sequence[Path],
    files: Sequence[tuple[Path, Path]],
    pictures: list[VectorizedPicture],
    skipped: list[tuple[str, str]],
    unfinished: list[Path],
) -> None:
    """Draw picture after picture, and note what became of each as soon as it is known; last, one that is cut short."""
    each = len(request.levels()) * request.steps
    for row, (path, (svg, png)) in enumerate(zip(paths, files, strict=True)):
        try:
            source = PictureToDraw.read(path, request)
        except DataError as error:
            skipped.append((str(path), str(error)))
            continue
        drawing = PathDrawing(source, svg, png)
        looks = Looks(drawing.write, each, before=row * each, whole=len(paths) * each)
        try:
            drawing.draw(request, looks)
        except KeyboardInterrupt:
            if drawing.param is not None:
                drawing.param.project_()  # the step that was interrupted may have left the range
                unfinished.append(drawing.write()[1])
            raise
        pictures.append(_figures(path, drawing, request))


def _figures(path: Path, drawing: PathDrawing, request: VectorizeRequest) -> VectorizedPicture:
    source = drawing.source
    assert drawing.param is not None
    colour = "transparent" if source.transparent else hex_colour(drawing.param.background.tolist())
    height, width = source.pixels.shape[1:]
    return VectorizedPicture(
        str(path), (source.size[1], source.size[0]), (width, height), request.paths, *drawing.psnr(), colour,
        drawing.svg, drawing.png,
    )  # fmt: skip


def _write_table(result: VectorizedPictures) -> None:
    if result.pictures:
        write_csv(*result.table(), result.folder / TABLE)
