"""Make the pictures of README, guides and landing page with the project's own verbs: `python docs/pictures.py` (extra
`demo`); `python docs/pictures.py tiles` makes those of the landing page alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from binderclip.adapt import MARKS, Region
from binderclip.data import load_data, plant_defects, scenes, to_tensor, vocabulary
from binderclip.tasks.report.sheet import contact_sheet

IMAGES = Path(__file__).parent / "images"
SHOWN = ("chelsea", "coffee", "rocket", "motorcycle_left", "flower", "china")
LABELS = "a cat,a dog,a cup of coffee,a rocket,a motorcycle,a flower,a temple,a tree,a boat,a house,a pizza"
SHOWN_MARKS = ("circle", "box", "arrow", "contour", "fill", "blur", "gray", "tint", "crop")


def verb(*arguments: object) -> None:
    """Run the command line as a user would; an old picture is removed first, as verbs replace none unless told to."""
    for argument in arguments:
        if isinstance(argument, Path) and argument.parent == IMAGES:
            argument.unlink(missing_ok=True)
    subprocess.run([Path(sys.executable).parent / "binderclip", *map(str, arguments)], check=True)


def main() -> None:
    """Write every picture of docs/images."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        photographs = {sample.key.split(".")[0]: sample.image for sample in load_data("photographs")}
        for name in SHOWN:
            photographs[name].convert("RGB").save(place / f"{name}.png")
        files = [place / f"{name}.png" for name in SHOWN]
        verb("classify", *files, "--labels", LABELS, "--picture", IMAGES / "classify.png")
        verb(
            "explain",
            place / "chelsea.png",
            "--label",
            "a cat",
            "--out",
            IMAGES / "explain.png",
        )
        pictures = place / "pictures"
        pictures.mkdir()
        for sample in load_data("openclipart,noto-emoji", split="test"):
            sample.image.resize((128, 128)).save(pictures / f"{sample.key}.png")
        verb("search", "index", pictures)
        verb("search", "query", "a computer", "-i", pictures, "--top", 5, "--picture", IMAGES / "search.png")
        coloured = ("--overlay", IMAGES / "segment.png", "--map", place / "map.png")
        verb("segment", place / "flower.png", "--labels", "flower", *coloured)
        located(place)
        inspected(place, photographs["brick"])
        clicked(place)


def tiles() -> None:
    """The pictures of the landing page, each about one and a half times as wide as high."""
    from binderclip.adapt.selection import select_head
    from binderclip.data import list_images, write_examples
    from binderclip.evaluate import evaluate_model
    from binderclip.models import load
    from binderclip.search import SearchIndex
    from binderclip.segment import WinCLIP

    model = load("everyday")
    with tempfile.TemporaryDirectory() as name:
        folder = write_examples(name)
        names = ("cat", "coffee", "rocket", "motorcycle", "flower", "palace")
        photos = [folder / "photos" / f"{each}.jpg" for each in names]
        best = model.classify(photos, LABELS.split(","))
        cards = [(path, label, f"{prob:.2f}") for path, ((label, prob),) in zip(photos, best.top(1), strict=True)]
        contact_sheet(cards, IMAGES / "tile-classify.png", columns=3, side=180)
        index = SearchIndex(folder / "index", model)
        index.update(folder / "drawings")
        hits = index.query("an animal", top=6)
        cards = [(hit.path, "", f"{hit.score:.2f}") for hit in hits]
        contact_sheet(cards, IMAGES / "tile-search.png", columns=3, side=150, title="an animal")
        parts = list_images(folder / "wall" / "test" / "defect")[:3]
        bricks = WinCLIP(load("small"), "brick wall", size=128).fit(list_images(folder / "wall" / "train" / "good"))
        maps = bricks(parts)
        shown = [*parts, *(maps.overlay(path, number) for number, path in enumerate(parts))]
        contact_sheet([(each, "", "") for each in shown], IMAGES / "tile-anomaly.png", columns=3, side=150)
        drawings = load_data(str(folder / "drawings"))
        methods = ["zero-shot", "gda", "tip-adapter", "ape", "linear-probe"]
        scores = select_head(model, drawings, shots=4, methods=methods).scores
        bars_of(
            {s.name: (s.accuracy.value, s.accuracy.low, s.accuracy.high) for s in scores}, "adapt", "accuracy, 95 %"
        )
        captioned, measured = load_data(str(folder / "captioned")), {}
        for each in ("small", "small-b"):
            figures = evaluate_model(load(each), captioned).figures
            measured |= {f"{each}, R@{k}": (figures[f"text_to_image/R@{k}"],) * 3 for k in (1, 5, 10)}
        bars_of(measured, "evaluate", "captions whose picture is found")
    spent()
    clipped_run()
    for tile in IMAGES.glob("tile-*.png"):
        with Image.open(tile) as picture:
            few = picture.convert("RGB").quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
        few.save(tile, "PNG", optimize=True)


