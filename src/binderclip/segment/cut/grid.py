"""Minimum cuts of a grid of pixels: of two labels exactly, of several by expansion moves."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

__all__ = ["Edges", "GridGraph", "contrast_edges", "expand", "minimum_cut"]

#: (row step, column step, weights (h, w)): `weights[i, j]` joins pixel (i, j) and (i + row step, j + column step)
Edges = list[tuple[int, int, np.ndarray]]

# scipy's flow takes integers; costs are kept to a thousandth, and none is above a million.
_PRECISION, _MOST = 1000, 1e6


class Links:
    """Which pixels of a grid are neighbours, and with what weight.

    Args:
        edges: (row step, column step, weights): entries whose partner is outside are not read; weights at least 0.
        shape: (h, w) of the grid.

    Attributes:
        first, second: pixel numbers, row by row. weights: of each link.
    """

    def __init__(self, edges: Edges, shape: tuple[int, int]) -> None:
        self.shape = shape
        index = np.arange(shape[0] * shape[1]).reshape(shape)
        first, second, weights = [index[:0].ravel()], [index[:0].ravel()], [np.zeros(0)]
        for down, right, weight in edges:
            left, top = max(0, -right), max(0, -down)
            here = (slice(top, shape[0] - max(0, down)), slice(left, shape[1] - max(0, right)))
            there = (slice(here[0].start + down, here[0].stop + down), slice(left + right, here[1].stop + right))
            first.append(index[here].ravel())
            second.append(index[there].ravel())
            weights.append(weight[here].ravel())
        self.first, self.second, self.weights = (np.concatenate(each) for each in (first, second, weights))
        self._graph: tuple[np.ndarray, GridGraph] | None = None

    def graph(self, free: Bool[np.ndarray, "h w"]) -> GridGraph:
        """The graph of the free pixels; the last one is kept, as it is often cut again with other costs."""
        if self._graph is None or not np.array_equal(self._graph[0], free):
            self._graph = (free, GridGraph(self, free))
        return self._graph[1]


class GridGraph:
    """The pixels of a grid that are free, as a graph whose structure is built once and cut as often as costs change.

    Args:
        links: of the grid.
        free: pixels that the cut decides about; the others have a side already and only pull their neighbours. None
            for all.
    """

    def __init__(self, links: Links, free: Bool[np.ndarray, "h w"] | None = None) -> None:
        self.links, self.free = links, np.ones(links.shape, dtype=bool) if free is None else free
        count = self.count = int(self.free.sum())
        number = np.full(self.free.size, -1)
        number[self.free.ravel()] = np.arange(count)
        first, second = number[links.first], number[links.second]
        self.inner = (first >= 0) & (second >= 0)
        # A link between a free pixel and one that is decided is part of the free one's own cost.
        ahead, behind = (first >= 0) & (second < 0), (first < 0) & (second >= 0)
        self._pulled = np.concatenate([first[ahead], second[behind]])
        self._pulling = np.concatenate([links.second[ahead], links.first[behind]])
        self._pull = np.concatenate([links.weights[ahead], links.weights[behind]])
        first, second = first[self.inner], second[self.inner]
        nodes, source, sink = np.arange(count), np.full(count, count), np.full(count, count + 1)
        # Every link both ways, those of source and sink too: the solver then finds its reverse links there.
        starts = np.concatenate([first, second, source, nodes, nodes, sink])
        ends = np.concatenate([second, first, nodes, source, sink, nodes])
        self._order = np.lexsort((ends, starts))
        self._ends = ends[self._order].astype(np.int32)
        self._heads = np.concatenate([[0], np.bincount(starts, minlength=count + 2).cumsum()]).astype(np.int32)

    def cut(
        self,
        object_cost: Float[np.ndarray, "h w"],
        rest_cost: Float[np.ndarray, "h w"],
        decided: Bool[np.ndarray, "h w"] | None = None,
        *,
        ahead: Float[np.ndarray, "L"] | None = None,
        behind: Float[np.ndarray, "L"] | None = None,
    ) -> Bool[np.ndarray, "h w"]:
        """The labelling that minimises unary costs plus the weights between unlike neighbours, exactly.

        Args:
            object_cost: cost of calling a pixel object.
            rest_cost: cost of calling it background.
            decided: True for object; read where pixels are not free, and given back there.
            ahead, behind: of each link between free pixels (`inner`), the cost of object at its first and background at
                its second pixel, and of the reverse; None for the link's weight.

        Returns:
            True for object.
        """
        inside = np.zeros(self.links.shape, dtype=bool) if decided is None else decided.copy()
        if not self.count:
            return inside
        # Only differences of the unary costs matter; shifted, both are at least 0.
        gain = (rest_cost - object_cost)[self.free]
        pull = np.where(inside.ravel()[self._pulling], self._pull, -self._pull)
        gain = gain + np.bincount(self._pulled, pull, minlength=self.count)
        weights = self.links.weights[self.inner]
        nothing = np.zeros(self.count)
        # A pixel left on the source's side (object) cuts its link to the sink, and the other way round.
        capacities = [
            weights if ahead is None else ahead, weights if behind is None else behind,
            gain.clip(min=0), nothing, (-gain).clip(min=0), nothing,
        ]  # fmt: skip
        whole = np.rint(np.concatenate(capacities).clip(0, _MOST) * _PRECISION).astype(np.int32)
        side = self.count + 2
        graph: Any = sparse.csr_matrix((whole[self._order], self._ends, self._heads), shape=(side, side))
        residual = graph - maximum_flow(graph, self.count, self.count + 1).flow
        residual.data = np.maximum(residual.data, 0)
        residual.eliminate_zeros()
        reached = breadth_first_order(residual, self.count, directed=True, return_predecessors=False)
        sides = np.zeros(side, dtype=bool)
        sides[reached] = True
        inside[self.free] = sides[: self.count]
        return inside


def minimum_cut(
    object_cost: Float[np.ndarray, "h w"], rest_cost: Float[np.ndarray, "h w"], edges: Edges
) -> Bool[np.ndarray, "h w"]:
    """The labelling of a grid that minimises unary costs plus the weights between unlike neighbours, exactly.

    Args:
        object_cost: cost of calling a pixel object.
        rest_cost: cost of calling it background.
        edges: (row step, column step, weights): `weights[i, j]` joins pixel (i, j) and (i + row step, j + column step),
            entries whose partner is outside are not read; at least 0.

    Returns:
        True for object.
    """
    shape = (object_cost.shape[0], object_cost.shape[1])
    return GridGraph(Links(edges, shape)).cut(object_cost, rest_cost)


def expand(
    costs: Float[np.ndarray, "K h w"],
    links: Links,
    labels: Int[np.ndarray, "h w"],
    *,
    free: Bool[np.ndarray, "h w"] | None = None,
    sweeps: int = 3,
) -> Int[np.ndarray, "h w"]:
    """Labels of low cost: each in turn may take any pixels from the others, by an exact cut, until none gains.

    The energy is the sum of the pixels' costs and of the weights between neighbours of unlike labels (Potts). It never
    rises, and ends within a factor of 2 of the least one; with two labels it is the least one.

    Args:
        costs: of each label at each pixel.
        links: of the grid.
        labels: to start from.
        free: pixels that may change; None for all.
        sweeps: of all labels, at most.

    Paper: Boykov, Veksler, Zabih, Fast Approximate Energy Minimization via Graph Cuts (PAMI 2001).
    """
    labels = labels.copy()
    free = np.ones(labels.shape, dtype=bool) if free is None else free
    if len(costs) == 2:
        is_label = links.graph(free).cut(costs[1], costs[0], labels == 1)
        return np.where(free, is_label, labels).astype(labels.dtype)
    energy = labelling_energy(costs, links, labels)
    for _ in range(sweeps):
        before = energy
        for label in range(len(costs)):
            moved = _expansion(costs, links, labels, free, label)
            changed = labelling_energy(costs, links, moved)
            if changed < energy:
                labels, energy = moved, changed
        if energy >= before:
            break
    return labels


def labelling_energy(costs: Float[np.ndarray, "K h w"], links: Links, labels: Int[np.ndarray, "h w"]) -> float:
    """The pixels' costs, and the weights of links between unlike labels."""
    flat = labels.ravel()
    own = np.take_along_axis(costs.reshape(len(costs), -1), flat[None], 0).sum()
    return float(own + links.weights[flat[links.first] != flat[links.second]].sum())


