"""Classify: which label fits each picture; pools, views and heads side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.verbs.classify.run import LabelAnswers, by_head, by_labels
from binderclip.tasks.verbs.classify.zero_shot import parse_zero_shot
from binderclip.workbench.commands import (
    Arguments,
    Equivalent,
    device_argument,
    device_words,
    model_words,
    python_load,
    python_pictures,
    shell_line,
)
from binderclip.workbench.look import could_not_be_read, gallery, hint, small_copy, table
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from collections.abc import Sequence

AT_ONCE = 32
"""Pictures between two reports."""
SHOWN = 60
"""Pictures in the gallery; the table has all."""
TOP = 3
MOST_SETTINGS = 12
VIEWS = [("Whole picture", "whole"), ("Tiles, 3 x 3", "tiles"), ("Crops around the object", "crops")]
POOLS = [
    ("Mean of the texts", ""),
    ("Mean of the cosines (mean)", "mean"),
    ("Best sentence (max)", "max"),
    ("Weighed for each picture (auto)", "auto"),
]
NONE = "(none)"


@dataclass(frozen=True)
class ClassifySetting:
    """One way to classify: by texts with a view and a pool, or by a head."""

    view: str = "whole"
    pool: str = ""
    head: str = ""

    @property
    def name(self) -> str:
        if self.head:
            return f"head {Path(self.head).name}"
        return self.view + (f", {self.pool}" if self.pool else "")


@dataclass(frozen=True)
class _Texts:
    labels: list[str]
    templates: str | None
    descriptions: str | None


def build(bench: Bench) -> None:
    from binderclip.adapt import shipped_descriptions
    from binderclip.models.text.templates import TEMPLATES

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures()
            labels = gr.Textbox(label="Labels, separated by commas", placeholder="cat, dog, a cup of coffee")
            with gr.Accordion("Ways to look, side by side", open=False):
                views = gr.CheckboxGroup(VIEWS, value=["whole"], label="What of each picture is seen")
                pools = gr.CheckboxGroup(POOLS, value=[""], label="How several sentences of a label become one score")
                templates = gr.Dropdown(
                    ["(as described)", *TEMPLATES], value="simple", label="Sentences a label is put in",
                )  # fmt: skip
                descriptions = gr.Dropdown(
                    [NONE, *shipped_descriptions()], value=NONE, label="Shipped sentences about the labels"
                )
                heads = gr.CheckboxGroup(
                    _heads_below(bench.folders), label="Heads that `binderclip adapt` left",
                    info="folders with a head.json, in the folders that the workbench was opened on",
                    visible=bool(_heads_below(bench.folders)),
                )  # fmt: skip
            controls = bench.controls("Classify")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(
                hint("Drop pictures, type labels, press Classify: each appears here with its likeliest label.")
            )
            answers = gr.HTML()
            results = bench.results()
    inputs = [*pictures.inputs, labels, views, pools, templates, descriptions, heads]
    bench.connect(controls, work, inputs, [shown, answers], results, also=[labels.submit])


def work(
    run: Run, files: list[str] | None, folder: str | None, labels: str, views: list[str], pools: list[str],
    templates: str, descriptions: str, heads: list[str],
) -> Outcome:  # fmt: skip
    """Classify by every setting, and lay them side by side."""
    chosen = run.pictures(files, folder)
    described = None if descriptions == NONE else _shipped(descriptions)
    # Sentences that were written for the labels are taken as they are.
    template = None if described is not None else templates if templates in _template_names() else "simple"
    settings = _settings(views, pools, heads, bool(labels.strip()))
    texts = _Texts(parse_labels(labels.strip(), "Labels", files=False) if labels.strip() else [], template, described)
    for setting in settings:
        _options(setting, texts)  # a wrong one is said before a model is loaded
    found: dict[ClassifySetting, LabelAnswers] = {}
    for number, setting in enumerate(settings):
        step = f"{setting.name}: " if len(settings) > 1 else ""
        found[setting] = _answers(run, setting, texts, chosen, step, (number, len(settings)))
    first = next(iter(found.values()))
    if not first.rows:
        raise DataError(f"none of {len(chosen.paths)} pictures could be read: {first.skipped[0][1]}")
    run.say("drawing")
    shown = []
    for number, (path, best) in enumerate(first.rows[:SHOWN]):
        copy = small_copy(path, run.folder / "small", number)
        if copy is not None:
            shown.append((copy, f"{best[0][0]} {best[0][1]:.2f}", chosen.label(Path(path))))
    said = could_not_be_read(len(first.skipped))
    if len(first.rows) > SHOWN:
        said += f" The gallery has the first {SHOWN}, the table all {len(first.rows)}."
    return Outcome(
        (gallery(shown, "pictures with their likeliest label"), _table(found, chosen) + _skipped_table(first, chosen)),
        files=_files(run.folder, found, chosen),
        again=_again(run.model_name, run.bench.models.device, settings, texts, chosen),
        said=said.strip(),
    )


def _shipped(name: str) -> str:
    """The name of a shipped set of sentences: anything else would be read as a file.

    Raises:
        UsageError: there is no such set.
    """
    from binderclip.adapt import shipped_descriptions

    if name not in shipped_descriptions():
        raise UsageError(f"{name} is no shipped set of sentences: choose one of {', '.join(shipped_descriptions())}")
    return name


def _template_names() -> Sequence[str]:
    from binderclip.models.text.templates import TEMPLATES

    return list(TEMPLATES)


def _settings(views: list[str], pools: list[str], heads: list[str], labelled: bool) -> list[ClassifySetting]:
    found = [ClassifySetting(view, pool) for view in views or ["whole"] for pool in pools or [""]] if labelled else []
    found += [ClassifySetting(head=head) for head in heads or []]
    if not found:
        raise UsageError("type labels, separated by commas, such as: cat, dog")
    if len(found) > MOST_SETTINGS:
        raise UsageError(f"{len(found)} settings are too many side by side: tick fewer, {MOST_SETTINGS} at most")
    return found


def _options(setting: ClassifySetting, texts: _Texts) -> Any:
    if setting.head:
        return None
    return parse_zero_shot(
        texts.labels,
        templates=texts.templates,
        descriptions=texts.descriptions,
        pool=setting.pool or None,
        context=None,
        views=setting.view,
        crop_from=None,
    )


def _answers(
    run: Run, setting: ClassifySetting, texts: _Texts, chosen: ChosenPictures, step: str, place: tuple[int, int]
) -> LabelAnswers:
    if setting.head:
        run.say(f"{step}asking the head")
        # A head may look at all pictures together.
        head = run.bench.open_folder(setting.head)
        return by_head(
            head, chosen.paths, top=TOP, model=None, device=run.bench.models.device, dtype="float32", batch_size=64
        )
    clip, options = run.model(), _options(setting, texts)
    number, of = place
    total = len(chosen.paths)
    rows: list[Any] = []
    skipped: list[tuple[str, str]] = []
    run.progress(number * total, of * total, "classifying")
    for start in range(0, total, AT_ONCE):
        part = by_labels(clip, options, chosen.paths[start : start + AT_ONCE], top=TOP)
        rows += part.rows
        skipped += part.skipped
        run.progress(number * total + min(start + AT_ONCE, total), of * total, "classifying")
    return LabelAnswers(run.model_name, texts.labels, rows, skipped)


def _table(found: dict[ClassifySetting, LabelAnswers], chosen: ChosenPictures) -> str:
    first = next(iter(found.values()))
    if len(found) == 1:
        shown = max(len(best) for _, best in first.rows)
        columns = ["Picture", "Label", "Probability"] + [f"{n}." for n in range(2, shown + 1)]
        rows = [
            [chosen.label(Path(path)), best[0][0], best[0][1], *[f"{label} {p:.2f}" for label, p in best[1:]]]
            for path, best in first.rows
        ]
        return table(columns, rows, f"{number_of(len(rows), 'picture')}, model {first.model}")
    by_picture = {setting: dict(answers.rows) for setting, answers in found.items()}
    rows = []
    for path, _ in first.rows:
        cells = [by_picture[setting].get(path) for setting in found]
        rows.append(
            [chosen.label(Path(path)), *["" if best is None else f"{best[0][0]} {best[0][1]:.2f}" for best in cells]]
        )
    columns = ["Picture", *[setting.name for setting in found]]
    return table(
        columns, rows, f"{number_of(len(rows), 'picture')}, likeliest label by {number_of(len(found), 'setting')}"
    )


def _skipped_table(answers: LabelAnswers, chosen: ChosenPictures) -> str:
    if not answers.skipped:
        return ""
    rows = [
        (Path(str(path)).name, str(reason).replace(str(path), Path(str(path)).name)) for path, reason in answers.skipped
    ]
    return table(("Left out", "Why"), rows, could_not_be_read(len(rows)).removesuffix("."))


def _files(folder: Path, found: dict[ClassifySetting, LabelAnswers], chosen: ChosenPictures) -> list[Path]:
    """The answers as CSV and JSON, and a sheet of the pictures."""
    rows = [
        [chosen.label(Path(path)), setting.name, rank, label, f"{probability:.6f}"]
        for setting, answers in found.items()
        for path, best in answers.rows
        for rank, (label, probability) in enumerate(best, 1)
    ]
    write_csv(["image", "setting", "rank", "label", "probability"], rows, folder / "labels.csv")
    document = [
        {
            "setting": setting.name,
            "model": answers.model,
            "labels": answers.labels,
            "images": [
                {"image": chosen.label(Path(path)), "labels": [{"label": n, "prob": p} for n, p in best]}
                for path, best in answers.rows
            ],
            "skipped": [{"image": Path(str(path)).name, "reason": reason} for path, reason in answers.skipped],
        }
        for setting, answers in found.items()
    ]
    write_json(document, folder / "labels.json")
    first = next(iter(found.values()))
    contact_sheet([(path, best[0][0], f"{best[0][1]:.2f}") for path, best in first.rows[:SHOWN]], folder / "sheet.png")
    return [folder / "labels.csv", folder / "labels.json", folder / "sheet.png"]


def _again(
    model: str, device: str, settings: list[ClassifySetting], texts: _Texts, chosen: ChosenPictures
) -> Equivalent:
    shell, python = [], []
    for setting in settings:
        if setting.head:
            shell.append(shell_line(
                "binderclip", "classify", Arguments(chosen.names()), "--head", setting.head, device_words(device)
            ))  # fmt: skip
            python.append(_head_python(setting.head, device, chosen))
            continue
        shell.append(
            shell_line(
                "binderclip", "classify", Arguments(chosen.names()), "--labels", ",".join(texts.labels),
                ["--templates", texts.templates] if texts.templates not in (None, "simple") else None,
                ["--descriptions", texts.descriptions] if texts.descriptions else None,
                ["--pool", setting.pool] if setting.pool else None,
                ["--views", setting.view] if setting.view != "whole" else None,
                model_words(model, device),
            )
        )  # fmt: skip
        python.append(_texts_python(model, device, setting, texts, chosen))
    return Equivalent("\n".join(python), "\n".join(shell))


def _texts_python(model: str, device: str, setting: ClassifySetting, texts: _Texts, chosen: ChosenPictures) -> str:
    names, prelude = python_pictures(chosen)
    load = f"from binderclip.models import load; {prelude}m = {python_load(model, device)}; "
    plain = setting == ClassifySetting() and not texts.descriptions
    if plain:
        return f"{load}print(m.classify({names}, {texts.labels!r}, templates={texts.templates!r}).table({TOP}))"
    wanted = ["ZeroShotClassifier"]
    views = ""
    if setting.view == "tiles":
        wanted.append("Tiles")
        views = ", views=Tiles(3)"
    elif setting.view == "crops":
        wanted.append("GuidedCrops")
        load += "from binderclip.segment import text_detector; "
        views = ", views=GuidedCrops(detector=text_detector(m))"
    bank, rule = f"m.text_bank({texts.labels!r}, {texts.templates!r})", ""
    if texts.descriptions:
        wanted.append("read_descriptions")
        bank, rule = (
            f"m.text_bank(read_descriptions({texts.descriptions!r}).of({texts.labels!r}))",
            ", prototype='mean'",
        )
    pool = f", pool={setting.pool!r}" if setting.pool else ""
    return (
        f"{load}from binderclip.adapt import {', '.join(wanted)}; c = ZeroShotClassifier({bank}{rule}{pool}{views}); "
        f"print(c.predict_proba(c.encode(m, {names}).features))"
    )


def _head_python(head: str, device: str, chosen: ChosenPictures) -> str:
    names, prelude = python_pictures(chosen)
    return (
        "from binderclip.models import load; from binderclip.adapt import features_for, head_model, load_head; "
        f"{prelude}m = load(head_model({head!r}){device_argument(device)}); h = load_head({head!r}, model=m); "
        f"print(h.predict(features_for(h, m, {names})))"
    )


def _heads_below(folders: Sequence[Path], most: int = 50) -> list[tuple[str, str]]:
    """Saved heads in the folders that pages may read, and in the two levels of folders below."""
    found = []
    for folder in folders:
        for pattern in ("head.json", "*/head.json", "*/*/head.json"):
            found += [(str(path.parent.relative_to(folder.parent)), str(path.parent)) for path in folder.glob(pattern)]
    return sorted(found)[:most]


TAB = Tab("Classify", "Which of your labels fits each picture; nothing is trained.", build, order=10)
