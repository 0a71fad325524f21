"""Every task gives the same document: asked by words, by `--from`, and by the line of Python.

A verb that does several things is asked each of them: `NAME --OPTION`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip import tasks
from binderclip.adapt import METHODS, save_head
from binderclip.documents import json_text
from binderclip.generate import FenceCleaner, save_cleaner
from binderclip.models import load
from binderclip.optim import ClipLog, NormClip
from binderclip.quality import IlluminationNet, create_detector, save_detector, save_enhancer
from binderclip.segment import CascadeCLIP
from binderclip.segment.promptable import PromptModel, PromptNetwork
from binderclip.tasks import Request, VerbTask

Command = Callable[..., Any]


@dataclass(frozen=True)
class Inputs:
    """What requests are about.

    Attributes:
        folder: where a request may put further files that it reads.
        pictures: a folder of pictures of 32 x 32 to 64 x 50 pixels. model, segmenter: tiny ones.
        planted: a set with classes and groups, one of which is harder.
        planted: a set with classes and groups, one of which is harder. diffusion: a tiny pipeline.
    """

    folder: Path
    pictures: Path
    model: Path
    segmenter: Path
    planted: Path
    diffusion: Path


CASES: dict[str, Callable[[Inputs], Request]] = {}
"""What is asked: the task, and words after it where a task has several cases -> its request."""


def case(name: str) -> Callable[[Callable[[Inputs], Request]], Callable[[Inputs], Request]]:
    """Add a function to `CASES`."""

    def add(make: Callable[[Inputs], Request]) -> Callable[[Inputs], Request]:
        CASES[name] = make
        return make

    return add


@pytest.fixture(scope="module")
def inputs(
    tmp_path_factory: pytest.TempPathFactory, tiny_clip: Callable[[int], Path], planted: Path, tiny_diffusion: Path
) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for name, size in (("a", (40, 32)), ("b", (32, 32)), ("-c", (64, 50))):
        Image.fromarray(rng.integers(60, 190, (*size, 3)).astype(np.uint8)).save(folder / f"pictures/{name}.png")
    torch.manual_seed(0)
    settings = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}
    segmenter = PromptModel(PromptNetwork(**settings), settings=settings, name="tiny").eval()
    return Inputs(
        folder, folder / "pictures", tiny_clip(1), segmenter.save(folder / "segmenter"), planted, tiny_diffusion
    )


@case("anomaly")
def anomaly(inputs: Inputs) -> Request:
    return tasks.anomaly.request(
        folder=inputs.pictures, name="noise", state=["{} with a hole", "broken {}"], scales=(1, 2), threshold=0.5,
        most=1, npy=True, model=inputs.model,
    )  # fmt: skip


@case("attack")
def attack(inputs: Inputs) -> Request:
    return tasks.attack.request(
        model=inputs.model, images=[inputs.pictures], labels=["a cat", "a dog"], method="cw", eps="9/255", steps=2,
        target="a dog", out="attacked",
    )  # fmt: skip


@case("compress")
def compress(inputs: Inputs) -> Request:
    return tasks.compress.request(
        model=inputs.model, data="digits", split="all", limit=8, target=0.4, sides=("image",), neuron_sets=4,
        template="the digit {}", out="smaller",
    )  # fmt: skip


@case("compress --bits")
def compress_bits(inputs: Inputs) -> Request:
    return tasks.compress.request(model=inputs.model, data="digits", split="all", limit=8, bits=8, out="smaller")


@case("curate")
def curate(inputs: Inputs) -> Request:
    return tasks.curate.request(
        data=inputs.pictures, recipe="exact-duplicates", set=["seed=3"], shards=True, workers=2, out="chosen"
    )


@case("adapt")
def adapt(inputs: Inputs) -> Request:
    rng = np.random.default_rng(1)
    for name in ("dark", "bright"):
        (inputs.folder / "labelled" / name).mkdir(parents=True)
        for row in range(6):
            pixels = rng.integers(0, 120, (32, 32, 3)) + 130 * (name == "bright")
            Image.fromarray(pixels.astype(np.uint8)).save(inputs.folder / f"labelled/{name}/{row}.png")
    return tasks.adapt.request(
        data=inputs.folder / "labelled", shots=4, seeds=1, folds=2, methods=["gda", "zero-shot"], model=inputs.model,
        report=False,
    )  # fmt: skip


@case("classify")
def classify(inputs: Inputs) -> Request:
    return tasks.classify.request(
        images=[inputs.pictures], labels=["a cat", "red, round", "@home"], templates="photo", pool="auto",
        views="tiles=2", top=2, picture="sheet.png", model=inputs.model,
    )  # fmt: skip


@case("classify by a head")
def classify_by_head(inputs: Inputs) -> Request:
    model, pictures = load(str(inputs.model)), sorted(inputs.pictures.iterdir())
    head = METHODS["gda"]().fit(model.encode_image(pictures).double().numpy(), ["cat", "dog", "cat"])
    save_head(head, inputs.folder / "head", model=str(inputs.model))
    return tasks.classify.request(images=[inputs.pictures], head=inputs.folder / "head", batch_size=2)


@case("clean")
def clean(inputs: Inputs) -> Request:
    cleaner = save_cleaner(FenceCleaner(widths=(3, 4)), inputs.folder / "cleaner", {"name": "mine"})
    return tasks.clean.request(images=[inputs.pictures], of="fence", model=cleaner, out="cleaned", shrink=2)


@case("translate")
def translate(inputs: Inputs) -> Request:
    return tasks.translate.request(
        images=[inputs.pictures, inputs.pictures], out="network", side=16, width=2, blocks=3, steps=2, batch_size=1
    )


@case("descriptions")
def descriptions(inputs: Inputs) -> Request:
    return tasks.descriptions.request(labels=["animals"], out="animals.json")


@case("detect")
def detect(inputs: Inputs) -> Request:
    detector = save_detector(
        create_detector("linear", str(inputs.model)), inputs.folder / "detector.safetensors", {"method": "linear"}
    )
    return tasks.detect.request(images=[inputs.pictures], detector=detector, maps="maps", most=1, csv="scores.csv")


@case("edges")
def edges(inputs: Inputs) -> Request:
    return tasks.edges.request(
        images=[inputs.pictures], method="sobel", sigma=0.5, thin=True, threshold=0.2, window=128, out="edged"
    )


@case("draw")
def draw(inputs: Inputs) -> Request:
    return tasks.draw.request(
        text="a red apple", method="pixels", steps=2, size=24, views=2, seed=3, out="apple.png", model=inputs.model,
        judge="small-b",
    )  # fmt: skip


@case("embed")
def embed(inputs: Inputs) -> Request:
    return tasks.embed.request(
        data=inputs.pictures, no_captions=True, stored="float32", workers=2, out="embedded", model=inputs.model
    )


@case("edit")
def edit(inputs: Inputs) -> Request:
    return tasks.edit.request(
        images=[inputs.pictures], source="a red dog", target="a red cat", method="strength", word="dog",
        new_word="cat", guidance=2.5, steps=3, strength=0.7, coarse=True, seed=3, model=inputs.diffusion, out="edits",
    )  # fmt: skip


@case("enhance")
def enhance(inputs: Inputs) -> Request:
    enhancer = save_enhancer(IlluminationNet(4, std=1e-4), inputs.folder / "enhancer.safetensors", {"method": "rave"})
    return tasks.enhance.request(images=[inputs.pictures], enhancer=enhancer, out="enhanced", max_side=40)


@case("foveate")
def foveate(inputs: Inputs) -> Request:
    return tasks.foveate.request(
        images=[inputs.pictures], at=["5,6.5", "50%,100%"], method="texture", block=4, scale=0.5, pixels_per_degree=3.0,
        max_side=40, out="seen",
    )  # fmt: skip


@case("reconstruct")
def reconstruct(inputs: Inputs) -> Request:
    return tasks.reconstruct.request(
        slices=[inputs.pictures / "a.png", inputs.pictures / "b.png"], spacing=[0.0, 3.5], invert=True, resolution=16,
        method="distances", out="a.obj", picture="a.png",
    )  # fmt: skip


@case("click")
def click(inputs: Inputs) -> Request:
    return tasks.click.request(
        image=inputs.pictures / "a.png", point=[(10, 12.5), (20, 20)], outside=[(1, 1)], box=(2, 2, 30, 30), cut=False,
        model=inputs.segmenter, out="mask.png", overlay="clicked.png",
    )  # fmt: skip


@case("explain")
def explain(inputs: Inputs) -> Request:
    return tasks.explain.request(
        images=[inputs.pictures], label="a cat", method="smoothgrad", set=["n_samples=2", "level=0.1"], npy=True,
        legend=False, report="page.html", model=inputs.model,
    )  # fmt: skip


@case("explain --words")
def explain_words(inputs: Inputs) -> Request:
    return tasks.explain.request(images=[inputs.pictures / "b.png", "--a cat"], words=True, model=inputs.model)


@case("explain --method A,B")
def explain_by_several(inputs: Inputs) -> Request:
    return tasks.explain.request(
        images=[inputs.pictures], label="a cat", method="saliency,input_x_gradient", npy=True, out="maps",
        model=inputs.model,
    )  # fmt: skip


@case("explain --compare")
def explain_compare(inputs: Inputs) -> Request:
    return tasks.explain.request(
        images=[inputs.pictures / "b.png"], label="a cat", compare=True, method="saliency,input_x_gradient",
        model=inputs.model,
    )  # fmt: skip


@case("generate")
def generate(inputs: Inputs) -> Request:
    return tasks.generate.request(
        texts=["a red dog", "-a cat"], count=2, guidance=2.5, steps=2, seed=3, size="16x24", sync=True,
        model=inputs.diffusion, out="drawn",
    )  # fmt: skip


@case("generate --from-folder")
def generate_from_folder(inputs: Inputs) -> Request:
    return tasks.generate.request(
        texts=["a red dog"], from_folder=inputs.pictures, nearest=2, reach=0, steps=2, size=(16, 24), out="drawn"
    )


@case("geometry")
def geometry(inputs: Inputs) -> Request:
    return tasks.geometry.request(model=inputs.model, data="digits", split="all", limit=40, out="page.html")


@case("heads")
def heads(inputs: Inputs) -> Request:
    (inputs.folder / "words.txt").write_text("a red picture\na cat\na round shape\n")
    return tasks.heads.request(
        model=inputs.model, images=inputs.pictures, texts=inputs.folder / "words.txt", blocks=1, out="page.html"
    )


@case("duplicates")
def duplicates(inputs: Inputs) -> Request:
    return tasks.duplicates.request(images=[inputs.pictures], keep="sharpest", similarity=0.9)


@case("atlas")
def atlas(inputs: Inputs) -> Request:
    return tasks.atlas.request(
        images=[inputs.pictures], model=inputs.model, clusters=1, words=["cat", "a red, round thing"], perplexity=2
    )


@case("erase")
def erase(inputs: Inputs) -> Request:
    return tasks.erase.request(
        image=inputs.pictures / "b.png", point=[(16, 12)], background_point=[(1, 1)], segmenter=inputs.segmenter,
        model=inputs.diffusion, steps=2, grow=1,
    )  # fmt: skip


@case("inpaint")
def inpaint(inputs: Inputs) -> Request:
    mask = np.zeros((32, 32), np.uint8)
    mask[8:20, 10:20] = 255
    Image.fromarray(mask).save(inputs.folder / "hole.png")
    return tasks.inpaint.request(
        image=inputs.pictures / "b.png", mask=inputs.folder / "hole.png", text="a dog", model=inputs.diffusion, steps=2
    )


@case("personalize")
def personalize(inputs: Inputs) -> Request:
    return tasks.personalize.request(
        images=[inputs.pictures], class_name="dog", token="<my-dog>", model=inputs.diffusion, steps=2, out="word"
    )


@case("vectorize")
def vectorize(inputs: Inputs) -> Request:
    return tasks.vectorize.request(
        images=[inputs.pictures], paths=2, steps=2, fill="solid", background="white", side=20, seed=4, out="drawn"
    )


@case("interpolate")
def interpolate(inputs: Inputs) -> Request:
    model = load(str(inputs.model))
    with torch.no_grad():
        model.visual.proj.add_(0.1)
    return tasks.interpolate.request(
        first=inputs.model, second=model.save(inputs.folder / "moved"), data="digits", split="all", limit=8, points=3,
        save="best", out="page.html",
    )  # fmt: skip


@case("landscape")
def landscape(inputs: Inputs) -> Request:
    return tasks.landscape.request(
        model=inputs.model, data="digits", split="all", limit=8, points=3, radius=0.5, out="page.html"
    )


@case("locate")
def locate(inputs: Inputs) -> Request:
    (inputs.folder / "boxes.csv").write_text("0,0,9,9,left\n9,9,30,30,right\n")
    return tasks.locate.request(
        image=inputs.pictures / "a.png", texts=["a cat", "-a dog"], boxes=inputs.folder / "boxes.csv", preset="crop",
        assign="hungarian", negatives=["red, round", "a tree"], model=inputs.model,
    )  # fmt: skip


@case("masks")
def masks(inputs: Inputs) -> Request:
    return tasks.masks.request(
        images=[inputs.pictures], points_per_side=2, pred_iou_thresh=-9, stability_score_thresh=0, redo=True,
        model=inputs.segmenter,
    )  # fmt: skip


@case("quality")
def quality(inputs: Inputs) -> Request:
    return tasks.quality.request(
        images=[inputs.pictures], model=inputs.model, scores=["quality", "sharpness"], pair=("-sharp", "a, b"),
        by="sharpness", sheet="sheet.png", csv="scores.csv",
    )  # fmt: skip


@case("quality --reference")
def quality_reference(inputs: Inputs) -> Request:
    return tasks.quality.request(images=[inputs.pictures], reference=inputs.pictures, distance="lpips", max_side=48)


@case("quality --against")
def quality_against(inputs: Inputs) -> Request:
    return tasks.quality.request(images=[inputs.pictures], against=inputs.pictures, model=inputs.model)


@case("probe")
def probe(inputs: Inputs) -> Request:
    return tasks.probe.request(
        model=inputs.model, data=inputs.planted, groups=["light,camera", "light"], labels=["food", "animal"],
        positive="food", limit=60, draws=100, null="all",
    )  # fmt: skip


@case("evaluate")
def evaluate(inputs: Inputs) -> Request:
    return tasks.evaluate.request(
        model=inputs.model, data="digits", split="all", limit=40, templates="a {}", out="figures.json"
    )


@case("search_index")
def search_index(inputs: Inputs) -> Request:
    return tasks.search_index.request(folder=inputs.pictures, index="index", model=inputs.model, batch_size=2)


@case("search_query")
def search_query(inputs: Inputs) -> Request:
    tasks.search_index(folder=inputs.pictures, index=inputs.folder / "index", model=inputs.model)
    return tasks.search_query.request(
        text_or_image="-a.png", text=True, index=inputs.folder / "index", top=2, picture="sheet.png"
    )


@case("search_query --image")
def search_by_image(inputs: Inputs) -> Request:
    request = search_query(inputs)
    return request.replaced(text_or_image=inputs.pictures / "a.png", text=False)


@case("spikes")
def spikes(inputs: Inputs) -> Request:
    weight = torch.nn.Parameter(torch.ones(4))
    log = ClipLog(NormClip(3.0), out=inputs.folder / "watched")
    for step in range(1, 31):
        weight.grad = torch.full((4,), 20.0 if step == 21 else 1 + 0.01 * (step % 7))
        log([("weight", weight)])
    log.close()
    return tasks.spikes.request(run=inputs.folder / "watched", top=1, picture="norms.png")


@case("trace")
def trace(inputs: Inputs) -> Request:
    return tasks.trace.request(
        image=inputs.pictures / "-c.png", start=(2, 2.5), to=[(20, 9), (30, 40)], size=32, out="line.json"
    )


@case("train")
def train(inputs: Inputs) -> Request:
    # A plan: what a training measures of its own time differs from run to run.
    return tasks.train.request(
        recipe="scratch-64", plan=True, samples=1e9, machines=8, flops=1e13, set=["stage.epochs=8"], clip="norm",
        out="planned",
    )  # fmt: skip


@case("train --check")
def train_check(inputs: Inputs) -> Request:
    return tasks.train.request(recipe="scratch-64", check=True, set=["stage.lr=2e-3", "seed=4"], clip="norm")


@case("train --as")
def train_as(inputs: Inputs) -> Request:
    return tasks.train.request(recipe="scratch-64", as_="open_clip", set=["stage.lr=2e-3"])


@case("train --grid --check")
def train_grid_check(inputs: Inputs) -> Request:
    grid = inputs.folder / "grid.toml"
    grid.write_text('recipe = "scratch-64"\nseeds = [3]\ncurves = "lr"\n[factors]\nlr = [1e-3, 2e-3]\n')
    return tasks.train.request(grid=grid, check=True, set=["stage.samples=64"])


def without_times(document: Any) -> Any:
    """All of a document but the seconds that things took."""
    if isinstance(document, dict):
        return {name: without_times(value) for name, value in document.items() if name != "seconds"}
    return [without_times(each) for each in document] if isinstance(document, list) else document


def differences(first: Any, other: Any, place: str = "") -> Iterator[str]:
    """Places at which two documents differ, with both values.

    The order of a sum follows where its numbers lie in memory, so the last digits of a figure may differ in each run.
    """
    if isinstance(first, dict) and isinstance(other, dict) and first.keys() == other.keys():
        for name in first:
            yield from differences(first[name], other[name], f"{place}/{name}")
    elif isinstance(first, list) and isinstance(other, list) and len(first) == len(other):
        for number, (mine, theirs) in enumerate(zip(first, other, strict=True)):
            yield from differences(mine, theirs, f"{place}/{number}")
    elif isinstance(first, float) and isinstance(other, float) and math.isclose(first, other, rel_tol=1e-6):
        return
    elif first != other:
        yield f"{place}: {first!r} and {other!r}"


@case("segment")
def segment(inputs: Inputs) -> Request:
    return tasks.segment.request(
        images=[inputs.pictures], labels=["a cat", "red, round"], background=["wall"], preset="value",
        set=["rule.scale=40"], size=64, coco="all.json", csv="areas.csv", model=inputs.model,
    )  # fmt: skip


@case("segment --map")
def segment_one(inputs: Inputs) -> Request:
    return tasks.segment.request(
        images=[inputs.pictures / "a.png"], labels=["a cat"], background=[], preset="plain", label_map="map.png",
        overlay="shown.png", legend=False, model=inputs.model,
    )  # fmt: skip


@case("segment --compare")
def segment_compare(inputs: Inputs) -> Request:
    return tasks.segment.request(
        images=[inputs.pictures], labels=["a cat"], preset="value,plain", compare="sheet.png", model=inputs.model
    )


@case("segment --preset A,B")
def segment_by_several(inputs: Inputs) -> Request:
    return tasks.segment.request(
        images=[inputs.pictures], labels=["a cat", "red, round"], preset="value,plain", out="maps", model=inputs.model
    )


@case("segment-evaluate")
def segment_evaluate(inputs: Inputs) -> Request:
    for name in ("images", "labels"):
        (inputs.folder / "maps" / name).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), "teal").save(inputs.folder / "maps/images/a.png")
    Image.fromarray(np.eye(20, 30, dtype=np.uint8)).save(inputs.folder / "maps/labels/a.png")
    (inputs.folder / "maps/classes.txt").write_text("wall\ncat\n")
    return tasks.segment_evaluate.request(
        data=inputs.folder / "maps", preset="value,plain", size=32, limit=1, model=inputs.model
    )


@case("segment-example")
def segment_example(inputs: Inputs) -> Request:
    Image.fromarray(np.eye(40, 32, dtype=np.uint8) * 255).save(inputs.folder / "mask.png")
    return tasks.segment_example.request(
        images=[inputs.pictures], example=[inputs.pictures / "a.png"], mask=[inputs.folder / "mask.png"], label="cup",
        mask_value=255, head="prior", model="lite0",
    )  # fmt: skip


@case("segment-head")
def segment_head(inputs: Inputs) -> Request:
    model = load(str(inputs.model))
    CascadeCLIP(model, groups=[[0]], prompts=2, layers=1, heads=4, size=32).save(inputs.folder / "head")
    return tasks.segment_head.request(
        images=[inputs.pictures], head=inputs.folder / "head", labels=["a cat", "a dog"], model=inputs.model
    )


@case("segment-presets")
def segment_presets(inputs: Inputs) -> Request:
    return tasks.segment_presets.request(names=["value", "trident"])


@case("segment-task")
def segment_task(inputs: Inputs) -> Request:
    return tasks.segment_task.request(
        images=[inputs.pictures], sentence="the fox", labels=["fox", "owl"], method="slip",
        set=["points_per_side=2"], coco="all.json", segmenter=inputs.segmenter, model=inputs.model,
    )  # fmt: skip


def test_every_task_is_asked() -> None:
    assert {name.split()[0].replace("-", "_") for name in CASES} == {
        name for name in tasks.__all__ if isinstance(getattr(tasks, name), VerbTask)
    }


@pytest.mark.parametrize("name", CASES)
def test_all_ways_to_ask_give_the_same_document(
    name: str, inputs: Inputs, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = CASES[name](inputs)
    assert type(request).from_document(json.loads(json_text(request.as_document()))) == request

    def words() -> Any:
        # In front, since behind `--` there are no options.
        return command(*request.task.split(), "--json", *request.argv()).json()

    def document() -> Any:
        # What --json printed is a request as well.
        return command(*request.task.split(), request.document_option, documents[0], "--json").json()

    def python() -> Any:
        space: dict[str, Any] = {}
        exec(request.python().replace("print(", "found = (", 1), space)
        return json.loads(json_text(space["found"]))

    documents: list[Path] = []
    for way in (words, document, python):
        place = tmp_path / way.__name__
        place.mkdir()
        monkeypatch.chdir(place)
        found = way()
        documents.append(place / "document.json")
        documents[-1].write_text(json.dumps(found), encoding="utf-8")
    first, *others = [without_times(json.loads(path.read_text(encoding="utf-8"))) for path in documents]
    assert type(request).from_document(first) == request
    for other in others:
        assert list(differences(first, other)) == []
