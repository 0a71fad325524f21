"""Measure what plans are computed from, at three sizes each: `OMP_NUM_THREADS=1 python -m benchmarks.plan_rates`.

Seconds are processor time of one core, the best of several repeats, which others on the machine hardly change. A fit to
the two smaller sizes is held against the third; what is stored is fitted to all three. Memory is what Python's
allocator traced, or the size of files.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.__main__ import machine
from benchmarks.harness import in_child
from benchmarks.rate_points import ROWS, SIZES, Amounts, Found, Rows, captions, error, fit, pipeline
from binderclip.curate import (
    CapPerGroup,
    ClipScore,
    ColumnStore,
    CurationPipeline,
    KeySelection,
    MeanRankTopFraction,
    Membership,
    MetadataBalancer,
    ScoreThreshold,
    ScoreTopFraction,
    Shard,
    SubstringMatcher,
    open_table,
    spherical_kmeans,
    strip_numbers,
    write_decisions,
)
from binderclip.curate.engine.kmeans import CentroidStatistic, nearest_centroids
from binderclip.curate.rules.duplicates import _TwinStatistic, compared, has_twin_before
from binderclip.curate.signals.embedded_text import EMBEDDED_TEXT_SIGNALS
from binderclip.curate.signals.plain import IMAGE_SIGNALS, TEXT_SIGNALS, SideSignal
from binderclip.data.parallel.rates import STORED


def rules(found: Found) -> None:
    """Passes of the rules that do not look at embeddings."""

    def row(n: int) -> Amounts:
        return {"row": n}

    def ordered(n: int) -> Amounts:
        return {"row": n, "sorted row": n * np.log2(n)}

    pipeline(found, "threshold", ScoreThreshold(column="score", minimum=0.0), Rows, row)
    pipeline(found, "membership", Membership(member="kind", values=["a", "b"]), Rows, row)
    pipeline(found, "top-fraction", ScoreTopFraction(column="score", fraction=0.5), Rows, ordered)
    pipeline(found, "mean-rank", MeanRankTopFraction(columns=["score", "other"], fraction=0.5), Rows, ordered)
    pipeline(found, "cap-per-group", CapPerGroup(group="group", count=1), Rows, ordered)
    matcher = SubstringMatcher([f"entry {i}" for i in range(10_000)])
    for matches in (2, 8):

        def made(n: int, many: int = matches) -> Rows:
            return Rows(n, many, matcher.name)

        def matched(n: int, many: int = matches) -> Amounts:
            return {"row": n, "match": n * many}

        def searched(n: int, many: int = matches) -> Amounts:
            return {**matched(n, many), "match step": n * many * np.log2(n)}

        pipeline(found, "metaclip", MetadataBalancer(concepts=matcher, t=20), made, matched)
        pipeline(found, "metaclip target", MetadataBalancer(concepts=matcher, target=5_000), made, searched)
    for size, n in enumerate(SIZES):
        keys = Rows(n).keys
        found.time("selection", size, {"sorted row": n * np.log2(n)}, lambda keys=keys: KeySelection(keys))
        tracemalloc.start()
        KeySelection(keys)
        found.hold("selection, most", size, {"pass": 1.0, "row": n}, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        table = Rows(n)
        done = CurationPipeline([ScoreThreshold(column="score", minimum=0.5)]).run(table, scores=True)
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "samples.parquet")
            found.time("decisions", size, {"row": n}, lambda d=done, t=table, p=place: write_decisions(d, t, p))
            found.hold("decisions file", size, {"row": n}, place.stat().st_size)


def clusters(found: Found) -> None:
    """k-means, assignment and comparison of rows of embeddings."""
    rng = np.random.default_rng(0)
    for size, scale in enumerate((1, 2, 4)):
        for d, k in ((64, 16), (512, 16), (64, 256), (512, 128)):
            n = 2_000 * scale
            x, centroids = rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(k, d))
            centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
            units: Amounts = {"number": n * d, "distance": n * k, "product": n * k * d}
            found.time("assign", size, units, lambda x=x, c=centroids: nearest_centroids(x, c))
        for d in (64, 256):
            x = rng.normal(size=(3_000 * scale, d)).astype(np.float32)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            pairs = compared(len(x))
            found.time("twins", size, {"pair": pairs, "product": pairs * d}, lambda x=x: has_twin_before(x, 0.9))
        k, d = 12 * scale, 64
        x = rng.normal(size=(256 * k, d))
        steps = len(x) * k * d * (10 + 2 + np.log(k))
        found.time(
            "k-means",
            size,
            {"product": steps, "number": x.size * 10},
            lambda x=x, k=k: spherical_kmeans(x, k, iterations=10),
        )
        keys = Rows(256 * k).keys
        for wide in (32, 128):
            rows = rng.normal(size=(len(keys), wide)).astype(np.float32)
            shards = [Shard("", keys[i : i + 1000], {"e": rows[i : i + 1000]}) for i in range(0, len(keys), 1000)]
            found.hold(
                "k-means, most",
                size,
                {"number": rows.size, "row": len(keys)},
                _traced(lambda s=shards, k=k: _centroids(s, k)),
            )
            labels = (keys["f0"] % np.uint64(len(keys) // 20)).astype(np.int64)
            for shard, start in zip(shards, range(0, len(keys), 1000), strict=True):
                shard.columns["label"] = labels[start : start + 1000]
            found.hold(
                "twins, most", size, {"number": rows.size, "row": len(keys)}, _traced(lambda s=shards: _twins(s))
            )
            found.time("twins, sorted", size, {"number": rows.size, "row": len(keys)}, lambda s=shards: _twins(s))


def _traced(work: Callable[[], object]) -> int:
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def _centroids(shards: Iterable[Shard], k: int) -> object:
    whole: CentroidStatistic | None = None
    for shard in shards:
        part = CentroidStatistic(
            lambda s: s.columns["e"], lambda keys: keys["f0"] / 2**63, k, sample=256 * k, iterations=2
        )
        part.update(shard)
        whole = part if whole is None else (whole.merge(part), whole)[1]
    return whole.result() if whole else None


def _twins(shards: Iterable[Shard]) -> object:
    whole = _TwinStatistic(lambda s: (s.columns["label"], np.zeros(len(s))), lambda s: s.columns["e"], 0.99)
    for shard in shards:
        whole.update(shard)
    return whole.result()


def signals(found: Found) -> None:
    """Columns of texts and of encoded pictures."""
    texts = captions(90_000)
    starts = dict.fromkeys(" ".join(text.split()[:2]) for text in texts)
    matcher = SubstringMatcher(list(starts)[:30_000])
    matcher.match("")
    found.hold("substrings", 2, {"entry": len(matcher)}, matcher._automaton.get_stats()["total_size"])
    for size, part in ((0, 7_500), (1, 15_000)):
        fewer = SubstringMatcher(matcher.entries[:part])
        fewer.match("")
        found.hold("substrings", size, {"entry": part}, fewer._automaton.get_stats()["total_size"])
    for size, n in enumerate((10_000, 30_000, 90_000)):
        shard = Shard("", Rows(n).keys, {"text": texts[:n], "texts": [[t] for t in texts[:n]], "ocr": texts[:n]})
        for signal in (*TEXT_SIGNALS, *(s for s in EMBEDDED_TEXT_SIGNALS if s.name != "ocr")):
            found.time(signal.name, size, {"row": n}, lambda s=signal, h=shard: s(h))
        found.time("substrings", size, {"row": n}, lambda h=shard: matcher(h))
        found.time("cleaner", size, {"row": n}, lambda n=n: [strip_numbers(text) for text in texts[:n]])
    for size, n in enumerate((300, 900, 2700)):
        for side in (64, 512):
            pictures = [_jpeg(side, i % 5) for i in range(n)]
            shard = Shard("", Rows(n).keys, {}, lambda rows, p=pictures: iter(p))
            units: Amounts = {"row": n, "byte": sum(map(len, pictures))}
            for signal in IMAGE_SIGNALS:
                if not signal.needs:
                    found.time(signal.name, size, units, lambda s=signal, h=shard: s(h))
    _by_shard(found)


def _by_shard(found: Found) -> None:
    """Columns of shards of 10,000 samples, of so many shards."""
    keys, rng = Rows(ROWS).keys, np.random.default_rng(0)
    for size, many in enumerate((3, 9, 27)):
        for d in (64, 256):
            rows = rng.normal(size=(ROWS, d)).astype(np.float32)
            own = Shard("", keys, {"image_embedding": rows, "caption_embedding": rows})
            units = {"row": ROWS * many, "number": ROWS * many * d}
            found.time("clip_score", size, units, lambda o=own, m=many: [ClipScore()(o) for _ in range(m)])
        width, height = rng.integers(50, 900, (2, ROWS)).astype(float)
        shard = Shard("", keys, {"original_width": width, "original_height": height})
        for name in ("side", "aspect"):
            signal = SideSignal(name)
            found.time(
                name, size, {"row": ROWS * many}, lambda s=signal, h=shard, m=many: [s(h) for _ in range(m)]
            )  # fmt: skip


@cache
def _jpeg(side: int, seed: int) -> bytes:
    """A picture of waves and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(2 * np.pi * (a * x + b * y)) for a, b in rng.uniform(-8, 8, (9, 2))]
    pixels = np.stack([sum(waves[i : i + 3]) for i in (0, 3, 6)], -1) * 30 + 128 + rng.normal(0, 6, (side, side, 3))
    sink = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(sink, "JPEG", quality=85)
    return sink.getvalue()


