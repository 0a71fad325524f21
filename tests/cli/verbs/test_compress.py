"""`binderclip compress`: what is saved is the whole model without its worst modules, and every verb opens it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from PIL import Image

from binderclip.compress import (
    GradientScore,
    HessianTraceScore,
    MagnitudeScore,
    PruneBudget,
    channel_groups,
    masked,
    tower_groups,
)
from binderclip.data import load_data
from binderclip.errors import OutputError
from binderclip.models import ImageTextModel, build, load
from binderclip.tasks import compress
from binderclip.tasks.verbs.compress.figures import ModelFigures, gflop, single_forwards
from binderclip.tasks.verbs.compress.request import CompressRequest
from binderclip.tasks.verbs.compress.result import Compression
from binderclip.tasks.verbs.compress.sample import sample_halves

Command = Callable[..., Any]
OPTIONS = ("--data", "digits", "--split", "all", "--limit", 24)
TEXTS = ["a cat", "two dogs on a beach"]


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures in two folders named after their classes."""
    folder = tmp_path_factory.mktemp("colours")
    for name in ("red", "blue"):
        (folder / name).mkdir()
        for number in range(6):
            Image.effect_noise((40, 36), 20 + number).convert("RGB").save(folder / name / f"{number}.png")
    return folder


def features(model: ImageTextModel) -> torch.Tensor:
    """Of two random pictures and two texts, with the values that the model has now."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        pixels = torch.randn(2, 3, *model.preprocess.size, generator=generator)
        return torch.cat([model.encode_pixels(pixels), model.encode_text(TEXTS)])


def by_magnitude(model: ImageTextModel, channels: bool = False) -> torch.Tensor:
    """The features of the whole model in which the smaller half of the modules has no effect."""
    groups = [*tower_groups(model.image_tower), *tower_groups(model.text_tower, side="text")]
    if channels:
        groups += channel_groups(model.visual.trunk.patch_embed.backbone)  # type: ignore[union-attr, arg-type]
    with masked(groups, PruneBudget(amount=0.5).select(MagnitudeScore()(model, groups))):
        return features(model)


def test_the_folder_is_the_model_without_its_smallest_modules_and_classify_opens_it(
    program: Command, tiny_clip: Callable[[int], Path], colours: Path, tmp_path: Path
) -> None:
    out = tmp_path / "smaller"
    done = program(
        "compress", tiny_clip(2), "--data", colours, "--method", "magnitude", "--out", out, "--json"
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    whole, small = load(str(tiny_clip(2))), load(str(out))
    torch.testing.assert_close(features(small), by_magnitude(whole))
    for side, model in (("before", whole), ("after", small)):
        assert found[side]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert found["after"]["parameters"] < found["before"]["parameters"]
    assert found["groups"] == {"head": {"before": 6, "after": 3}, "neuron": {"before": 384, "after": 192}}
    assert found["metric"] == "accuracy"
    assert found["chance"] == 0.5
    assert found["after"]["megabytes"] == sum(path.stat().st_size for path in out.iterdir()) / 1e6
    whole_folder = sum(path.stat().st_size for path in tiny_clip(2).iterdir()) / 1e6
    assert found["before"]["megabytes"] == pytest.approx(whole_folder, abs=0.002)
    labels = program("classify", colours / "red/0.png", "--labels", "red,blue", "--model", out, "--json")
    assert labels.code == 0, labels.err


@pytest.fixture(scope="module")
def half_idle(tiny_clip: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of which half of the heads and neurons add nothing and have the largest weights, and its pictures.

    Every picture is called what the model calls it, so that each other head and set of neurons costs accuracy.
    """
    model = load(str(tiny_clip(2)))
    with torch.no_grad():
        for tower in (model.backbone.visual.transformer, model.backbone.transformer):  # type: ignore[union-attr]
            for block in tower.resblocks:  # type: ignore[union-attr, operator]
                for weight in (one for one in block.parameters() if one.ndim == 2):
                    weight.mul_(4)  # large enough that a head matters
                block.attn.out_proj.weight[:, :16] = 0
                block.attn.in_proj_weight.reshape(3, 2, 16, 32)[:, 0].mul_(9)
                block.mlp.c_proj.weight[:, ::2] = 0
                block.mlp.c_fc.weight[::2].mul_(9)
    folder, g = tmp_path_factory.mktemp("idle"), torch.Generator().manual_seed(0)
    colours = torch.rand(120, 1, 1, 3, generator=g) + torch.rand(120, 32, 32, 3, generator=g)
    pictures = [Image.fromarray(one.numpy()) for one in (127 * colours).byte()]
    words = ["cat", "dog", "red car", "tree", "a house", "sea", "moon", "two birds", "clock", "old boat", "book", "key"]
    with torch.no_grad():
        named = model.similarity(model.encode_image(pictures), model.encode_text(words)).argmax(1).tolist()
    assert len(set(named)) > 2
    for number, (picture, word) in enumerate(zip(pictures, named, strict=True)):
        (folder / words[word]).mkdir(exist_ok=True)
        picture.save(folder / words[word] / f"{number}.png")
    return model.save(tmp_path_factory.mktemp("models") / "idle"), folder


