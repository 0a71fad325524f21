"""`binderclip segment --task`: one sentence over a folder, the words it chose in each picture, and their masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.cli.verbs.segment.task_settings import task_settings
from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import counted
from binderclip.tasks.files.inputs import ImageArguments, output_names
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.writing import write_json

if TYPE_CHECKING:
    from binderclip.segment import TaskGenericSegmenter, TaskMask

FOLDER = "task"
"""Where the masks go."""
NEED_WORDS = ("gensam", "int", "zip")
"""Methods that choose among a vocabulary."""


@dataclass(frozen=True)
class TaskRequest:
    """The options, as given."""

    task: str
    method: str
    vocabulary: tuple[str, ...]
    ask: str | None
    ask_model: str | None
    segmenter: str
    model: str
    device: str
    dtype: str
    json: bool
    set: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What the masks depend on."""
        return {
            "task": self.task, "method": self.method, "vocabulary": list(self.vocabulary), "ask": self.ask,
            "ask_model": self.ask_model, "segmenter": self.segmenter, "model": self.model, "dtype": self.dtype,
            "set": list(self.set),
        }  # fmt: skip


def segment_task(request: TaskRequest, found: ImageArguments, *, out: str | None, coco: str | None, redo: bool) -> int:
    """Segment, save and say; the exit code."""
    from binderclip.segment.task import TASK_METHODS, noun_phrases

    if request.method not in TASK_METHODS:
        raise UsageError(f"--method {request.method!r} is unknown; there are {', '.join(TASK_METHODS)}")
    noun_phrases(request.task)
    options = task_settings(request.method, request.set)
    if (request.ask is None) != (request.ask_model is None):
        raise UsageError("--ask URL and --ask-model NAME go together")
    if request.ask is not None and request.method != "gensam":
        raise UsageError("--ask puts questions for gensam: leave it out, or take --method gensam")
    if coco is not None:
        writable_path(coco)
    folder = output_folder(out or FOLDER)
    places = [(folder / f"{name}-mask.png", folder / f"{name}-overlay.png", folder / f"{name}.json")
              for name in output_names(found.paths)]  # fmt: skip
    writable_paths([place for files in places for place in files], sources=found.paths)
    kept = [None if redo else _kept(place, path, request) for path, place in zip(found.paths, places, strict=True)]
    segmenter = _built(request, options) if None in kept else None
    done: list[dict[str, Any]] = []
    skipped: list[tuple[str, str]] = []
    with stages(request.task):
        rows = counted(zip(found.paths, places, kept, strict=True), "picture", len(places))
        for path, place, before in rows:
            try:
                done.append(before or _masked(segmenter, path, place, request))
            except DataError as error:
                skipped.append((str(path), str(error)))
    if not done:
        raise DataError(
            f"of {number_of(len(places), 'picture')} none could be segmented: {skipped[0][0]}: {skipped[0][1]}"
        )
    if before_count := sum(entry is not None for entry in kept):
        note(f"{number_of(before_count, 'picture')} done before (--redo does them again)")
    if coco is not None:
        write_json(_coco(done, request.task), Path(coco))
    _say(request, done, skipped)
    return found.exit_code(skipped)