def reading(found: Found) -> None:
    """Shards, texts of the store, columns and parts of embeddings."""
    for size, n in enumerate((1_000, 3_000, 9_000)):
        texts = captions(n)
        with tempfile.TemporaryDirectory() as folder:
            for width in (1_000, 40_000) if size < 2 else (1_000, 20_000):
                place = Path(folder, f"x-{width}.tar")
                _tar(place, texts, b"\xff" * width)
                units: Amounts = {"row": n, "byte": n * (width + 60)}
                table = open_table(str(place))
                found.time("read shard", size, units, lambda t=table, p=place: _fresh(p, t))
            store = ColumnStore(Path(folder, "columns"))
            table = open_table(str(place), store=store)
            table.load(table.ids[0])
            found.time("load texts", size, {"row": n}, lambda t=table: t.load(t.ids[0]))
            found.hold("texts file", size, {"row": n}, sum(p.stat().st_size for p in Path(folder, "columns").iterdir()))
            found.hold("texts", size, {"row": n}, _traced(lambda t=table: t.load(t.ids[0])))
    for size, many in enumerate((2, 6, 18)):
        _columns_and_parts(found, size, many)


def _columns_and_parts(found: Found, size: int, many: int) -> None:
    """Stored columns and parts of embeddings, of so many shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n, texts = 3_000, captions(3_000)
    for d in (8, 256):
        rows = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
        half = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float16).reshape(-1)), d)
        columns = {"uid": [f"{i:032x}" for i in range(n)], "name": [f"{i:09d}" for i in range(n)], "text": texts}
        with tempfile.TemporaryDirectory() as folder:
            store = ColumnStore(Path(folder, "columns"))
            for number in range(many):
                store.fetch("c", f"{number}", lambda r=rows: {"c": r})
                part = Path(folder, f"{number}.parquet")
                whole = pa.table({**columns, "image_embedding": half, "caption_embedding": half})
                pq.write_table(whole, part, compression="zstd")
            units: Amounts = {"shard": many, "number": rows.size * many}
            found.time("read column", size, units, lambda s=store: [s.find("c", f"{i}") for i in range(many)])
            pool = open_table(folder)
            units = {"row": n * many, "number": 2 * rows.size * many}
            found.time("load part", size, units, lambda t=pool: [_part(t, id) for id in t.ids])
            found.hold("part file", size, units, part.stat().st_size * many)
            one = {"row": n, "number": 2 * rows.size}
            found.hold("part", size, one, _traced(lambda t=pool: _part(t, t.ids[0])))


def _part(table: Any, id: str) -> Any:
    """A part with its captions and embeddings."""
    shard = table.load(id)
    for name in ("text", "image_embedding", "caption_embedding"):
        shard.column(name)
    return shard


def _fresh(place: Path, table: Any) -> object:
    from binderclip.curate.engine.tables import _read_columns

    return _read_columns(table.ids[0], [])


def _tar(place: Path, texts: Sequence[str], picture: bytes) -> None:
    with tarfile.open(place, "w") as tar:
        for number, text in enumerate(texts):
            for suffix, content in (("jpg", picture), ("txt", text.encode())):
                entry = tarfile.TarInfo(f"{number:09d}.{suffix}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def encoders(found: Found) -> None:
    """The bundled models that a recipe may name."""
    import torch

    from binderclip import load

    torch.set_num_threads(1)
    models, texts = {name: load(name) for name in ("everyday", "small")}, captions(400)
    with torch.inference_mode():
        for size, n in enumerate((32, 96, 288)):
            for side in (128, 512):
                pictures = [_jpeg(side, i % 5) for i in range(n)]
                units: Amounts = {"picture": n, "byte": sum(map(len, pictures))}
                for name, model in models.items():
                    found.time(
                        f"encode picture, {name}",
                        size,
                        units,
                        lambda p=pictures, m=model: m.encode_files(p, batch_size=32, workers=1),
                        repeats=2,
                    )
            for name, model in models.items():
                found.time(
                    f"encode caption, {name}",
                    size,
                    {"caption": n},
                    lambda n=n, m=model: m.encode_text(texts[:n]),
                    repeats=2,
                )
    for name, model in models.items():
        stored = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        for size in range(3):
            found.hold(f"weights, {name}", size, {"model": 1.0}, stored)


def models(found: Found) -> None:
    """Training of towers, decoded pictures, and a process with nothing to do."""
    import torch

    from binderclip.train import Recipe, build_model

    torch.set_num_threads(1)
    texts = captions(400)
    for size, width in enumerate((128, 256, 512)):
        towers = {"vision": {"image_size": 64, "layers": 3, "width": width, "patch_size": 8},
                  "text": {"width": width, "heads": 4, "layers": 3}}  # fmt: skip
        shape = {"arch": "open_clip", "embed_dim": 128, "tokenizer": "captions", "vocabulary": 512, "context": 16}
        recipe = Recipe.from_dict({"model": {**shape, **towers}, "data": ["packs"], "samples": 32, "batch_size": 32})
        model = build_model(recipe.model, seed=0, captions=lambda: texts)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        images, ids, labels = torch.randn(32, 3, 64, 64), model.tokenize(texts[:32]), torch.arange(32)

        def step(
            model: Any = model, optimizer: Any = optimizer, images: Any = images, ids: Any = ids, labels: Any = labels
        ) -> None:
            a, b = (
                torch.nn.functional.normalize(x, dim=-1)
                for x in (model.backbone.encode_image(images), model.encode_text(ids))
            )
            logits = model.scale() * a @ b.T
            (
                torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)
            ).backward()
            optimizer.step()
            optimizer.zero_grad()

        step()
        found.time("training", size, {"operation": recipe.cost().flops or 0}, step, repeats=5)
    from binderclip.data import open_image
    from binderclip.data.images import to_tensor

    for size, n in enumerate((60, 180, 540)):
        for side in (128, 512):
            pictures = [_jpeg(side, i % 5) for i in range(n)]
            units: Amounts = {"picture": n, "byte": sum(map(len, pictures))}
            found.time(
                "decode", size, units, lambda p=pictures: [to_tensor(open_image(each).resize((256, 256))) for each in p]
            )
    code = (
        "import json, resource, torch, binderclip.train, binderclip.curate, open_clip; "
        "print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))"
    )
    for size in range(3):
        found.hold("process", size, {"process": 1.0}, in_child(code))


def document(found: Found, load: str) -> dict[str, Any]:
    """What is stored."""
    kinds = {
        kind: {
            name: {"terms": fit(points), "error": round(error(points), 4), "points": [[s, a, v] for s, a, v in points]}
            for name, points in sorted(getattr(found, kind).items())
        }
        for kind in ("seconds", "bytes")
    }
    how = "processor time of one core, best of repeats; a fit to the two smaller sizes against the third is `error`"
    return {"format": 1, "machine": machine(), "date": date.today().isoformat(), "load": load, "how": how, **kinds}


def shown(stored: Mapping[str, Any]) -> str:
    """How well the two smaller sizes predict the third."""
    lines = [f"{stored['machine']}; {stored['load']}"]
    for kind in ("seconds", "bytes"):
        for name, entry in stored[kind].items():
            costs = ", ".join(f"{cost:.3g} a {term}" for term, cost in entry["terms"].items())
            lines.append(f"{kind:8}{name:32}{entry['error']:7.1%} off at the third size: {costs}")
    return "\n".join(lines)


def main(parts: Sequence[str] = ()) -> int:
    """Measure everything, or some parts, which are then put into the stored file."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        print("set OMP_NUM_THREADS=1: rates are those of one core", file=sys.stderr)
        return 2
    steps = {step.__name__: step for step in (rules, clusters, signals, reading, encoders, models)}
    before = os.getloadavg()[0]
    for name in parts or steps:
        print(name, file=sys.stderr)
        found = Found()
        steps[name](found)
        load = f"load average {before:.1f} before and {os.getloadavg()[0]:.1f} after, of {os.cpu_count()} cores"
        stored = document(found, load)
        if STORED.is_file():
            old = json.loads(STORED.read_text(encoding="utf-8"))
            stored |= {kind: dict(sorted((old[kind] | stored[kind]).items())) for kind in ("seconds", "bytes")}
            if parts:  # the rest is as old as it was
                others = [said for said in old["load"].split("; ") if not said.startswith(f"{name} on ")]
                load = "; ".join([*others, f"{name} on {stored['date']}: {load}"])
                stored |= {"date": old["date"], "load": load}
        STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(shown(json.loads(STORED.read_text(encoding="utf-8"))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
