"""What `classify` makes of labels that a person gave: all pictures classified again, and which to look at next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.events import start, warn
from binderclip.tasks.files.picture_labels import match_labels, read_labels, unmatched

if TYPE_CHECKING:
    import numpy as np

    from binderclip.adapt import LearnedLabels, ReviewEntry
    from binderclip.models import TextBank
    from binderclip.tasks.verbs.classify.request import ClassifyRequest

MOST_NAMED = 20
"""Labels that a message lists; of more it says how many there are."""


@dataclass(frozen=True, eq=False)
class ScoredPictures:
    """All that is known of N pictures and C labels after the model has looked at them once.

    Attributes:
        paths: of the pictures. labels: names of the columns.
        probabilities: (N, C). features: (N, E) embeddings; None of a head that looks at the pixels.
        bank: sentences of the labels; None of a head.
        confirmed: row -> column, what a person said. learned: from it; None so far.
        before: (N,) columns that were likeliest before something was learned; None so far.
    """

    paths: list[Any]
    labels: list[str]
    probabilities: np.ndarray
    features: np.ndarray | None
    bank: TextBank | None = None
    confirmed: Mapping[int, int] = field(default_factory=dict)
    learned: LearnedLabels | None = None
    before: np.ndarray | None = None

    def learn(self, confirmed: Mapping[int, int]) -> ScoredPictures:
        """The pictures classified again by what a person said of some; those are called as they were told.

        Args:
            confirmed: row -> column.

        Raises:
            UsageError: fewer than two labels were confirmed, or there are no embeddings.
        """
        import numpy as np

        from binderclip.adapt import learn_labels

        if self.features is None:
            raise UsageError("this head looks at the pixels of a picture, so nothing can be learned on embeddings")
        learned = learn_labels(
            self.features, self.labels, confirmed, self.probabilities, bank=self.bank, groups=self._groups(confirmed)
        )
        probabilities = learned.probabilities.copy()
        probabilities[learned.confirmed] = np.eye(len(self.labels))[learned.targets]
        before = self.probabilities.argmax(axis=1)
        return replace(
            self, probabilities=probabilities, confirmed=dict(confirmed), learned=learned, before=before
        )  # fmt: skip

    def named(self, labels: Mapping[int, str]) -> dict[int, int]:
        """Row -> column of row -> label.

        Raises:
            UsageError: a label that is none of the columns.
        """
        place = {name: column for column, name in enumerate(self.labels)}
        if (odd := next((name for name in labels.values() if name not in place), None)) is not None:
            raise UsageError(f"{odd} is none of the labels {', '.join(self.labels)}")
        return {row: place[name] for row, name in labels.items()}

    @property
    def called(self) -> np.ndarray:
        """(N,) columns: what a person said, else the likeliest label."""
        columns = self.probabilities.argmax(axis=1)
        for row, column in self.confirmed.items():
            columns[row] = column
        return columns

    @property
    def changed(self) -> list[int]:
        """Rows that nobody confirmed and whose likeliest label is another than before."""
        if self.before is None:
            return []
        now = self.called
        return [row for row in range(len(now)) if row not in self.confirmed and now[row] != self.before[row]]

    def review(self) -> list[ReviewEntry]:
        """Pictures in the order in which a look at them is worth most."""
        from binderclip.adapt import review_order

        return review_order(
            self.probabilities, self.called, self.labels, features=self.features, confirmed=sorted(self.confirmed),
            held_out=None if self.learned is None else self.learned.held_out,
        )  # fmt: skip

    def conclusion(self) -> list[str]:
        """What was learned, how well it agrees with the person, and what changed; empty where nothing was."""
        if self.learned is None:
            return []
        held, right, right_before = self.learned.held
        count = number_of(len(self.confirmed), "picture")
        lines = [f"learned from {count} whose label is known, by {self.learned.method}"]
        if held:
            lines.append(
                f"each held out in turn, {right} of {held} are called right (a little kind: the method was chosen on "
                f"them); before {right_before} of {held} were"
            )
        else:
            lines.append("with one picture a label none can be held out, so nothing says how good it is")
        rest = number_of(len(self.paths) - len(self.confirmed), "other picture")
        lines.append(f"{len(self.changed)} of {rest} changed their label")
        missing = [name for column, name in enumerate(self.labels) if column not in set(self.learned.known.tolist())]
        if missing:
            lines.append(f"no picture is known as {', '.join(missing)}: it keeps the probability that it had")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Plain values of what was learned."""
        if self.learned is None:
            return {}
        held, right, right_before = self.learned.held
        return {
            "method": self.learned.method, "pictures": len(self.confirmed), "held_out": held, "right": right,
            "right_before": right_before, "changed": [str(self.paths[row]) for row in self.changed],
        }  # fmt: skip

    def _groups(self, confirmed: Mapping[int, int]) -> np.ndarray:
        """(N,) numbers; confirmed pictures of the same bytes share one."""
        import numpy as np

        from binderclip.data.cache.features import content_hash

        groups = np.arange(len(self.paths))
        seen: dict[str, int] = {}
        for row in sorted(confirmed):
            groups[row] = seen.setdefault(content_hash(Path(self.paths[row])), row)
        return groups


def correct(request: ClassifyRequest, scored: ScoredPictures, table: Mapping[str, str]) -> ScoredPictures:
    """Learn from the labels of a table.

    Args:
        request: with its name. scored: the pictures. table: file -> label.

    Raises:
        UsageError: no line names one of the pictures, or a label is none of those asked for.
        DataError: a name that fits several pictures.
    """
    path = request.corrected
    assert path is not None
    rows = match_labels([Path(each) for each in scored.paths], table)
    if not rows:
        raise UsageError(f"--corrected {path} names none of the pictures; it names {', '.join(list(table)[:3])}")
    if sentence := unmatched(table, rows, path):
        warn(sentence)
    start("learning from the corrected labels")
    return scored.learn(scored.named(rows))


def corrected_table(request: ClassifyRequest) -> dict[str, str] | None:
    """File -> label of `--corrected`, read before a model is loaded; None without.

    Raises:
        UsageError: no such file, or a label that is none of `--labels`.
        DataError: no such table.
    """
    if request.corrected is None:
        return None
    table = read_labels(request.corrected)
    check_labels(None if request.head else request.words, table.values(), f"--corrected {request.corrected}")
    return table


def check_labels(labels: Sequence[str] | None, given: Any, where: str) -> None:
    """Refuse a label that is none of those asked for.

    Raises:
        UsageError: names it.
    """
    odd = next((name for name in given if labels is not None and name not in labels), None)
    if odd is not None:
        few = labels or []
        shown = ", ".join(few) if len(few) <= MOST_NAMED else f"{', '.join(few[:MOST_NAMED])}, ... ({len(few)} in all)"
        raise UsageError(f"{where} has the label {odd}, which is none of the labels {shown}")
