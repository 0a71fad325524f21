"""Places in the plane that keep which pictures are neighbours, and the same places on a grid without overlap."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float, Int

from binderclip.errors import UsageError
from binderclip.settings import check_choice

__all__ = ["LAYOUTS", "fitted_perplexity", "grid_cells", "neighbours_kept", "planar_layout"]

LAYOUTS = ("tsne", "pca")
FEWEST = 5
"""Rows that t-SNE needs: with fewer a perplexity of more than one neighbour cannot be reached."""
INIT_STD = 1e-4
"""Standard deviation of t-SNE's first places along the first axis, as in Kobak and Berens (2019)."""
SAME = 1e-9
"""Spread of the rows, as a standard deviation, below which they are one point."""
MOST_COMPARED = 2000
"""Rows of which all pairs are compared for `neighbours_kept`: memory goes with their square."""


def fitted_perplexity(perplexity: float, count: int) -> float:
    """The perplexity for `count` rows: at most a third of the other ones, since t-SNE looks at three times as many.

    Args:
        perplexity: that is wished for. count: rows, at least 2.
    """
    return max(1.0, min(perplexity, (count - 1) / 3))


def planar_layout(
    rows: Float[np.ndarray, "n d"], *, method: str = "tsne", perplexity: float = 30.0, seed: int = 0
) -> Float[np.ndarray, "n 2"]:
    """Places of unit vectors in the plane, each coordinate from 0 to 1, the longer side of their box filled.

    t-SNE begins at the first two principal components and compares by cosines; fewer than five rows, or `pca`, are
    projected on these components, which is exact up to three rows. Rows that are all alike share the place (0.5, 0.5).

    Args:
        rows: unit vectors.
        method: `tsne` or `pca`.
        perplexity: effective number of neighbours of t-SNE, brought down by `fitted_perplexity` for few rows.
        seed: of t-SNE.

    Raises:
        UsageError: no row, or an unknown method.

    Paper: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008.
    """
    check_choice("method", method, LAYOUTS)
    if not len(rows):
        raise UsageError("rows is empty: a layout needs at least one")
    rows = np.asarray(rows, dtype=np.float64)
    places = _principal(rows)  # (n, 2)
    spread = places[:, 0].std()
    if spread < SAME:
        return np.full((len(rows), 2), 0.5)
    if method == "tsne" and len(rows) >= FEWEST:
        from sklearn.manifold import TSNE

        tsne = TSNE(
            metric="cosine", init=(places / spread * INIT_STD).astype(np.float32), random_state=seed,
            perplexity=fitted_perplexity(perplexity, len(rows)),
        )  # fmt: skip
        places = tsne.fit_transform(rows.astype(np.float32)).astype(np.float64)
    low, high = places.min(0), places.max(0)
    side = (high - low).max()
    # The shorter side stands in the middle; distances keep their ratios.
    return (places - (low + high) / 2) / side + 0.5


def _principal(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """Projections on the first two principal components; each one's largest entry is positive, so that it is one."""
    u, s, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    places = np.zeros((len(rows), 2))
    kept = min(2, len(s))
    places[:, :kept] = u[:, :kept] * s[:kept]
    largest = np.abs(places).argmax(0)
    return places * np.where(places[largest, [0, 1]] < 0, -1.0, 1.0)


def neighbours_kept(
    rows: Float[np.ndarray, "n d"], places: Float[np.ndarray, "n 2"], *, neighbours: int = 10
) -> float | None:
    """Trustworthiness of a layout: 1 where the nearest in the plane are near as vectors, about 0.5 at random places.

    Of more than 2,000 rows it is that of 2,000, evenly spread over all.

    Args:
        rows: vectors, compared by cosines. places: theirs in the plane.
        neighbours: k, of each row; fewer where there are few rows, since it has to be below n / 2.

    Returns:
        None below three rows, where there is nothing to confuse.

    Paper: Venna and Kaski, Neighborhood preservation in nonlinear projection methods, ICANN 2001.
    """
    from sklearn.manifold import trustworthiness

    if len(rows) > MOST_COMPARED:
        chosen = np.linspace(0, len(rows) - 1, MOST_COMPARED).round().astype(int)
        rows, places = rows[chosen], places[chosen]
    if len(rows) < 3:
        return None
    k = min(neighbours, (len(rows) - 1) // 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return float(trustworthiness(rows, places, n_neighbors=k, metric="cosine"))


def grid_cells(places: Float[np.ndarray, "n 2"], side: int) -> Int[np.ndarray, "n 2"]:
    """A cell of a square grid for each place, no two in one, so that the sum of squared distances is least.

    Args:
        places: coordinates from 0 to 1, x to the right, y down.
        side: cells along a side.

    Returns:
        Column and row of each, from 0.

    Raises:
        UsageError: fewer cells than places.
    """
    from scipy.optimize import linear_sum_assignment

    if side * side < len(places):
        raise UsageError(f"side={side}: {side * side} cells for {len(places)} places")
    centre = (np.arange(side) + 0.5) / side
    cells = np.stack([np.tile(centre, side), np.repeat(centre, side)], 1)  # (side * side, 2)
    cost = ((places[:, None] - cells[None]) ** 2).sum(-1)  # (n, side * side)
    _, chosen = linear_sum_assignment(cost)
    return np.stack([chosen % side, chosen // side], 1)
