"""Tables of what a detector does on pictures whose truth is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binderclip.evaluate import DetectorSanityCheck

FIGURES = ("generator", "seen", "real right", "95%", "fake found", "95% ", "AP", "best threshold", "real", "fake")
CONTROLS = ("real pictures after", "called fake", "before", "p", "finding")


def check_tables(check: DetectorSanityCheck, title: str) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
    """Title, columns and rows: of the generators, and of real pictures after processing where there are some.

    Args:
        check: the figures.
        title: of the first table.
    """
    generators: list[tuple[Any, ...]] = [
        (
            f.generator, "yes" if f.seen else "no", f.real_accuracy, _interval(f.real_interval), f.fake_accuracy,
            _interval(f.fake_interval), f.average_precision, f.oracle_accuracy, f.n_real, f.n_fake,
        )
        for f in check.figures
    ]  # fmt: skip
    controls: list[tuple[Any, ...]] = [
        (c.processing, c.after, c.before, c.p_value, "a shortcut" if c.shortcut else "could be chance")
        for c in check.controls
    ]
    tables: list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]] = [(title, FIGURES, generators)]
    if controls:
        tables.append(("real pictures after processing, which makes nothing fake", CONTROLS, controls))
    return tables


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"
