"""What `binderclip adapt` does once data and model are open: choose, save the head, write figures and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.tasks.events import start
from binderclip.tasks.files.results import save_or_keep
from binderclip.tasks.files.writing import write_json

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset
    from binderclip.models import ImageTextModel


def choose_head(
    model: ImageTextModel,
    samples: ImageTextDataset,
    name: str,
    out: Path,
    options: Mapping[str, Any],
    only_one: Mapping[str, Any],
    *,
    report: bool = True,
) -> Any:
    """Choose by `select_head`, or by `select_labels` where a picture has several labels; write what was found.

    Args:
        model: encodes the pictures.
        samples: pictures with labels.
        name: of the data, for figures and report.
        out: folder for the head, figures.json and report.html; it is there.
        options: that both functions take.
        only_one: further ones of `select_head`.
        report: whether report.html is written.

    Returns:
        The `Selection`, or the `LabelSelection`.
    """
    from binderclip.adapt.selection import label_sets, select_head, select_labels
    from binderclip.tasks.verbs.adapt.report import write_labels_report, write_report

    several = label_sets(samples) is not None
    found: Any = (
        select_labels(model, samples, **options) if several else select_head(model, samples, **options, **only_one)
    )
    save_or_keep(found.save, out)
    write_json({"data": name, **found.figures()}, out / "figures.json")
    if report:
        start("writing the report")
        if several:
            write_labels_report(found, name, out / "report.html")
        else:
            write_report(found, model, name, out / "report.html")
    return found
