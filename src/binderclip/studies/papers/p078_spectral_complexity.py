"""Does the cumulative spectral gradient order sets of pictures by how hard they are for a network trained on them?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.evaluate import cumulative_spectral_gradient
from binderclip.fit import fit
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots

SIDE, DIMENSIONS, MEMBERS, REPEATS, STEPS, BATCH, RATE = 8, 10, 60, 3, 200, 128, 3e-3
CATEGORIES = (
    "computer", "signs and symbols", "recreation", "people", "food", "animals", "shapes", "transportation", "tools",
    "office",
)  # fmt: skip
KINDS = (
    "digits", "noise 0.3", "noise 0.6", "4 x 4 pixels", "2 x 2 pixels", "upper half", "two rows", "shifted", "turned",
    "mixed with another", "clip art",
)  # fmt: skip
WRONG = ("digits", *(f"{share} % of labels at random" for share in (10, 20, 30, 40, 50)))
CSG, SHUFFLED, NEAREST, FISHER = "spectral gradient", "of shuffled labels", "1-NN error", "Fisher's ratio, inverse"
MEASURES = (CSG, SHUFFLED, NEAREST, FISHER)
VALUE, ERROR, RHO, NETWORK = "complexity", "test error", "rank correlation with the error", "small CNN"
Sets = dict[str, tuple[Float[np.ndarray, "N 8 8"], Int[np.ndarray, "N"]]]


@lru_cache(maxsize=1)
def _pictures() -> Sets:
    """scikit-learn's digits; and clip art of ten categories in 8 x 8 greys, at most 200 of each."""
    from PIL import Image
    from sklearn.datasets import load_digits

    from binderclip.data import load_data

    digits, data = load_digits(), load_data("openclipart", split="train")
    labels = np.array(data.column("label"), dtype=object)
    rows = np.concatenate([np.flatnonzero(labels == name)[:200] for name in CATEGORIES])
    small = [data[row].image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX) for row in rows.tolist()]
    art = np.stack([np.asarray(picture) / 255 for picture in small])
    named = np.array([CATEGORIES.index(str(labels[row])) for row in rows])
    return {"digits": (digits.images / 16, digits.target), "clip art": (art, named)}


def sets_of(seed: int) -> Sets:
    """All sets of one seed: digits made harder in several ways, with wrong labels, and clip art."""
    (x, y), rng = _pictures()["digits"], np.random.default_rng([seed, 78])
    moves = rng.integers(-2, 3, (len(x), 2)).tolist()
    blocks = {side: x.reshape(-1, side, 8 // side, side, 8 // side).mean((2, 4)) for side in (4, 2)}
    made = {
        "digits": x,
        "noise 0.3": x + 0.3 * rng.normal(size=x.shape),
        "noise 0.6": x + 0.6 * rng.normal(size=x.shape),
        "4 x 4 pixels": blocks[4].repeat(2, 1).repeat(2, 2),
        "2 x 2 pixels": blocks[2].repeat(4, 1).repeat(4, 2),
        "upper half": x * (np.arange(8) < 4)[:, None],
        "two rows": x * np.isin(np.arange(8), (3, 4))[:, None],
        "shifted": np.stack([np.roll(one, move, (0, 1)) for one, move in zip(x, moves, strict=True)]),
        "turned": np.stack([np.rot90(one, k) for one, k in zip(x, rng.integers(0, 4, len(x)), strict=True)]),
        "mixed with another": (x + x[rng.permutation(len(x))]) / 2,
    }
    sets = {name: (pictures, y) for name, pictures in made.items()} | {"clip art": _pictures()["clip art"]}
    for share, name in zip((0.1, 0.2, 0.3, 0.4, 0.5), WRONG[1:], strict=True):
        sets[name] = x, np.where(rng.random(len(y)) < share, rng.integers(0, 10, len(y)), y)
    return sets


def complexities(x: Float[np.ndarray, "N 64"], y: Int[np.ndarray, "N"], seed: int) -> dict[str, float]:
    """Each measure of a set, larger for a harder one, on its first principal components."""
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    z = PCA(DIMENSIONS, random_state=seed).fit_transform(x)
    options = {"samples_per_class": MEMBERS, "repeats": REPEATS, "seed": seed}
    mixed = np.random.default_rng([seed, 79]).permutation(y)
    nearest = NearestNeighbors(n_neighbors=1).fit(z).kneighbors(return_distance=False)[:, 0]
    groups = [z[y == c] for c in np.unique(y)]
    between = sum(len(g) * (g.mean(0) - z.mean(0)) ** 2 for g in groups)
    ratio = (between / sum(((g - g.mean(0)) ** 2).sum(0) for g in groups)).max()
    return {
        CSG: cumulative_spectral_gradient(z, y, **options).value,  # type: ignore[arg-type]  # whole numbers all
        SHUFFLED: cumulative_spectral_gradient(z, mixed, **options).value,  # type: ignore[arg-type]  # as above
        NEAREST: float((y[nearest] != y).mean()),
        FISHER: float(1 / (1 + ratio)),
    }


def error_of(x: Float[Tensor, "N 1 8 8"], y: Int[Tensor, "N"], train: int, seed: int) -> float:
    """Share of the pictures after the first `train` that a small network, trained on these, gets wrong."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip

    def batches() -> Iterator[Int[Tensor, "B"]]:
        while True:
            yield torch.randint(train, (BATCH,))

    fit(lambda rows: F.cross_entropy(net(x[rows]), y[rows]), net, batches(), steps=STEPS, lr=RATE)
    with torch.no_grad():
        return float((net(x[train:]).argmax(1) != y[train:]).float().mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    results, found = [], {}
    for name, (pictures, labels) in sets_of(seed).items():
        order = np.random.default_rng([seed, 80]).permutation(len(labels))
        x, y, train = pictures[order], labels[order], round(0.6 * len(labels))
        found[name] = complexities(x[:train].reshape(train, -1), y[:train], seed)
        with torch.random.fork_rng():
            error = error_of(torch.tensor(x[:, None], dtype=torch.float32), torch.tensor(y), train, seed)
        results.append(Row(ERROR, NETWORK, error, name))
        results += [Row(VALUE, measure, value, name) for measure, value in found[name].items()]
    errors = {row.setting: row.value for row in results if row.metric == ERROR}
    for measure in MEASURES:
        rho = spearmanr([found[kind][measure] for kind in KINDS], [errors[kind] for kind in KINDS]).statistic
        results.append(Row(RHO, measure, float(rho)))
    return results


def draw(table: Table, figure: Figure) -> None:
    """Error against complexity for every set, and how each measure ranks them."""
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    for names, mark, label in ((KINDS, "o", "sets"), (WRONG[1:], "x", "wrong labels")):
        points = [(table.values(VALUE, CSG, name).mean(), table.values(ERROR, NETWORK, name).mean()) for name in names]
        left.plot(*zip(*points, strict=True), mark, label=label)
        for name, point in zip(names, points, strict=True):
            left.annotate(name.replace(" of labels at random", ""), point, fontsize=6)
    left.set(xlabel=CSG, ylabel=f"{ERROR}, {NETWORK}")
    left.legend(fontsize=7)
    dots(right, table, RHO, MEASURES)
    right.set_title(RHO, fontsize=9)
    right.tick_params(axis="x", labelrotation=30, labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(200, 210), registered="040b7c9a2230")
