"""What `segment-task` does: one sentence over a folder, the words it chose in each picture, and their masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import DataError
from binderclip.tasks.events import Saved, counted, emit, start, warn
from binderclip.tasks.files.inputs import file_stamp, find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.models import image_text_model, promptable_model
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.segment_task.request import SegmentTaskRequest
from binderclip.tasks.verbs.segment_task.settings import task_settings

if TYPE_CHECKING:
    from binderclip.segment import TaskGenericSegmenter, TaskMask

NEED_WORDS = ("gensam", "int", "zip")
"""Methods that choose among a vocabulary."""
COLUMNS = ("image", "words", "around", "share", "mask")
HIDDEN = ("settings", "file")
"""Keys of a picture's file that the document leaves out."""


@dataclass(frozen=True)
class TaskReport(VerbResult):
    """What the sentence means in each picture.

    Attributes:
        documents: of each picture that could be read, as its file has it.
        skipped: (path, reason) of the others.
    """

    whole: ClassVar[bool] = True
    request: SegmentTaskRequest
    documents: list[dict[str, Any]]
    skipped: list[tuple[str, str]]
    complete: bool = True

    @property
    def title(self) -> str:
        """The sentence, and what answered it."""
        asked, count = self.request, number_of(len(self.documents), "picture")
        return f"{asked.sentence}: {count}, {asked.method}, model {asked.model}, masks {asked.segmenter}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return COLUMNS, [
            (each["image"], _words(each), ", ".join(each["around"]), f"{each['share']:.1%}", each["mask"])
            for each in self.documents
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.request.settings,
            "images": [_without_run_lengths(each) for each in self.documents],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "request": self.request.as_document(),
        }


def _words(document: dict[str, Any]) -> str:
    """The words of a picture, with how many instances there are of each."""
    if "instances" not in document:
        return ", ".join(document["words"])
    classes = [own["class"] for own in document["instances"]]
    return ", ".join(f"{word} x {classes.count(word)}" for word in document["words"])


def _without_run_lengths(document: dict[str, Any]) -> dict[str, Any]:
    """What is printed of a picture: run lengths are in its file."""
    shown = {key: value for key, value in document.items() if key not in HIDDEN}
    if "instances" in shown:
        shown["instances"] = [
            {key: value for key, value in own.items() if key != "segmentation"} for own in shown["instances"]
        ]
    return shown


def run(request: SegmentTaskRequest) -> TaskReport:
    """Segment and save every picture that is not done yet.

    Raises:
        UsageError: a sentence that names nothing, an unknown setting, or a result that would replace what is none of
            ours.
        DataError: no picture can be read, or a file cannot be written.
    """
    from binderclip.segment.task import noun_phrases

    noun_phrases(request.sentence)
    options = task_settings(request.method, request.set)
    inputs = find_images(request.images, without=request.out)
    if request.coco is not None:
        writable_path(request.coco)
    folder = output_folder(request.out)
    places = [
        (folder / f"{name}-mask.png", folder / f"{name}-overlay.png", folder / f"{name}.json")
        for name in output_names(inputs.paths)
    ]
    writable_paths([place for files in places for place in files], sources=inputs.paths)
    kept = [
        None if request.redo else _kept(files, path, request) for path, files in zip(inputs.paths, places, strict=True)
    ]
    segmenter = _built(request, options) if None in kept else None
    documents, skipped = list[dict[str, Any]](), list[tuple[str, str]]()
    rows = counted(zip(inputs.paths, places, kept, strict=True), "picture", len(places))
    for path, files, before in rows:
        try:
            documents.append(before or _masked(segmenter, path, files, request))
        except DataError as error:
            skipped.append((str(path), str(error)))
    skip_pictures(skipped, left=documents)
    if count := sum(entry is not None for entry in kept):
        warn(f"{number_of(count, 'picture')} done before (--redo does them again)")
    if request.coco is not None:
        write_json(_coco(documents, request.sentence), Path(request.coco))
        emit(Saved(Path(request.coco)))
    return TaskReport(request, documents, skipped, complete=not inputs.exit_code(skipped))