def _expansion(
    costs: np.ndarray, links: Links, labels: np.ndarray, free: np.ndarray, label: int
) -> Int[np.ndarray, "h w"]:
    """One label takes what it may: `object` is to take it, `rest` to stay."""
    graph = GridGraph(links, free & (labels != label))
    first, second = links.first[graph.inner], links.second[graph.inner]
    weights, flat = links.weights[graph.inner], labels.ravel()
    apart = flat[first] != flat[second]
    # Two neighbours of unlike labels pay already, and pay the same when one of them is taken: w (1 - x_p x_q) is
    # w - w x_q + w (1 - x_p) x_q.
    saved = np.bincount(second[apart], weights[apart], minlength=labels.size).reshape(labels.shape)
    stay = np.take_along_axis(costs, labels[None], 0)[0]
    decided = labels == label
    # A neighbour that is decided and of another label than the pixel's own pays in any case unless both are `label`.
    stay = stay + _paid_by_staying(links, labels, free & (labels != label), label)
    taken = graph.cut(costs[label] - saved, stay, decided, ahead=np.where(apart, 0.0, weights), behind=weights)
    return np.where(taken, label, labels).astype(labels.dtype)


def _paid_by_staying(links: Links, labels: np.ndarray, free: np.ndarray, label: int) -> Float[np.ndarray, "h w"]:
    """What `GridGraph` does not know of links to decided pixels: a neighbour of a third label costs on both sides.

    The graph takes a decided pixel that is not `label` for one that stays alike; where the free pixel's own label is
    another, staying pays the weight as well.
    """
    flat, loose = labels.ravel(), free.ravel()
    paid = np.zeros(labels.size)
    for here, there in ((links.first, links.second), (links.second, links.first)):
        mixed = loose[here] & ~loose[there] & (flat[there] != label) & (flat[here] != flat[there])
        paid += np.bincount(here[mixed], links.weights[mixed], minlength=labels.size)
    return paid.reshape(labels.shape)


def contrast_edges(colours: Float[np.ndarray, "h w 3"], gamma: float, neighbours: int = 8) -> Edges:
    """Weights `gamma exp(-|dI|^2 / (2 <|dI|^2>)) / distance` between neighbours, the mean over this picture.

    Args:
        colours: any three channels; their scale does not matter.
        gamma: weight of neighbours of one colour.
        neighbours: 4 or 8.
    """
    steps = [(0, 1), (1, 0)] + ([(1, 1), (1, -1)] if neighbours == 8 else [])
    squared = [((colours - np.roll(colours, (-down, -right), axis=(0, 1))) ** 2).sum(axis=2) for down, right in steps]
    inner = [part[: part.shape[0] - 1, 1 : part.shape[1] - 1] for part in squared]
    beta = float(np.mean([part.mean() if part.size else 0.0 for part in inner]))
    beta = beta if beta > 0 else 1.0
    lengths = [np.hypot(down, right) for down, right in steps]
    return [
        (down, right, gamma * np.exp(-part / (2 * beta)) / length)
        for (down, right), part, length in zip(steps, squared, lengths, strict=True)
    ]
