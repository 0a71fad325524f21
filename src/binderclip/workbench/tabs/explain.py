"""Explain: where in a picture the evidence for a text is, by several methods; which words of a caption fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.errors import UsageError
from binderclip.tasks.report.sheet import save_picture, with_scale
from binderclip.tasks.verbs.explain import LANCZOS, SIDE, build_methods, caption_score, shrunk, words_html
from binderclip.workbench.commands import Arguments, Equivalent, model_words, named_pictures, python_load, shell_line
from binderclip.workbench.look import check_size, table
from binderclip.workbench.tab import Bench, Outcome, Run, Tab

if TYPE_CHECKING:
    from pathlib import Path

    from binderclip.explain import Attribution

METHODS_AT_FIRST = ["concepts", "gradcam", "smoothgrad"]
MOST_METHODS = 12
LEGEND = "Green words speak for the picture, red ones against it; underlined: does not fit; struck through: not read."


def build(bench: Bench) -> None:
    from binderclip.explain import METHODS, OPTIMISED

    names = [(f"{name} (minutes)" if name in OPTIMISED else name, name) for name in sorted(METHODS)]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            picture = bench.pictures("Picture", many=False)
            label = gr.Textbox(label="What to look for", placeholder="a cat")
            methods = gr.CheckboxGroup(names, value=METHODS_AT_FIRST, label="Methods, side by side")
            controls = bench.controls("Show the evidence")
            with gr.Accordion("Which words of a caption fit", open=False):
                caption = gr.Textbox(label="Caption", placeholder="a cat on a red sofa")
                word_controls = bench.controls("Colour the words")
                words = gr.HTML()
                word_results = bench.results()
        with gr.Column(scale=3, min_width=320):
            gallery = gr.Gallery(
                label="Evidence", columns=2, height="auto", object_fit="contain", interactive=False,
                buttons=["fullscreen"],
            )  # fmt: skip
            numbers = gr.HTML()
            results = bench.results()
    bench.connect(controls, work, [picture.files, label, methods], [gallery, numbers], results, also=[label.submit])
    bench.connect(word_controls, colour_words, [picture.files, caption], [words], word_results, also=[caption.submit])


def work(run: Run, file: str | None, label: str, names: list[str]) -> Outcome:
    """All chosen methods on one picture; those that need the same passes share them."""
    from binderclip.data import open_image
    from binderclip.explain import attribute_all

    path = run.pictures(file).paths[0]
    if not label.strip():
        raise UsageError("type what to look for, such as: a cat")
    if not names or len(names) > MOST_METHODS:
        raise UsageError(f"tick 1 to {MOST_METHODS} methods")
    check_size(path)
    label, methods = label.strip(), build_methods(names, None, ())
    picture = open_image(path)
    clip = run.model()
    if clip.concepts is None:
        names = [name for name in names if name != "concepts"]
        if not names:
            raise UsageError(f"{run.model_name} has no concepts: tick another method, or choose everyday")
    shown: list[tuple[str, str]] = []
    rows: list[tuple[str, str, str]] = []
    files: list[Path] = []
    # Cheap ones together, so that they share passes; each of the others alone, so that the first are seen at once.
    for part in _parts(names):
        run.progress(len(rows), len(names), f"looking by {', '.join(part)}")
        found = attribute_all(clip, [shrunk(picture)], label, methods={name: methods[name] for name in part})
        for name in part:
            place = run.folder / f"{name}.png"
            save_picture(_drawn(found[name], picture, label, name), place)
            files.append(place)
            shown.append((str(place), name))
            rows.append(_row(found[name], name, picture))
        run.show(list(shown), _table(rows, label))
    named = named_pictures([path])[0]
    return Outcome(
        (shown, _table(rows, label)), files, _again(run.model_name, run.bench.models.device, named, label, names)
    )


def colour_words(run: Run, file: str | None, caption: str) -> Outcome:
    """The caption with its words coloured by what they do to the match."""
    from binderclip.data import open_image

    path = run.pictures(file).paths[0]
    if not caption.strip():
        raise UsageError("type a caption, such as: a cat on a red sofa")
    check_size(path)
    picture = open_image(path)
    clip = run.model()
    run.say("reading the caption")
    score = caption_score(clip, run.model_name, picture, caption.strip())
    wrong = score.found.misaligned()[0]
    named = named_pictures([path])[0]
    device = run.bench.models.device
    python = (
        "from binderclip.models import load; from binderclip.explain import DenseMisalignment; "
        f"m = {python_load(run.model_name, device)}; "
        f"print(DenseMisalignment()(m, [{named!r}], {caption.strip()!r}).words()[0])"
    )
    given = Arguments([named, caption.strip()])
    shell = shell_line("binderclip", "explain", "--words", given, model_words(run.model_name, device))
    lines = Equivalent(python, shell)
    said = f"Does not fit: {', '.join(wrong)}" if wrong else "No word is below the threshold"
    said += f". Cosine {float(score.found.cosine):.3f}"
    if lost := score.found.lost()[0]:
        said += f". Not read, too far back for {run.model_name}: {', '.join(lost)}"
    shown = f"{words_html(score.found)}<p class=legend>{LEGEND}</p>"
    return Outcome((shown,), again=lines, said=said)


def _parts(names: list[str]) -> list[list[str]]:
    from binderclip.explain import OPTIMISED

    together = [name for name in names if name not in OPTIMISED]
    return [part for part in (together, *([name] for name in names if name in OPTIMISED)) if part]


def _drawn(found: Attribution, picture: Any, label: str, name: str) -> Any:
    ends = ("against", "for") if found.finish == "signed" else ("no", "strong evidence")
    blank = ", blank" if bool(found.blank[0]) else ""
    text = f"{label}: cosine {float(found.value[0]):.2f}, {name}{blank}"
    return with_scale(found.overlay(picture), text, found.ramp(), ends)


def _row(found: Attribution, name: str, picture: Any) -> tuple[str, str, str]:
    if bool(found.blank[0]):
        return name, "finds no place", ""
    row, column = found.peak()[1], found.peak()[0]
    across, down = picture.width / found.size[1], picture.height / found.size[0]
    error = found.completeness_error()
    adds = "" if error is None else f"{float(error[0]):.2g}"
    return name, f"x {int((column + 0.5) * across)}, y {int((row + 0.5) * down)}", adds


def _table(rows: list[tuple[str, str, str]], label: str) -> str:
    name = f"Evidence for {label}"
    if not any(error for _, _, error in rows):
        return table(("Method", "Strongest evidence at"), [row[:2] for row in rows], name)
    return table(("Method", "Strongest evidence at", "Completeness error"), rows, name)


def _again(model: str, device: str, picture: str, label: str, names: list[str]) -> Equivalent:
    shell = [
        shell_line(
            "binderclip", "explain", Arguments([picture]), "--label", label, "--method", name, "--out", f"{name}.png",
            model_words(model, device),
        )
        for name in names
    ]  # fmt: skip
    python = (
        "from binderclip.data import open_image; from binderclip.models import load; from binderclip.explain import "
        f"METHODS, attribute_all; p = open_image({picture!r}); p.thumbnail(({SIDE}, {SIDE}), {LANCZOS}, None); "
        f"found = attribute_all({python_load(model, device)}, [p], {label!r}, "
        f"methods={{n: METHODS[n]() for n in {names!r}}}); "
        f"[a.overlay({picture!r}).save(n + '.png') for n, a in found.items()]"
    )
    return Equivalent(python, "\n".join(shell))


TAB = Tab("Explain", "Where in a picture the evidence for a text is; methods side by side.", build, order=50)
