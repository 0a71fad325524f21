"""AutoCLIP at 1,000 classes x 80 templates on cached features, and features kept on disk against a plain loop."""

from __future__ import annotations

import tempfile

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.encode import _small, folder, plain_loop
from benchmarks.harness import Row, compare, row, timed
from binderclip.adapt import ZeroShotClassifier
from binderclip.adapt.selection import encode_dataset
from binderclip.data import load_folder
from binderclip.models import TextBank

CLASSES, TEMPLATES, WIDTH, IMAGES = 1000, 80, 512, 256
FILES = 300


def run(*, repeats: int = 7, files: int = FILES) -> list[Row]:
    """Both comparisons.

    Args:
        repeats: pairs of the classifiers.
        files: pictures of the feature loop.
    """
    return [*_pools(repeats), *_features(files)]


def _bank() -> TextBank:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, 1, WIDTH, generator=generator)
    raw = (centres + 0.5 * torch.randn(CLASSES, TEMPLATES, WIDTH, generator=generator)).flatten(0, 1)
    names = [f"class {c}" for c in range(CLASSES)]
    owner = torch.arange(CLASSES).repeat_interleave(TEMPLATES)
    return TextBank(names, [f"{n}" for n in range(len(raw))], raw, owner, torch.tensor(100.0))


def _pools(repeats: int) -> list[Row]:
    bank = _bank()
    x = F.normalize(torch.randn(IMAGES, WIDTH, generator=torch.Generator().manual_seed(1)), dim=-1)
    auto, folded = ZeroShotClassifier(bank, pool="auto").fit(), ZeroShotClassifier(bank, pool="mean").fit()
    unit = bank.unit

    def unfolded() -> Tensor:
        parts = [(part @ unit.T).unflatten(1, (CLASSES, TEMPLATES)).mean(-1) for part in x.split(64)]
        return 100 * torch.cat(parts)

    assert torch.allclose(folded.logits(x), unfolded(), atol=1e-3)
    shape = f"{IMAGES} images, {CLASSES} classes x {TEMPLATES} templates, width {WIDTH}"
    return [
        compare(
            f"AutoCLIP, {shape}",
            lambda: auto.logits(x),
            unfolded,
            repeats=repeats,
            speedup=False,
            goal="at most 1.2x",
            target=1.2,
            peer_name="mean of all cosines, not folded",
            note="float32; the cosines with every sentence are most of the work of both",
        ),
        compare(
            f"AutoCLIP against the folded classifier, {shape}",
            lambda: auto.logits(x),
            lambda: folded.logits(x),
            repeats=repeats,
            speedup=False,
            peer_name="one matrix product with the mean of each class",
            note="what weighing the sentences for each image costs beside not looking at them",
        ),
    ]


def _features(files: int) -> list[Row]:
    model, peer, transform = _small()
    paths = folder()[:files]
    with tempfile.TemporaryDirectory() as cache:
        data = load_folder(paths[0].parent, captions=None).subset(range(files))
        first, again, theirs = [], [], []
        for turn in range(3):
            theirs.append(timed(lambda: plain_loop(peer, transform, paths)))
            root = f"{cache}/{turn}"
            first.append(timed(lambda root=root: encode_dataset(model, data, root=root)))
            again.append(timed(lambda root=root: encode_dataset(model, data, root=root)))
    name = f"features of {files} files, `small`"
    loop = "open_clip, DataLoader with 2 workers"
    return [
        row(f"{name}, first time, stored", first, theirs, unit="s", goal="at least 1x", target=1.0, peer_name=loop),
        row(
            f"{name}, from the cache", again, theirs, unit="s", peer_name=loop, note="hashing the files is what is left"
        ),
    ]
