"""`binderclip compress --bits`: int8 layers and packed weights, which open everywhere, or say by name where not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from binderclip.compress import Int8Attention, Int8Conv2d, Int8Embedding, quantize_calibrated
from binderclip.errors import CheckpointError, NotSupported
from binderclip.fit import StepRecord
from binderclip.models import ImageTextModel, load, load_encoder
from binderclip.models.layers.int8.layers import Int8Layer
from binderclip.tasks import compress
from binderclip.tasks.verbs.compress.bits_recovery import RecoverySteps
from binderclip.tasks.verbs.compress.sample import sample_halves

Command = Callable[..., Any]
DIGITS = ("--data", "digits", "--split", "all", "--limit", 24)
TEXTS = ["a cat", "two dogs on a beach"]


def features(model: ImageTextModel) -> torch.Tensor:
    """Of two random pictures and two texts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        pixels = torch.randn(2, 3, *model.preprocess.size, generator=generator)
        return torch.cat([model.encode_pixels(pixels), model.encode_text(TEXTS)])


def size_of_files(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.fixture(scope="module")
def int8_folder(tiny_clip: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in int8."""
    out = tmp_path_factory.mktemp("int8") / "smaller"
    request = {"data": "digits", "split": "all", "limit": 24, "out": str(out)}
    compress.run(compress.request(model=str(tiny_clip(2)), bits=8, **request))
    return out


def test_the_folder_is_the_model_calibrated_on_the_judged_half(
    int8_folder: Path, tiny_clip: Callable[[int], Path]
) -> None:
    model, whole = load(str(int8_folder)), load(str(tiny_clip(2)))
    request = compress.request(model="-", data="digits", split="all", limit=24, out="-")
    judged = sample_halves(whole, request).judged

    def run() -> None:
        whole.encode_image(judged.pixels)
        whole.encode_text(list(judged.texts))

    before = features(whole)
    quantize_calibrated(whole, run)
    assert torch.equal(features(model), features(whole))
    assert float(torch.cosine_similarity(features(model), before).min()) > 0.99
    assert torch.equal(features(load_encoder(str(int8_folder))), features(model))
    kinds = {type(layer) for layer in model.modules()}
    assert {Int8Attention, Int8Embedding} <= kinds
    assert not kinds & {nn.Linear, nn.MultiheadAttention, nn.Embedding}
    with safe_open(int8_folder / "open_clip_model.safetensors", "pt") as file:
        codes = [name for name in file.keys() if name.endswith("int8_codes")]  # noqa: SIM118
        assert len(codes) == sum(isinstance(layer, Int8Layer) for layer in model.modules())
        assert {file.get_tensor(name).dtype for name in codes} == {torch.int8}


def test_it_is_saved_again_and_told_from_the_float_model(
    int8_folder: Path, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    model = load(str(int8_folder))
    again = load(str(model.save(tmp_path / "again")))
    assert torch.equal(features(again), features(model))
    assert again.fingerprint == model.fingerprint != load(str(tiny_clip(2))).fingerprint
    with pytest.raises(NotSupported, match="float32"):
        model.save(tmp_path / "half", dtype="bfloat16")
    with pytest.raises(NotSupported, match="in int8, on the CPU and beside float32 alone, not in bfloat16"):
        load(str(int8_folder), dtype="bfloat16")


@pytest.mark.parametrize("layers", [["nowhere"], [], "visual", None])
def test_a_damaged_record_of_int8_layers_is_named(int8_folder: Path, tmp_path: Path, layers: Any) -> None:
    model = load(str(int8_folder))
    folder = model.save(tmp_path / "damaged")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["int8"] = {"layers": layers}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"model_cfg\.int8"):
        load(str(folder))


def test_what_needs_gradients_or_float_weights_is_refused_by_name(
    command: Command, int8_folder: Path, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    picture = tmp_path / "noise.png"
    Image.effect_noise((40, 36), 20).convert("RGB").save(picture)
    labels, out = ("--label", "a cat", "--model", int8_folder), ("--out", tmp_path / "made.png")
    for words, arguments in {
        "int8 layers pass no gradient": ("explain", picture, *labels, "--method", "saliency", *out),
        "pass no gradient": ("attack", int8_folder, picture, "--labels", "a cat,a dog"),
        "works on float weights": ("landscape", int8_folder, *DIGITS[:4]),
        "this works on float weights": ("interpolate", tiny_clip(2), int8_folder, *DIGITS[:4]),
        "computes in int8": ("compress", int8_folder, *DIGITS, "--out", tmp_path / "made"),
        f"{int8_folder} computes in int8": ("compress", int8_folder, *DIGITS, "--bits", 4, "--out", tmp_path / "made"),
    }.items():
        done = command(*arguments)
        assert done.code == 1, words
        assert words in " ".join(done.err.split()), done.err
        assert not (tmp_path / "made").exists()
    for arguments in (
        ("classify", picture, "--labels", "red,blue", "--model", int8_folder),
        ("explain", picture, *labels, "--method", "rollout", *out),
    ):
        assert command(*arguments).code == 0


def test_fewer_heads_and_fewer_bits_together(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    out, narrow = tmp_path / "smaller", tmp_path / "narrow"
    common = ("compress", tiny_clip(2), *DIGITS, "--method", "magnitude", "--target", 0.5)
    done = command(*common, "--bits", 8, "--out", out, "--json").json()
    assert done["groups"]["head"] == {"before": 6, "after": 3}
    assert done["bits"]["bits"] == 8
    assert done["bits"]["layers"]["attention layer"] == 3
    assert command(*common, "--out", narrow).code == 0
    model, float_model = load(str(out)), load(str(narrow))
    assert float(torch.cosine_similarity(features(model), features(float_model)).min()) > 0.99
    assert done["after"]["gflop"] == command(*common, "--out", tmp_path / "third", "--json").json()["after"]["gflop"]


def test_a_model_in_int8_is_trained_before_it_is_rounded_and_says_so(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    common = ("compress", tiny_clip(2), *DIGITS, "--method", "magnitude", "--target", 0.5, "--batch-size", 8)
    trained = ("--steps", 12, "--lr", 1e-3)
    for name, options in {"int8": ("--bits", 8, *trained), "float": trained, "untrained": ()}.items():
        done = command(*common, *options, "--out", tmp_path / name)
        assert done.code == 0, done.err
        order = "The 12 steps of recovery came first, in float32, and the rounding after them."
        assert (order in " ".join(done.err.split())) == (name == "int8")
    own, trained_float, untrained = (features(load(str(tmp_path / name))) for name in ("int8", "float", "untrained"))
    near, far = (float(torch.cosine_similarity(own, other).min()) for other in (trained_float, untrained))
    assert near > 0.99
    assert far < near - 0.01


@pytest.mark.parametrize("bits", [8, 4])
def test_the_table_says_what_was_rounded_and_what_was_not(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path, bits: int
) -> None:
    out = tmp_path / "smaller"
    done = command("compress", tiny_clip(2), *DIGITS, "--bits", bits, "--out", out)
    assert done.code == 0, done.err
    text = " ".join((done.out + done.err).split())
    assert f"in {bits} bits, on digits" in text
    assert "stay" in text
    assert ("save room on the disk, no time" in text) == (bits == 4)
    assert ("pass no gradient" in text) == (bits == 8)
    assert size_of_files(out) < 0.6 * size_of_files(tiny_clip(2))


def test_one_side_alone_has_fewer_bits(command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path) -> None:
    out = tmp_path / "smaller"
    done = command("compress", tiny_clip(2), *DIGITS, "--bits", 8, "--sides", "text", "--out", out, "--json")
    assert done.code == 0, done.err
    model, whole = load(str(out)), load(str(tiny_clip(2)))
    assert not any(isinstance(layer, Int8Layer) for layer in model.visual.modules())
    assert torch.equal(features(model)[:2], features(whole)[:2])
    assert not torch.equal(features(model)[2:], features(whole)[2:])


def test_four_bits_are_unpacked_to_a_float_model_that_is_not_rounded_twice(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    out = tmp_path / "smaller"
    done = command("compress", tiny_clip(2), *DIGITS, "--bits", 4, "--out", out, "--json").json()
    model, whole = load(str(out)), load(str(tiny_clip(2)))
    assert not any(isinstance(layer, Int8Layer) for layer in model.modules())
    names = [name for name, _ in whole.backbone.named_parameters() if name.endswith(("c_fc.weight", "in_proj_weight"))]
    state, before = model.backbone.state_dict(), whole.backbone.state_dict()
    for name in names:
        assert len(state[name][0].unique()) <= 16
        assert float((state[name] - before[name]).norm() / before[name].norm()) < 0.2
    assert torch.equal(features(load_encoder(str(out))), features(model))
    assert done["bits"]["bits"] == 4
    # half a byte and a quarter of a bit for the scales, and what stays in float32
    assert done["bits"]["numbers"] / 2 < size_of_files(out)
    again = command("compress", out, *DIGITS, "--bits", 8, "--out", tmp_path / "again")
    assert again.code == 2
    assert "rounded to 4 bits already" in " ".join(again.err.split())
    narrow = command("compress", out, *DIGITS, "--method", "magnitude", "--out", tmp_path / "narrow")
    assert narrow.code == 0, narrow.err
    assert "bits" not in load(str(tmp_path / "narrow")).card


def test_convolutions_of_a_trunk_compute_in_int8_and_a_set_is_named_as_well(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "smaller"
    done = command("compress", "small", "--data", "noto-emoji", "--limit", 8, "--bits", 8, "--out", out, "--json")
    assert done.code == 0, done.err
    model = load(str(out))
    convolutions = [layer for layer in model.modules() if isinstance(layer, Int8Conv2d)]
    assert len(convolutions) == done.json()["bits"]["layers"]["convolution"]
    assert all(layer.groups == 1 and layer.in_channels >= 64 for layer in convolutions)
    assert done.json()["after"]["megabytes"] < 0.3 * done.json()["before"]["megabytes"]
    assert float(torch.cosine_similarity(features(model), features(load("small"))).min()) > 0.9


@pytest.mark.parametrize("pruned", [(), ("--target", 0.5, "--method", "magnitude")])
def test_steps_with_four_bits_train_the_weights_that_are_stored(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path, pruned: tuple[Any, ...]
) -> None:
    out, whole = tmp_path / "tuned", load(str(tiny_clip(2)))
    common = ("compress", tiny_clip(2), *DIGITS, *pruned, "--bits", 4, "--batch-size", 8, "--json")
    done = command(*common, "--steps", 12, "--lr", 1e-3, "--out", out).json()
    recovery = done["bits"]["recovery"]
    assert recovery["kept"] is True
    assert (done["after"]["parameters"] < done["before"]["parameters"]) == bool(pruned)
    assert recovery["pictures"] == done["held_out"] == 12
    request = compress.request(model="-", data="digits", split="all", limit=24, out="-")
    held_out = sample_halves(whole, request).held_out
    with torch.no_grad():
        own, target = (model.encode_image(held_out.pixels) for model in (load(str(out)), whole))
    cosine = torch.cosine_similarity(own, target)
    assert float(cosine.mean()) == pytest.approx(recovery["tuned"]["image"], abs=1e-5)
    assert sum(recovery["tuned"].values()) > sum(recovery["rounded"].values())


def test_steps_that_did_not_help_leave_the_rounded_model(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path
) -> None:
    common = ("compress", tiny_clip(2), *DIGITS, "--bits", 4, "--batch-size", 8, "--json")
    # A learning rate that destroys the weights: the rounded model stays, and the report says so.
    worse, plain = tmp_path / "worse", tmp_path / "plain"
    spoilt = command(*common, "--steps", 12, "--lr", 1, "--out", worse).json()
    assert spoilt["bits"]["recovery"]["kept"] is False
    assert command(*common, "--out", plain).json()["bits"]["recovery"] is None
    assert torch.equal(features(load(str(worse))), features(load(str(plain))))


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, recoveries are interrupted after the third step."""
    step = RecoverySteps.on_step

    def interrupted(steps: RecoverySteps, record: StepRecord) -> None:
        step(steps, record)
        if record.step == 3:
            raise KeyboardInterrupt

    return lambda: monkeypatch.setattr(RecoverySteps, "on_step", interrupted)


@pytest.mark.parametrize("options", [("--bits", 4), ("--target", 0.5), ("--target", 0.5, "--bits", 4)])
def test_a_recovery_that_is_interrupted_leaves_the_model_so_far(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path, interrupt: Callable[[], None],
    options: tuple[Any, ...],
) -> None:  # fmt: skip
    common = ("compress", tiny_clip(2), *DIGITS, *options, "--method", "magnitude", "--batch-size", 8, "--lr", 1e-3)
    first, third = tmp_path / "first", tmp_path / "third"
    assert command(*common, "--out", first).code == 0
    interrupt()
    done = command(*common, "--steps", 9, "--out", third)
    assert done.code == 130
    assert "interrupted after 3 of 9 steps of the recovery" in done.err
    assert "third is the model so far, without figures" in done.err
    own, plain = load(str(third)), load(str(first))
    assert own.card.get("bits") == plain.card.get("bits")
    assert (size_of_files(third) < 3e6) == ("--bits" in options)
    moved = [float(torch.cosine_similarity(features(a), features(b)).mean()) for a, b in ((own, plain), (own, own))]
    assert moved[0] < moved[1] - 1e-5, "no step was done"


def test_a_recovery_that_is_interrupted_before_int8_says_that_it_is_float(
    command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path, interrupt: Callable[[], None]
) -> None:
    interrupt()
    options = ("--target", 0.5, "--bits", 8, "--steps", 9, "--method", "magnitude", "--batch-size", 8)
    done = command("compress", tiny_clip(2), *DIGITS, *options, "--out", tmp_path / "float")
    assert done.code == 130
    assert "float is the model so far, not yet in 8 bits and without figures" in done.err
    assert not any(isinstance(layer, Int8Layer) for layer in load(str(tmp_path / "float")).modules())


def test_mistakes_are_named(command: Command, tiny_clip: Callable[[int], Path], tmp_path: Path) -> None:
    common = ("compress", tiny_clip(2), *DIGITS, "--out", tmp_path / "made")
    for words, arguments in {
        "should be greater than or equal to 4": ("--bits", 3),
        "--bits 6: 8 or 4": ("--bits", 6),
        "Invalid value for '--bits'": ("--bits", "nan"),
        "--steps goes with --target or --bits 4: what --bits 8 rounds is trained before": ("--bits", 8, "--steps", 4),
        "--channels goes with --target": ("--bits", 8, "--channels"),
        "--bits 8 works on the CPU": ("--bits", 8, "--device", "cuda"),
    }.items():
        done = command(*common, *arguments)
        assert done.code == 2, words
        assert words in " ".join(done.err.split()), done.err
    assert command("compress", "hf:nowhere", *DIGITS, "--out", tmp_path / "made", "--bits", 4).code in (1, 2)
    assert not (tmp_path / "made").exists()
