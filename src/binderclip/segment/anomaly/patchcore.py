"""PatchCore: how far each patch of a picture is from the nearest of a chosen few normal patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.segment.anomaly.mid_level import SIGMA, MidLevelDetector

HELD = 20_000_000
"""Most distances that are held at once."""


class PatchCore(MidLevelDetector):
    """Anomalies by a memory of normal patch features, thinned out to a core set that covers the rest.

    Features of the network's middle, averaged over 3 x 3 cells, are remembered for every place of every normal picture;
    greedy k-centre selection (in a random projection to 128 dimensions) keeps a tenth. A picture's score is the largest
    distance of its patches to the memory, reweighted by how crowded the memory is there; its map the distances.

    Args:
        backbone: an `ImageClassifier` such as `load_vision("lite0")`; the paper's is a WideResNet-50.
        strides: of the maps, in pixels a cell; the paper's second and third stage.
        neighbourhood: side of the average in cells.
        coreset: share of the normal patches that is kept, in (0, 1]; the paper compares 0.25, 0.1 and 0.01.
        neighbours: memory patches that reweight a picture's score; 1 leaves the largest distance as it is. The paper
            gives no number; 9 is anomalib's.
        sigma: of the maps' blur, in pixels of the input.
        size: side of the input in pixels; None for the backbone's own.
        seed: of the projection and the first patch.

    Raises:
        UsageError: a share outside (0, 1], or no neighbour.

    Examples:
        >>> import torch
        >>> from binderclip.models import load_vision
        >>> detector = PatchCore(load_vision("lite0"), coreset=0.02).fit(torch.rand(2, 3, 64, 64))
        >>> tuple(detector(torch.rand(1, 3, 64, 64)).maps.shape)
        (1, 224, 224)

    Paper: Roth et al., Towards Total Recall in Industrial Anomaly Detection (CVPR 2022, arXiv 2106.08265).
    """

    def __init__(
        self,
        backbone: Any,
        *,
        strides: Sequence[int] = (8, 16),
        neighbourhood: int = 3,
        coreset: float = 0.1,
        neighbours: int = 9,
        sigma: float = SIGMA,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 < coreset <= 1:
            raise UsageError(f"coreset is a share of the normal patches in (0, 1], not {coreset}")
        check_number("neighbours", neighbours, least=1)
        super().__init__(backbone, strides=strides, neighbourhood=neighbourhood, sigma=sigma, size=size, seed=seed)
        self.coreset, self.neighbours = coreset, neighbours

    @property
    def memory(self) -> Float[Tensor, "R D"] | None:
        """The patches that pictures are compared with; None before `fit`."""
        return self._learnt

    def _learn(self, values: Float[Tensor, "K h w D"]) -> Float[Tensor, "R D"]:
        """The core set of all patches."""
        rows = values.flatten(0, 2)
        return rows[core_set(rows, max(1, round(self.coreset * len(rows))), seed=self.seed)]

    def _compare(self, values: Float[Tensor, "h w D"], learnt: Float[Tensor, "R D"]) -> tuple[Tensor, Tensor]:
        """Distances to the memory, and the reweighted largest."""
        patches = values.flatten(0, 1)
        near, place = nearest(patches, learnt)
        return near.unflatten(0, values.shape[:2]), self._weighted(patches, near, place, learnt)

    def _weighted(self, patches: Tensor, near: Tensor, place: Tensor, memory: Tensor) -> Tensor:
        """The largest distance times one minus its share among the distances to the memory's own neighbours there."""
        worst = int(near.argmax())
        count = min(self.neighbours, len(memory))
        if count < 2:
            return near[worst]
        around = torch.cdist(memory[place[worst]][None], memory)[0].topk(count, largest=False).indices
        distances = torch.cdist(patches[worst][None], memory[around])[0]
        # exp(d*) / sum exp(d), without overflow.
        return near[worst] * (1 - (near[worst] - torch.logsumexp(distances, dim=0)).exp())


def nearest(rows: Float[Tensor, "M D"], memory: Float[Tensor, "R D"]) -> tuple[Float[Tensor, "M"], Int[Tensor, "M"]]:
    """Distance to, and index of, the nearest memory row of each row."""
    step = max(1, HELD // len(memory))
    parts = [torch.cdist(part, memory).min(dim=1) for part in rows.split(step)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def core_set(rows: Float[Tensor, "R D"], count: int, *, seed: int = 0, project: int = 128) -> Int[Tensor, "count"]:
    """Greedy k-centre selection: each next row is the one farthest from all that were chosen.

    Distances are taken after a random linear projection, which keeps them nearly (Johnson and Lindenstrauss).

    Args:
        rows: to choose from.
        count: how many.
        seed: of the projection and of the first row.
        project: dimensions of the projection; 0, or not below D, for none.

    Raises:
        UsageError: a count outside 1..R.
    """
    if not 1 <= count <= len(rows):
        raise UsageError(f"count must be in 1..{len(rows)}, not {count}")
    generator = torch.Generator().manual_seed(seed)
    first = int(torch.randint(len(rows), (1,), generator=generator))
    if 0 < project < rows.shape[1]:
        turn = torch.randn(rows.shape[1], project, generator=generator) / project**0.5
        rows = rows @ turn.to(rows)
    squares = rows.square().sum(dim=1)
    chosen = torch.empty(count, dtype=torch.long, device=rows.device)
    least = torch.full((len(rows),), torch.inf, dtype=rows.dtype, device=rows.device)
    place = torch.tensor(first, device=rows.device)
    for number in range(count):
        chosen[number] = place
        least = torch.minimum(least, squares + squares[place] - 2 * (rows @ rows[place]))
        # Never twice, also where rows are equal.
        least[place] = -1.0
        place = least.argmax()
    return chosen