def bars_of(rows: dict[str, tuple[float, float, float]], tile: str, label: str) -> None:
    """A tile of horizontal bars: name -> (value, low, high)."""
    from binderclip.display import bars, new_figure

    figure = new_figure(4.8, 3.2)
    axes = figure.subplots()
    errors = [(value - low, high - value) for value, low, high in rows.values()]
    bars(axes, list(rows), [value for value, _, _ in rows.values()], errors=errors)
    axes.set_xlim(0, 1)
    axes.set_xlabel(label)
    figure.savefig(IMAGES / f"tile-{tile}.png", dpi=100)


def spent() -> None:
    """Epsilon over the steps of a private training, for three amounts of noise."""
    from binderclip.display import new_figure
    from binderclip.privacy import Ledger

    figure = new_figure(4.8, 3.2)
    axes = figure.subplots()
    for noise in (0.8, 1.0, 1.5):
        steps = list(range(100, 2001, 100))
        epsilons = []
        ledger = Ledger()
        for _ in steps:
            ledger.step(noise, 0.01, 100)
            epsilons.append(ledger.epsilon(1e-5))
        axes.plot(steps, epsilons, label=f"noise {noise}")
    axes.set_xlabel("steps (a hundredth of the data each)")
    axes.set_ylabel("epsilon at delta 1e-5")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGES / "tile-private.png", dpi=100)


def clipped_run() -> None:
    """The record of a clip in a run with three spoilt batches: the training of the notebook on clipping."""
    import json

    notebook = json.loads((IMAGES.parent / "notebooks" / "clip-your-gradients.ipynb").read_text(encoding="utf-8"))
    first = next("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    given: dict[str, Any] = {}
    exec(first, given)
    figure = given["log"].history.plot()
    figure.axes[0].set_title("", loc="left")
    figure.savefig(IMAGES / "tile-train.png", dpi=80)


def inspected(place: Path, wall: Image.Image) -> None:
    """The picture of `anomaly`: crops of a wall, some with a planted defect."""
    pixels = to_tensor(wall.convert("RGB"))
    crops = torch.stack([pixels[:, y : y + 192, x : x + 192] for y in (0, 160, 320) for x in (0, 160, 320)])
    planted = plant_defects(crops[:3], 4, strength=0.6).images
    for name, images in (("parts", planted), ("good-parts", crops[3:])):
        (place / name).mkdir()
        for number, image in enumerate(images):
            to_pil_image(image).save(place / name / f"{number}.png")
    options = ("--normal", place / "good-parts", "--method", "patchcore", "--out", place / "anomalies")
    verb("anomaly", place / "parts", *options)
    shown = [(f, "", "") for n in range(3) for f in (place / f"parts/{n}.png", place / f"anomalies/{n}-anomaly.png")]
    contact_sheet(shown, IMAGES / "anomaly.png", columns=6, side=128)


def clicked(place: Path) -> None:
    """What `click` cuts out: by one point, by two, by a box."""
    astronaut = next(sample.image for sample in load_data("photographs") if sample.key.startswith("astronaut"))
    astronaut.convert("RGB").save(place / "astronaut.png")
    words15 = vocabulary("scenes15", split="test")
    batch = scenes(2, 1, 384, vocabulary=words15, objects=3, area=(0.08, 0.2), background="gradient")
    to_pil_image(batch.images[0]).save(place / "boxed.png")
    box = ",".join(map(str, batch.boxes[0, batch.names[0].index("flower")].int().tolist()))
    asked = {
        "astronaut": ("--point", "225,140"),
        "coffee": ("--point", "300,120", "--point", "250,300"),
        "boxed": ("--box", box),
    }
    entries = []
    for name, words in asked.items():
        shown = place / f"{name}-clicked.png"
        verb("click", place / f"{name}.png", *words, "--out", place / "mask.png", "--overlay", shown)
        with Image.open(shown) as overlay:
            entries.append((overlay.convert("RGB"), "", ""))
    contact_sheet(entries, IMAGES / "click.png", columns=3, side=190)


def located(place: Path) -> None:
    """The picture of `locate`, and the sheet of visual prompts of the guide."""
    words = vocabulary("scenes15", split="test")
    batch = scenes(8, 1, 384, vocabulary=words, objects=5, area=(0.05, 0.12), occlusion=0.1, background="gradient")
    picture = to_pil_image(batch.images[0])
    picture.save(place / "objects.png")
    boxes = batch.boxes[0].int().tolist()
    (place / "boxes.csv").write_text("".join(f"{x0},{y0},{x1},{y1}\n" for x0, y0, x1, y1 in boxes))
    texts = ("a house", "a cat", "a tree")
    verb("locate", place / "objects.png", *texts, "--boxes", place / "boxes.csv", "--picture", IMAGES / "locate.png")
    cat = batch.names[0].index("cat")
    region = Region(tuple(batch.boxes[0, cat].tolist()), batch.visible[0, cat].numpy())
    edits = [(name, MARKS[name]) for name in SHOWN_MARKS] + [("blur | contour", MARKS["blur"] | MARKS["contour"])]
    entries = [(edit(picture, region), name, "") for name, edit in edits]
    contact_sheet(entries, IMAGES / "marks.png", columns=5, side=150)


if __name__ == "__main__":
    if sys.argv[1:] != ["tiles"]:
        main()
    tiles()