def _built(request: TaskRequest, settings: dict[str, Any]) -> TaskGenericSegmenter:
    from binderclip.models import load
    from binderclip.segment import TASK_METHODS, load_promptable
    from binderclip.segment.task import ChatEndpoint, QuestionChain, bundled_words, meant_words

    options = dict(settings)
    if request.ask is not None and request.ask_model is not None:
        options["ask"] = QuestionChain(ChatEndpoint(request.ask, request.ask_model))
    words = request.vocabulary or bundled_words(request.task)
    model = load(request.model, device=request.device, dtype=request.dtype)
    segmenter = load_promptable(request.segmenter, device=request.device)
    arguments = (words,) if request.method in NEED_WORDS else ()
    own = getattr(segmenter, "automatic", {}).get("pred_iou_thresh")
    if request.method == "slip" and own is not None and "pred_iou_thresh" not in options:
        options["pred_iou_thresh"] = None
        note(f"{request.segmenter} predicts a modest IoU: masks from its own {own} count, not from slip's 0.9")
    if request.method in NEED_WORDS and request.ask is None:
        said = "given" if request.vocabulary else "bundled"
        meant = meant_words(request.task, words)
        some = "" if len(meant) == len(words) else f", of which the task means {', '.join(meant)}"
        note(
            f"{number_of(len(words), f'{said} word')} to choose from{some}; {request.model} chooses "
            f"in the place of a language model"
        )
    return TASK_METHODS[request.method](model, segmenter, *arguments, **options)


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _kept(place: tuple[Path, Path, Path], path: Path, request: TaskRequest) -> dict[str, Any] | None:
    """What an earlier run with the same settings wrote about the same file."""
    try:
        document = parse_json(place[2].read_bytes())
        same = document["settings"] == request.settings and document["file"] == _stamp(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # What was made without instances has none to write as COCO.
    same = same and ("instances" in document) == (request.method == "zip")
    return document if same and place[0].is_file() and place[1].is_file() else None


def _masked(segmenter: Any, path: Path, place: tuple[Path, Path, Path], request: TaskRequest) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    from binderclip.data import open_image
    from binderclip.data.formats.run_lengths import from_run_lengths
    from binderclip.segment import instance_records
    from binderclip.segment.output.palette import colours, paint, with_legend
    from binderclip.tasks.report.sheet import save_picture

    picture = open_image(path).convert("RGB")
    found: TaskMask = segmenter(picture, request.task)
    mask = found.mask.cpu().numpy()
    kept = found.rounds[found.chosen].candidates
    instances = [] if kept.names is None else instance_records(kept.logits > 0, kept.names, kept.scores)
    named = instances or [{"class": ", ".join(found.words)}]
    masks = [from_run_lengths(own["segmentation"]["counts"], mask.shape) for own in instances] or [mask]
    labels = np.full(mask.shape, -1, dtype=np.int32)
    for number, own in reversed(list(enumerate(masks))):  # the best one on top
        labels[own] = number
    tints = colours(len(masks))
    shown = paint(picture, labels, tints, opacity=0.55, quiet=set())
    legend = [(f"{own['class']} {own['score']:.2f}" if instances else own["class"], tint)
              for own, tint in zip(named, tints, strict=True)]  # fmt: skip
    save_picture(with_legend(shown, legend), place[1])
    save_picture(Image.fromarray(mask.astype("uint8") * 255), place[0])
    document = {
        "settings": request.settings,
        "file": _stamp(path),
        "image": str(path),
        "size": [picture.height, picture.width],
        "words": list(found.words),
        "around": list(found.around),
        "round": found.chosen + 1,
        "rounds": len(found.rounds),
        "words_by_round": [list(each.words) for each in found.rounds],
        "share": float(mask.mean()),
        **({"instances": instances} if request.method == "zip" else {}),
        "mask": str(place[0]),
        "overlay": str(place[1]),
    }
    # Last: where it is, the picture is done.
    write_json(document, place[2])
    return document


def _coco(done: list[dict[str, Any]], task: str) -> dict[str, Any]:
    import numpy as np

    from binderclip.data.images import open_header
    from binderclip.segment import coco_document, coco_instances

    if "instances" in done[0]:
        return coco_instances((entry["image"], tuple(entry["size"]), entry["instances"]) for entry in done)

    def maps() -> Any:
        for entry in done:
            with open_header(entry["mask"]) as opened:
                yield entry["image"], np.where(np.asarray(opened) > 0, 0, -1)

    return coco_document(maps(), [task])


def _say(request: TaskRequest, done: list[dict[str, Any]], skipped: list[tuple[str, str]]) -> None:
    if request.json:
        hidden = ("settings", "file")
        documents = [{key: value for key, value in entry.items() if key not in hidden} for entry in done]
        for entry in documents:  # run lengths are in the files
            if "instances" in entry:
                entry["instances"] = [
                    {key: value for key, value in own.items() if key != "segmentation"} for own in entry["instances"]
                ]
        left_out = [{"image": key, "reason": reason} for key, reason in skipped]
        print_json({**request.settings, "images": documents, "skipped": left_out})
        return
    rows = [
        (entry["image"], _counted(entry), ", ".join(entry["around"]), f"{entry['share']:.1%}",
         entry["mask"]) for entry in done
    ]  # fmt: skip
    print_table(
        f"{request.task}: {number_of(len(done), 'picture')}, {request.method}, model {request.model}, "
        f"masks {request.segmenter}",
        ("image", "words", "around", "share", "mask"), rows,
    )  # fmt: skip
    warn_skipped(skipped)


def _counted(entry: dict[str, Any]) -> str:
    """The words of a picture, with how many instances there are of each."""
    if "instances" not in entry:
        return ", ".join(entry["words"])
    classes = [own["class"] for own in entry["instances"]]
    return ", ".join(f"{word} x {classes.count(word)}" for word in entry["words"])
