"""What a private run may claim: epsilon and delta, under which assumptions, and what they do not cover."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from binderclip.privacy.accounting.ledger import Accountant, Ledger, gdp_epsilon

if TYPE_CHECKING:
    from binderclip.privacy.optimizer import PrivateOptimizer

__all__ = ["PrivacyReport", "privacy_report"]

ALWAYS_UNCOVERED = (
    "choosing hyper-parameters (clip norm, learning rate, number of steps) by runs on the same private data",
    "figures computed from private records outside the noisy steps: training losses, norms, accuracies",
    "validation or test records, which are not part of the training set",
    "floating-point attacks on the noise, and seeded generators: for a release draw noise from a secure source",
)


@dataclass(frozen=True)
class PrivacyReport:
    """The claim of a run.

    Attributes:
        epsilon, delta: of the whole run.
        accountant: "rdp" or "pld".
        neighbours: the relation between data sets that epsilon is about.
        unit: what one record is.
        steps: noisy steps, empty batches included.
        entries: (noise_multiplier, sample_rate, count).
        gdp_epsilon: the central-limit approximation for equal steps, slightly too small; None where steps differ.
        assumptions: what must be true.
        not_covered: what epsilon says nothing about.
    """

    epsilon: float
    delta: float
    accountant: str
    neighbours: str
    unit: str
    steps: int
    entries: tuple[tuple[float, float, int], ...]
    gdp_epsilon: float | None
    assumptions: tuple[str, ...]
    not_covered: tuple[str, ...]

    def text(self) -> str:
        """For people."""
        lines = [
            f"({self.epsilon:.3f}, {self.delta:g})-differential privacy by the {self.accountant} accountant",
            f"  {self.neighbours}; one {self.unit} is a record",
            f"  {self.steps} noisy steps: "
            + "; ".join(f"{count} at noise {sigma:.4g}, rate {rate:.4g}" for sigma, rate, count in self.entries[:4])
            + (f"; and {len(self.entries) - 4} more kinds" if len(self.entries) > 4 else ""),
        ]
        if self.gdp_epsilon is not None and math.isfinite(self.gdp_epsilon):
            lines.append(f"  approximation by the central limit theorem, slightly too small: {self.gdp_epsilon:.3f}")
        lines += ["Assumptions:", *(f"  - {item}" for item in self.assumptions)]
        lines += ["NOT covered:", *(f"  - {item}" for item in self.not_covered)]
        return "\n".join(lines)

    def json(self) -> str:
        """For programs; an infinite epsilon is the string "infinity"."""
        values = asdict(self)
        for name in ("epsilon", "gdp_epsilon"):
            if values[name] is not None and math.isinf(values[name]):
                values[name] = "infinity"
        return json.dumps(values, indent=2)

    __str__ = text


def privacy_report(
    source: PrivateOptimizer | Ledger,
    delta: float,
    accountant: Accountant = "rdp",
    *,
    unit: str = "training sample",
    poisson: bool = True,
) -> PrivacyReport:
    """Epsilon of a run and the sentences that belong to it; the accountant works here, not during training.

    Args:
        source: the optimizer, or a ledger.
        delta: in (0, 1), below one over the number of records.
        accountant: "rdp" or "pld".
        unit: what one record is.
        poisson: whether the batches were Poisson samples.
    """
    ledger = source if isinstance(source, Ledger) else source.ledger
    feedback: Any = None if isinstance(source, Ledger) else source.feedback
    entries = tuple((e.noise_multiplier, e.sample_rate, e.count) for e in ledger)
    assumptions = [
        "each batch is a fresh Poisson sample of the records at the stated rate"
        if poisson
        else "batches were NOT Poisson samples: the figure is the one commonly quoted for shuffled batches, no proof",
        "every per-sample loss depends on its own record (and public data) only",
        "the released object is the weights after noisy steps, and whatever is computed from them",
    ]
    if feedback is not None and feedback.hidden_state:
        assumptions.append(feedback.hidden_state)
    approximate = gdp_epsilon(*entries[0], delta) if len(entries) == 1 else None
    return PrivacyReport(
        epsilon=ledger.epsilon(delta, accountant),
        delta=delta,
        accountant=accountant,
        neighbours="data sets that differ by one added or removed record (for a replaced one double the sensitivity)",
        unit=unit,
        steps=len(ledger),
        entries=entries,
        gdp_epsilon=approximate,
        assumptions=tuple(assumptions),
        not_covered=(*ledger.uncovered, *ALWAYS_UNCOVERED),
    )