@pytest.mark.parametrize("method", ["mope", "gradient", "magnitude", "random"])
def test_what_adds_nothing_goes_where_the_method_sees_what_a_module_does(
    command: Command, half_idle: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    place, pictures = half_idle
    out = tmp_path / "smaller"
    found = command(
        "compress", place, "--data", pictures, "--method", method, "--neuron-sets", 4, "--out", out, "--json"
    ).json()  # fmt: skip
    assert found["before"]["quality"] == 1
    kind = {"neuron set": {"before": 12, "after": 6}} if method == "mope" else {"neuron": {"before": 384, "after": 192}}
    assert found["groups"] == {"head": {"before": 6, "after": 3}, **kind}
    same = torch.allclose(features(load(str(out))), features(load(str(place))), rtol=1e-4, atol=1e-4)
    assert same == (method in ("mope", "gradient"))
    assert (found["after"]["quality"] == 1) == same


def test_hap_takes_out_what_has_the_least_curvature_times_size(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    out, whole = tmp_path / "smaller", load(str(tiny_clip(2)))
    request = compress.request(model="-", data="digits", split="all", limit=24, out="-")
    judged = sample_halves(whole, request).judged
    groups = [*tower_groups(whole.image_tower), *tower_groups(whole.text_tower, side="text")]
    scores: dict[str, Any] = {}
    for number, rows in enumerate((slice(0, 8), slice(8, 12))):  # the twelve pictures in batches of eight

        def loss(rows: slice = rows) -> torch.Tensor:
            image, text = whole.encode_image(judged.pixels[rows]), whole.encode_text(list(judged.texts))
            cosines = torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
            return torch.nn.functional.cross_entropy(whole.scale() * cosines, judged.labels[rows])  # type: ignore[index]

        own = HessianTraceScore(loss=loss, probes=10, seed=3 + number)(whole, groups)
        scores = {name: scores.get(name, 0) + score for name, score in own.items()}
    with masked(groups, PruneBudget(amount=0.5).select(scores)):
        expected = features(whole)
    assert not torch.allclose(expected, by_magnitude(whole), atol=1e-3)
    options = ("--method", "hap", "--seed", 3, "--batch-size", 8)
    done = command("compress", tiny_clip(2), *OPTIONS, *options, "--out", out, "--json")
    assert done.code == 0, done.err
    torch.testing.assert_close(features(load(str(out))), expected)


def test_title_and_remark_say_what_went_and_not_what_was_asked_for() -> None:
    figures = ModelFigures(100, 1.0, 1.0, 1.0, 0.1, 0.1, 0.5)
    for groups, target, sides, title, remark in (
        ({"head": (6, 3), "neuron": (384, 192)}, 0.5, ("text",), "50% of the heads and neurons of the text tower", ""),
        ({"head": (6, 3), "neuron set": (16, 8), "channel": (8, 4)}, 0.5, ("image", "text"),
         "50% of the heads, neurons and channels", ""),
        ({"head": (28, 21), "neuron": (3584, 2513)}, 0.3, ("image", "text"),
         "25% of the heads and 30% of the neurons", "of the 30% asked for that is 25% of the heads."),
        ({"head": (2, 2), "neuron": (128, 77), "channel": (8, 5)}, 0.4, ("text",),
         "0% of the heads of the text tower, 40% of the neurons of the text tower and 38% of the channels of the image "
         "tower", "of the 40% asked for that is 0% of the heads and 38% of the channels."),
    ):  # fmt: skip
        request = CompressRequest(model="tiny", data="digits", out="out", target=target, sides=sides)
        result = Compression(
            request, "tiny", "digits", 4, 4, "accuracy", 0.1, figures, figures, groups, 1, [], ""
        )  # fmt: skip
        assert result.title == f"tiny without {title}, by mope, on digits"
        assert remark in " ".join(result.remarks())
        assert ("Modules go whole" in " ".join(result.remarks())) == bool(remark)


def test_a_target_by_which_nothing_goes_is_refused_before_anything_is_run(
    command: Command, tiny_clip: Callable[[int], Path], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object) -> None:
        raise AssertionError("a gradient was taken first")

    monkeypatch.setattr(GradientScore, "__call__", run)
    sets = "heads or sets of neurons in a layer are needed, and the largest has"
    for target, number, words, least in (
        (0.05, 16, f"20 {sets} 16: give 0.063 or more, or raise --neuron-sets", 0.063),
        (0.4, 2, f"3 {sets} 2: give 0.5 or more", 0.5),
        (0.01, 50, f"100 {sets} 32: give 0.032 or more", 0.032),  # 32 is the next divisor of 128 neurons
    ):
        options = ("--target", target, "--neuron-sets", number)
        assert not PruneBudget(amount=least).select({"": torch.zeros(int(words.split(":")[0].split()[-1]))})[""].all()
        done = command("compress", tiny_clip(2), "--data", colours, *options, "--out", tmp_path / "out")
        assert done.code == 2
        assert words in " ".join(done.err.split())


def test_operations_are_those_of_the_products(tiny_clip: Callable[[int], Path]) -> None:
    image, _ = single_forwards(load(str(tiny_clip(2))), "a cat")
    tokens, width, neurons, inner = 17, 32, 128, 32  # 4 x 4 patches of 8 x 8 pixels, and the class token
    block = tokens * (3 * width * inner + inner * width + 2 * width * neurons) + 2 * tokens**2 * inner
    expected = 2 * (16 * width * 3 * 8**2 + 2 * block + width * 16)
    assert gflop(image) == pytest.approx(expected / 1e9)


def test_recovery_brings_a_model_nearer_to_what_it_was(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    digits = load_data("digits")
    pictures, error = [sample.image for sample in digits.subset(range(60))], []

    def similarities(folder: Path) -> torch.Tensor:
        model = load(str(folder))
        with torch.no_grad():
            return model.similarity(model.encode_image(pictures), model.encode_text(list(digits.classes)))

    expected = similarities(tiny_clip(2))
    for steps in (0, 40):
        out = tmp_path / f"after-{steps}"
        done = command(
            "compress", tiny_clip(2), *OPTIONS, "--method", "random", "--steps", steps, "--lr", 0.002,
            "--out", out,
        )  # fmt: skip
        assert done.code == 0, done.err
        assert "held out" in " ".join(done.out.split())
        error.append(float((similarities(out) - expected).square().mean()))
    assert error[1] < error[0]


@pytest.fixture
def traceable() -> Iterator[None]:
    """Without checks of shapes: torch.fx traces with proxies, which are no tensors."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.usefixtures("traceable")
def test_channels_of_a_convolutional_trunk_go_as_well(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "smaller"
    found = command(
        "compress", "small", "--data", "noto-emoji", "--limit", 8, "--method", "magnitude", "--channels", "--out", out,
        "--json",
    ).json()  # fmt: skip
    assert found["metric"] == "recall"
    assert found["chance"] == pytest.approx((1 / 4 + 1 + 1) / 3)
    assert found["after"]["gflop"]["image"] < 0.5 * found["before"]["gflop"]["image"]
    torch.testing.assert_close(features(load(str(out))), by_magnitude(load("small"), channels=True))


def test_a_model_that_cannot_be_saved_in_its_place_is_kept(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, out = ImageTextModel.save, tmp_path / "smaller"

    def full(model: ImageTextModel, folder: Path) -> Path:
        if Path(folder) == out:
            raise OutputError(f"cannot write {folder}: no space left on device")
        return save(model, folder)

    monkeypatch.setattr(ImageTextModel, "save", full)
    done = command("compress", tiny_clip(2), *OPTIONS, "--method", "magnitude", "--out", out)
    assert done.code == 1
    kept = Path("".join(done.err.split("the result is kept as ")[1].split()))
    torch.testing.assert_close(features(load(str(kept))), by_magnitude(load(str(tiny_clip(2)))))


def test_mistakes_are_named(command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path) -> None:
    full, bare = tmp_path / "full", tmp_path / "bare"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    bare.mkdir()
    for number in range(4):
        Image.effect_noise((40, 36), 20 + number).convert("RGB").save(bare / f"{number}.png")
    (damaged := tmp_path / "damaged").mkdir()
    for number in range(5):
        (damaged / f"{number}.png").write_bytes(b"no picture")
        (damaged / f"{number}.txt").write_text(f"picture {number}", encoding="utf-8")
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4, "patch_size": None}
    text = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    pooled = build({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}, name="pooled").save(tmp_path / "pooled")
    tiny, out = tiny_clip(2), ("--out", tmp_path / "made")
    for words, arguments in {
        "greater than or equal to 0.01": (tiny, *out, "--target", 0),
        "should be less than or equal to 0.99": (tiny, *out, "--target", 1),
        "less than or equal to 0.99": (tiny, *out, "--target", 1.2),
        "Invalid value for '--target'": (tiny, *out, "--target", "nan"),
        "takes nothing out": (tiny, *out, "--target", 0.05),
        "nothing says what they show": (tiny, *out, "--data", bare),
        "has 0 pictures that can be read (not": (tiny, *out, "--data", damaged),
        "0.png: not an image": (tiny, *out, "--data", damaged),
        "and 4 more): 4 are needed": (tiny, *out, "--data", damaged),
        "not empty": (tiny, "--out", full),
        "is a file": (tiny, "--out", full / "mine.txt"),
        "classifier of concepts": ("everyday", *out),
        "no convolutional network": (tiny, *out, "--channels"),
        "BatchNorm2d, activations, pooling, sums and flattening; leave --channels out": (
            pooled, *out, "--channels", "--sides", "text",
        ),
        "--sides": (tiny, *out, "--sides", "image,sound"),
        "leave 'image' out of sides": ("small-b", *out),
        "Invalid value for '--method': 'taste' is not one of 'mope', 'gradient'": (tiny, *out, "--method", "taste"),
        "give one, with {}": (tiny, *out, "--template", "simple"),
        "name them by captions": (tiny, *out, "--data", "photographs", "--named-by", "classes"),
    }.items():  # fmt: skip
        done = command("compress", *OPTIONS, *arguments)
        assert done.code in (1, 2), words
        assert words in " ".join(done.err.split()), done.err
        assert "Traceback" not in done.err
    assert (full / "mine.txt").read_text() == "mine"
    assert not (tmp_path / "made").exists()
