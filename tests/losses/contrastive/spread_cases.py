"""The cases that one process and several processes must agree on; run as a program it is one of the processes."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from binderclip.losses import (
    METHODS,
    SIMILARITIES,
    AlignmentScale,
    CrossModalBarlow,
    CrossModalSimSiam,
    CrossModalSwAV,
    EmbeddingDistill,
    Pair,
    SameKey,
    SimilarityDistill,
    contrastive_step,
)

ROWS = 22
# with the texts too, because DDP waits for every parameter's gradient
TWO_VIEWS = (Pair("image", "view", same_view_negatives=True), Pair("image", "text", weight=0.3))
CASES = {
    "softmax": {"chunk": 4},
    "softmax-default-chunk": {},
    "softmax-smoothed-one-sided": {"chunk": 5, "pairs": (Pair(smoothing=0.1, symmetric=False),)},
    "softmax-same-key": {"chunk": 4, "targets": SameKey()},
    "softmax-ignore-key": {"chunk": 4, "targets": SameKey("ignore")},
    "softmax-smoothed-ignore-key": {"chunk": 4, "pairs": (Pair(smoothing=0.1),), "targets": SameKey("ignore")},
    "sigmoid": {"chunk": 4, "link": "sigmoid"},
    "sigmoid-same-key": {"chunk": 4, "link": "sigmoid", "targets": SameKey()},
    "distill-similarity": {"chunk": 4, "terms": lambda: [SimilarityDistill(0.7, teacher_scale=9.0)]},
    "distill-embedding": {"terms": lambda: [EmbeddingDistill(0.7)]},
    "distill-similarity-lorentz": {"chunk": 4, "similarity": "lorentz", "terms": lambda: [SimilarityDistill(0.7)]},
    **{f"softmax-{name}": {"chunk": 4, "similarity": name} for name in SIMILARITIES},
    **{f"sigmoid-{name}": {"chunk": 4, "similarity": name, "link": "sigmoid"} for name in ("arc", "lorentz")},
    **{f"preset-{name}": {"chunk": 4, "preset": name} for name in METHODS},
    "preset-euclip-entailment": {"preset": "euclip", "entailment": 0.2},
    "macl-learned-ignore-key": {"chunk": 4, "preset": "macl", "learnable": True, "targets": SameKey("ignore")},
    "two-views": {"chunk": 5, "pairs": TWO_VIEWS},
    "two-views-lorentz": {"chunk": 5, "similarity": "lorentz", "pairs": TWO_VIEWS},
    "two-views-macl": {"chunk": 5, "preset": "macl", "pairs": TWO_VIEWS, "learnable": True},
    "rocket-barlow": {"chunk": 4, "preset": "clip-rocket", "terms": lambda: [CrossModalBarlow(0.7)]},
    "rocket-simsiam": {"chunk": 4, "preset": "clip-rocket", "terms": lambda: [CrossModalSimSiam(0.7)]},
    "rocket-swav": {"chunk": 4, "preset": "clip-rocket", "terms": lambda: [CrossModalSwAV(0.7, eps=0.3)]},
    "alignment-scale-only": {"chunk": 4, "scales": lambda: AlignmentScale(0.2, 0.7, 0.1, learnable=True)},
}
PROMISED = ["softmax", "softmax-same-key", "sigmoid", "preset-meru", "two-views-macl", "rocket-swav"]
ROCKETS = ["rocket-barlow", "rocket-simsiam", "rocket-swav"]
GRADCACHE = ["softmax", *(f"preset-{name}" for name in METHODS), "two-views-macl", *ROCKETS]


class Encoders(nn.Module):
    """Features of a batch; with `paired` two of each picture and two of each text."""

    def __init__(self, paired: bool = False) -> None:
        super().__init__()
        self.paired = paired
        torch.manual_seed(1)
        self.image, self.text = nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, batch):
        teachers = {name: value for name, value in batch.items() if name.startswith("teacher")}
        image, view = self.image(batch["image"]), self.image(batch["view"])
        texts = {name: self.text(batch[name]) for name in ("text", "negatives", "text_local")}
        if self.paired:
            return {"image": torch.stack([image, view], 1), "text": texts["text_local"]}
        return {"image": image, "view": view, "image_local": self.image(batch["image_local"]), **texts, **teachers}


def whole_batch():
    generator = torch.Generator().manual_seed(0)
    names = ("image", "text", "teacher_image", "teacher_text", "view")
    batch = {name: torch.randn(ROWS, 6 if "_" not in name else 5, generator=generator) for name in names}
    batch["negatives"] = torch.randn(ROWS, 3, 6, generator=generator)
    for name in ("image_local", "text_local"):
        batch[name] = torch.randn(ROWS, 2, 6, generator=generator)
    return {name: value.double() for name, value in batch.items()}, [row % 7 for row in range(ROWS)]


def counts_for(world, even):
    if even:
        return [ROWS // world] * world if ROWS % world == 0 else [5] * world
    return {1: [ROWS], 2: [13, 9], 4: [8, 3, 1, 10]}[world]


def run_case(settings, counts, rank, wrap, micro_batch=None):
    """Loss, metrics and gradients of one process's rows."""
    settings = {name: value() if callable(value) else value for name, value in settings.items()}
    preset = settings.pop("preset", "contrastive")
    make = METHODS[preset]
    batch, keys = whole_batch()
    start = sum(counts[:rank])
    rows = slice(start, start + counts[rank])
    model = wrap(Encoders(preset == "mammo-clip").double())
    loss = make(**settings).double()
    output = contrastive_step(model, {n: v[rows] for n, v in batch.items()}, loss, micro_batch, keys=keys[rows])
    parameters = [*model.parameters(), *loss.parameters()]
    return {
        "total": output.total,
        "metrics": output.metrics,
        "grads": [p.grad for p in parameters if p.requires_grad and p.grad is not None],
    }


def splits(name, world):
    """Whether the batch is split evenly: four processes are asked for uneven shares, and for even ones of a few."""
    return (True, False) if world == 2 or name in PROMISED else (False,)


def main(rank, world, store, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    results = {}
    for name, settings in CASES.items():
        for even in splits(name, world):
            counts = counts_for(world, even)
            results[name, even] = run_case(settings, counts, rank, DistributedDataParallel)
        if name in PROMISED:
            equal = {**settings, "gather": "equal"}
            results[name, "equal"] = run_case(equal, counts_for(world, True), rank, DistributedDataParallel)
    for name in GRADCACHE:
        results["gradcache", name] = run_case(CASES[name], counts_for(world, True), rank, DistributedDataParallel, 2)
    torch.save(results, f"{out}.{rank}")
    # A process that leaves while another still talks to it can take it down.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