def _built(request: SegmentTaskRequest, settings: dict[str, Any]) -> TaskGenericSegmenter:
    from binderclip.segment.task import TASK_METHODS, ChatEndpoint, QuestionChain, bundled_words, meant_words

    options = dict(settings)
    if request.ask is not None and request.ask_model is not None:
        options["ask"] = QuestionChain(ChatEndpoint(request.ask, request.ask_model))
    words = tuple(request.labels or bundled_words(request.sentence))
    start("loading the models")
    model = image_text_model(request.model, device=request.device, dtype=request.dtype)
    segmenter = promptable_model(request.segmenter, device=request.device)
    arguments = (words,) if request.method in NEED_WORDS else ()
    own = getattr(segmenter, "automatic", {}).get("pred_iou_thresh")
    if request.method == "slip" and own is not None and "pred_iou_thresh" not in options:
        options["pred_iou_thresh"] = None
        warn(f"{request.segmenter} predicts a modest IoU: masks from its own {own} count, not from slip's 0.9")
    if request.method in NEED_WORDS and request.ask is None:
        kind = "given" if request.labels else "bundled"
        meant = meant_words(request.sentence, words)
        some = "" if len(meant) == len(words) else f", of which the task means {', '.join(meant)}"
        warn(
            f"{number_of(len(words), f'{kind} word')} to choose from{some}; {request.model} chooses "
            f"in the place of a language model"
        )
    return TASK_METHODS[request.method](model, segmenter, *arguments, **options)


def _kept(files: tuple[Path, Path, Path], path: Path, request: SegmentTaskRequest) -> dict[str, Any] | None:
    """What an earlier run with the same settings wrote about the same file."""
    try:
        document: dict[str, Any] = parse_json(files[2].read_bytes())
        same = document["settings"] == request.settings and document["file"] == file_stamp(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # What was made without instances has none to write as COCO.
    same = same and ("instances" in document) == (request.method == "zip")
    return document if same and files[0].is_file() and files[1].is_file() else None


def _masked(segmenter: Any, path: Path, files: tuple[Path, Path, Path], request: SegmentTaskRequest) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    from binderclip.data import open_image
    from binderclip.data.formats.run_lengths import from_run_lengths
    from binderclip.segment import instance_records
    from binderclip.segment.output.palette import colours, paint, with_legend
    from binderclip.tasks.report.sheet import save_picture

    picture = open_image(path).convert("RGB")
    task_mask: TaskMask = segmenter(picture, request.sentence)
    mask = task_mask.mask.cpu().numpy()
    kept = task_mask.rounds[task_mask.chosen].candidates
    instances = [] if kept.names is None else instance_records(kept.logits > 0, kept.names, kept.scores)
    named = instances or [{"class": ", ".join(task_mask.words)}]
    masks = [from_run_lengths(own["segmentation"]["counts"], mask.shape) for own in instances] or [mask]
    labels = np.full(mask.shape, -1, dtype=np.int32)
    for number, own in reversed(list(enumerate(masks))):  # the best one on top
        labels[own] = number
    tints = colours(len(masks))
    shown = paint(picture, labels, tints, opacity=0.55, quiet=set())
    legend = [(f"{own['class']} {own['score']:.2f}" if instances else own["class"], tint)
              for own, tint in zip(named, tints, strict=True)]  # fmt: skip
    save_picture(with_legend(shown, legend), files[1])
    save_picture(Image.fromarray(mask.astype("uint8") * 255), files[0])
    document = {
        "settings": request.settings,
        "file": file_stamp(path),
        "image": str(path),
        "size": [picture.height, picture.width],
        "words": list(task_mask.words),
        "around": list(task_mask.around),
        "round": task_mask.chosen + 1,
        "rounds": len(task_mask.rounds),
        "words_by_round": [list(each.words) for each in task_mask.rounds],
        "share": float(mask.mean()),
        **({"instances": instances} if request.method == "zip" else {}),
        "mask": str(files[0]),
        "overlay": str(files[1]),
    }
    # Last: where it is, the picture is done.
    write_json(document, files[2])
    for file in files:
        emit(Saved(file))
    return document


def _coco(documents: list[dict[str, Any]], sentence: str) -> dict[str, Any]:
    import numpy as np

    from binderclip.data.images import open_header
    from binderclip.segment import coco_document, coco_instances

    if "instances" in documents[0]:
        return coco_instances((entry["image"], tuple(entry["size"]), entry["instances"]) for entry in documents)

    def maps() -> Any:
        for entry in documents:
            with open_header(entry["mask"]) as opened:
                yield entry["image"], np.where(np.asarray(opened) > 0, 0, -1)

    return coco_document(maps(), [sentence])
