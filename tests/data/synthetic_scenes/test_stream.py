from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import DataLoader

from binderclip.data.synthetic_scenes.captions import caption
from binderclip.data.synthetic_scenes.cutouts import COLOURS
from binderclip.data.synthetic_scenes.stream import Scenes, SceneStream, scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15, Vocabulary, caption_matches, vocabulary
from binderclip.errors import UsageError


def blocks(names: tuple[str, ...] = ("square", "disc", "bar"), styles: tuple[str, ...] = ("flat",)) -> Vocabulary:
    """Pictures whose true shape and colour are known: opaque, one flat colour a class."""
    grid = np.arange(64)
    shapes = {
        "square": np.ones((64, 64), dtype=bool),
        "disc": np.hypot(grid[:, None] - 31.5, grid[None] - 31.5) <= 31.5,
        "bar": np.broadcast_to(np.abs(grid[:, None] - 31.5) < 16, (64, 64)),
    }
    colours = {"square": (255, 0, 0), "disc": (0, 255, 0), "bar": (0, 0, 255)}
    sprites = np.zeros((len(names) * len(styles), 64, 64, 4), dtype=np.uint8)
    for row in range(len(sprites)):
        name = names[row % len(names)]
        sprites[row, ..., :3] = colours[name]
        sprites[row, ..., 3] = 255 * shapes[name]
    count = len(sprites)
    return Vocabulary(
        names=names,
        sprites=sprites,
        owner=np.arange(count) % len(names),
        captions=tuple(f"a flat {names[row % len(names)]}" for row in range(count)),
        keys=tuple(f"key{row}" for row in range(count)),
        styles=tuple(styles[row // len(names)] for row in range(count)),
    )


def same(a: Scenes, b: Scenes) -> bool:
    tensors = ("images", "semantic", "visible", "amodal", "boxes", "labels", "order", "tubes", "defects")
    lists = ("names", "phrases", "captions", "keys", "defect_kinds", "differences")
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors) and all(
        getattr(a, name) == getattr(b, name) for name in lists
    )


EVERYTHING = {
    "background": ["noise", "texture", "gradient"],
    "factors": {"colour": ["red", None], "rotation": [0, 30], "flip": [True, False]},
    "camouflage": 0.2,
    "tubes": (0, 2),
    "defects": (1, 2),
    "pairs": True,
}


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_a_scene_depends_on_seed_and_index_only(options: dict) -> None:
    source = blocks()
    whole = scenes(5, 7, 48, vocabulary=source, **options)
    assert same(whole, scenes(5, 7, 48, vocabulary=source, **options))
    alone = scenes(5, 1, 48, vocabulary=source, first=4, **options)
    assert same(whole[4], alone)
    if whole.pair is not None and alone.pair is not None:
        assert same(whole.pair[4], alone.pair)
    assert not same(whole[0], whole[1])
    assert not same(whole, scenes(6, 7, 48, vocabulary=source, **options))


def test_options_do_not_disturb_each_other() -> None:
    """Adding tubes or another background leaves the layout as it was: each has its own random stream."""
    plain = scenes(1, 4, 48, vocabulary=blocks())
    other = scenes(1, 4, 48, vocabulary=blocks(), background="texture", tubes=2, camouflage=0.5)
    assert torch.equal(plain.amodal, other.amodal)
    assert torch.equal(plain.semantic, other.semantic)


def test_masks_against_a_painters_loop() -> None:
    """Visible masks, semantic map, instances and boxes from the amodal masks, pixel by pixel."""
    batch = scenes(2, 6, 40, vocabulary=blocks(), objects=(2, 3), occlusion=0.6)
    for i in range(len(batch)):
        for y in range(40):
            for x in range(40):
                on_top = [k for k in range(3) if batch.labels[i, k] >= 0 and batch.amodal[i, k, y, x]]
                top = max(on_top, key=lambda k: int(batch.order[i, k]), default=None)
                assert int(batch.semantic[i, y, x]) == (0 if top is None else int(batch.labels[i, top]))
                assert int(batch.instances[i, y, x]) == (-1 if top is None else top)
                assert [bool(v) for v in batch.visible[i, :, y, x]] == [k == top for k in range(3)]
        for k in range(3):
            found = np.argwhere(batch.visible[i, k].numpy())
            wanted = [*found.min(0)[::-1], *(found.max(0)[::-1] + 1)] if len(found) else [0, 0, 0, 0]
            assert batch.boxes[i, k].tolist() == wanted


def test_the_mask_is_where_the_colour_is() -> None:
    """Flat red squares on white: the mask is exactly the red pixels, and the area is the one that was asked for."""
    batch = scenes(3, 20, 64, vocabulary=blocks(("square",)), objects=1, area=(0.05, 0.3), background=(255, 255, 255))
    red = (batch.images - torch.tensor([1.0, 0, 0])[:, None, None]).abs().amax(1) < 0.5
    assert torch.equal(red, batch.visible[:, 0])
    area = red.float().mean((1, 2))
    side = 1 / 64
    assert (area.sqrt() >= 0.05**0.5 - side).all()
    assert (area.sqrt() <= 0.3**0.5 + side).all()
    assert area.max() > 0.2
    assert area.min() < 0.1
    assert np.allclose(batch.attributes["area"][:, 0], area)


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.5])
def test_occlusion_limit_holds(limit: float) -> None:
    batch = scenes(4, 40, 48, vocabulary=blocks(), objects=(3, 4), area=(0.05, 0.12), occlusion=limit)
    loss = 1 - batch.visible.sum((2, 3)) / batch.amodal.sum((2, 3))
    assert loss[batch.present].max() <= limit + 1e-6
    assert np.allclose(batch.attributes["occlusion"][batch.present], loss[batch.present], atol=1e-6)
    if limit == 0.5:
        assert loss[batch.present].max() > 0.1  # the limit is used, not avoided


def test_least_occlusion_makes_objects_touch() -> None:
    batch = scenes(4, 30, 48, vocabulary=blocks(("disc",)), objects=3, area=(0.06, 0.1), occlusion=(0.05, 0.3))
    loss = 1 - batch.visible.sum((2, 3)) / batch.amodal.sum((2, 3))
    assert (loss.amax(1) >= 0.05).all()
    assert loss.max() <= 0.3 + 1e-6
    assert all(ndimage.label(group)[1] == 1 for group in (batch.semantic > 0).numpy())
    assert batch.names == [["disc"] * 3] * 30
    assert batch.captions[0] == "three discs"


def test_counts_are_uniform_and_classes_distinct() -> None:
    batch = scenes(0, 400, 16, vocabulary=blocks(), objects=(0, 3), area=(0.03, 0.06))
    share = np.bincount(batch.attributes["objects"], minlength=4) / 400
    assert np.abs(share - 0.25).max() < 4 * (0.25 * 0.75 / 400) ** 0.5
    assert all(len(set(names)) == len(names) for names in batch.names)
    assert [len(names) for names in batch.names] == batch.attributes["objects"].tolist()
    assert all(
        (caption == "an empty scene") == (not names) for caption, names in zip(batch.captions, batch.names, strict=True)
    )


def test_slots_fix_places_and_captions() -> None:
    batch = scenes(1, 12, 64, vocabulary=blocks(), objects=2, slots="left-right", background="white")
    for i in range(12):
        left, right = batch.boxes[i]
        assert left[2] <= 32 <= right[0]
        first, second = batch.names[i]
        assert batch.captions[i] == f"a {first} to the left of a {second}"
    grid = scenes(1, 30, 64, vocabulary=blocks(), objects=1, slots="grid")
    centre = (grid.boxes[:, 0, :2] + grid.boxes[:, 0, 2:]) / 2
    slot = (centre[:, 0] > 32).long() + 2 * (centre[:, 1] > 32).long()
    assert slot.tolist() == grid.attributes["slot"][:, 0].tolist()
    assert set(slot.tolist()) == {0, 1, 2, 3}
    big = scenes(1, 5, 100, vocabulary=blocks(("square",)), objects=2, slots=[(0, 0, 0.3, 0.3), (0.4, 0.4, 1, 1)])
    sides = (big.boxes[..., 2] - big.boxes[..., 0]).unique(dim=0)
    assert sides.tolist() == [[26, 52]]


def test_factors_are_what_the_picture_shows() -> None:
    source = blocks(("square",))
    factors = {
        "colour": ["red", "blue", "yellow"],
        "size": {"small": 3, "large": 1},
        "position": ["top left", (0.6, 0.7)],
    }
    batch = scenes(7, 60, 64, vocabulary=source, objects=1, factors=factors, background="white")
    for i in range(60):
        mask = batch.visible[i, 0]
        colour, size, position = (batch.attributes[name][i, 0] for name in ("colour", "size", "position"))
        mean = batch.images[i][:, mask].mean(1) * 255
        nearest = min(
            COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(mean.tolist(), COLOURS[name], strict=True))
        )
        assert nearest == colour
        assert abs(mask.float().mean() ** 0.5 - {"small": 0.03, "large": 0.2}[size] ** 0.5) < 1 / 64
        if size == "small":
            x, y = {"top left": (1 / 6, 1 / 6)}.get(position, (0.6, 0.7))
            ys, xs = torch.nonzero(mask).float().add(0.5).mean(0) / 64
            assert abs(ys - y) <= 1 / 64
            assert abs(xs - x) <= 1 / 64
        assert batch.phrases[i] == [f"{size} {colour} square"]
    share = (batch.attributes["size"][:, 0] == "small").mean()
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / 60) ** 0.5


def test_factors_style_rotation_flip_and_callables() -> None:
    source = blocks(styles=("flat", "round"))
    batch = scenes(0, 20, 48, vocabulary=source, objects=1, factors={"style": ["round"]})
    assert {key for keys in batch.keys for key in keys} <= {"key3", "key4", "key5"}
    upright = scenes(0, 10, 64, vocabulary=source.only(["bar"]), objects=1, factors={"rotation": [90]})
    box = upright.boxes[:, 0]
    assert (box[:, 3] - box[:, 1] > 1.6 * (box[:, 2] - box[:, 0])).all()
    spurious = scenes(
        0, 20, 32, vocabulary=source, objects=1,
        factors={"background": lambda name, rng: "black" if name == "disc" else "white"},
    )  # fmt: skip
    for i in range(20):
        corner = float(spurious.images[i, 0, 0, 0])
        assert (corner < 0.5) == (spurious.names[i] == ["disc"])
        assert (spurious.attributes["background"][i] == "black") == (spurious.names[i] == ["disc"])


def test_camouflage_brings_colours_near_the_background() -> None:
    distance = []
    for share in (0.0, 0.4, 0.8, 1.0):
        batch = scenes(1, 8, 64, vocabulary=blocks(), background="noise", camouflage=share, area=(0.1, 0.2))
        mask = batch.semantic > 0
        ground = [image[:, ~here].mean(1) for image, here in zip(batch.images, mask, strict=True)]
        gaps = [(i[:, m].mean(1) - g).norm() for i, m, g in zip(batch.images, mask, ground, strict=True)]
        distance.append(float(torch.stack(gaps).mean()))
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < 0.25 * distance[0]


def test_tubes_follow_their_centre_lines() -> None:
    batch = scenes(2, 6, 128, vocabulary=blocks(), objects=0, tubes=(1, 3), background="texture")
    for i in range(6):
        for mask, line in zip(batch.tubes[i], batch.tube_lines[i], strict=False):
            ys, xs = np.nonzero(mask.numpy())
            points = line.numpy()
            gap = np.hypot(xs[:, None] + 0.5 - points[:, 0], ys[:, None] + 0.5 - points[:, 1])
            nearest = gap.argmin(1)
            assert (gap.min(1) <= points[nearest, 2] + 1).all()  # inside the radius
            inside = points[(points[:, :2] < 127).all(1)].astype(int)
            assert mask[inside[:, 1], inside[:, 0]].float().mean() > 0.95  # and the line runs inside the mask
            assert ndimage.label(mask.numpy(), np.ones((3, 3)))[1] == 1
        assert not batch.tubes[i, len(batch.tube_lines[i]) :].any()


def test_objects_hide_tubes() -> None:
    batch = scenes(2, 6, 64, vocabulary=blocks(), tubes=2)
    assert not (batch.tubes.any(1) & (batch.semantic > 0)).any()


def test_defects_change_their_pixels_and_no_others() -> None:
    batch = scenes(3, 24, 64, vocabulary=blocks(), defects=(1, 2), area=(0.1, 0.25), pairs=True, background="white")
    assert batch.pair is not None
    assert batch.changed is not None
    kinds = {kind for found in batch.defect_kinds for kind, _ in found}
    assert kinds == {"scratch", "spot", "hole", "missing"}
    for i in range(24):
        mask, changed = batch.defects[i].numpy(), batch.changed[i].numpy()
        assert 0 < mask.sum() < 0.05 * 64 * 64 * len(batch.defect_kinds[i])
        assert not (changed & ~ndimage.binary_dilation(mask, iterations=2)).any()
        assert changed[mask].mean() > 0.8
        assert not batch.pair.defects[i].any()
        assert batch.differences[i].before == tuple(kind for kind, _ in batch.defect_kinds[i])
        opened = [target for kind, target in batch.defect_kinds[i] if kind in ("hole", "missing")]
        lost = batch.pair.visible[i] & ~batch.visible[i]
        assert {k for k in range(4) if lost[k].any()} <= set(opened)
        assert "damaged" in batch.captions[i]
        assert "damaged" not in batch.pair.captions[i]
    assert torch.equal(batch.amodal, batch.pair.amodal)


@pytest.mark.parametrize("kind", ["remove", "replace", "colour", "move"])
def test_pairs_differ_in_one_object(kind: str) -> None:
    batch = scenes(3, 12, 64, vocabulary=blocks(), objects=(1, 2), area=(0.05, 0.1), pairs=kind)
    twin = batch.pair
    assert twin is not None
    assert batch.changed is not None
    for i, difference in enumerate(batch.differences):
        k = difference.object
        assert difference.kind == kind
        here = batch.amodal[i, k]
        if kind == "remove":
            assert batch.names[i][:k] + batch.names[i][k + 1 :] == twin.names[i]
        elif kind == "replace":
            assert (batch.names[i][k], twin.names[i][k]) == (difference.before, difference.after)
            here = here | twin.amodal[i, k]
        elif kind == "colour":
            assert torch.equal(batch.semantic[i], twin.semantic[i])
            assert str(difference.after) in twin.phrases[i][k]
        else:
            here = here | twin.amodal[i, k]
            assert batch.names[i] == twin.names[i]
        near = ndimage.binary_dilation(here.numpy(), iterations=2)
        assert batch.changed[i].any()
        assert not (batch.changed[i].numpy() & ~near).any()


def test_background_kinds() -> None:
    empty = {"vocabulary": blocks(), "objects": 0}
    assert (scenes(0, 1, 16, background=(0, 128, 255), **empty).images[0, :, 3, 3] * 255).tolist() == [0, 128, 255]
    assert (scenes(0, 1, 16, background=(0.0, 0.5, 1.0), **empty).images[0, :, 3, 3]).tolist() == [0, 0.5, 1]
    spread = {
        kind: scenes(0, 16, 64, background=kind, **empty).images.std((2, 3)).mean()
        for kind in ("plain", "gradient", "noise", "texture", "photo")
    }
    assert spread["plain"] < 1e-6
    assert all(value > 0.02 for kind, value in spread.items() if kind != "plain")
    given = torch.rand(2, 3, 8, 8)
    cut = scenes(0, 5, 16, background=given, **empty).images
    assert cut.min() >= given.min() - 0.01
    assert cut.max() <= given.max() + 0.01


def test_scaling_keeps_the_layout() -> None:
    small = scenes(9, 6, 64, objects=(1, 3), occlusion=1.0)
    large = scenes(9, 6, 256, objects=(1, 3), occlusion=1.0)
    assert small.names == large.names
    pooled = torch.nn.functional.avg_pool2d(large.amodal.float(), 4) > 0.5
    overlap = (pooled & small.amodal).sum((2, 3)) / (pooled | small.amodal).sum((2, 3)).clamp(min=1)
    assert overlap[small.present].min() > 0.7


def test_stream_is_the_scenes_in_order_for_any_number_of_workers() -> None:
    options = {"vocabulary": blocks(), "objects": (1, 2)}
    whole = scenes(3, 12, 32, **options)
    stream = SceneStream(3, 4, 32, batches=3, **options)
    for workers in (0, 2):
        loader = DataLoader(stream, batch_size=None, num_workers=workers)
        got = [batch.images for batch in loader]
        assert torch.equal(torch.cat(got), whole.images)
    resumed = list(SceneStream(3, 4, 32, batches=3, start=2, **options))
    assert torch.equal(resumed[0].images, whole.images[8:])


def test_bundled_vocabulary() -> None:
    held, seen = vocabulary("scenes15", split="val+test"), vocabulary("scenes15")
    assert held.names == seen.names == tuple(SCENES15)
    wanted = "flag heart folder clock tree house cat dog moon jigsaw woman apple car flower cloud"
    assert " ".join(seen.names) == wanted
    assert not held.missing
    assert not seen.missing
    assert not set(held.keys) & set(seen.keys)
    assert min(seen.counts.values()) >= 12
    batch = scenes(0, 3, 64, vocabulary=held)
    assert batch.classes == ("background", *held.names)
    assert all(batch.classes[label] == name for label, name in zip(batch.labels[0], batch.names[0], strict=False))
    assert vocabulary(["cat", "dog"], split="train").names == ("cat", "dog")
    assert vocabulary({"feline": ["cat", "kitten", "tiger"]}).counts["feline"] > 40


def test_a_vocabulary_by_pack_style_and_number() -> None:
    every = vocabulary(["cat", "dog"])
    for owner in (0, 1):
        parts = {style: every.members(owner, style) for style in sorted(set(every.styles))}
        assert all({every.styles[row] for row in rows} <= {style} for style, rows in parts.items())
        assert sorted(np.concatenate(list(parts.values())).tolist()) == every.members(owner).tolist()
        assert set(every.owner[every.members(owner)]) == {owner}
    clipart = vocabulary(["cat", "dog"], packs=("openclipart",))
    assert set(clipart.keys) < set(every.keys)
    assert len(set(clipart.styles)) == 1
    few = vocabulary(["cat", "dog"], per_class=3)
    assert few.counts == {"cat": 3, "dog": 3}
    first = {owner: sorted(every.keys[row] for row in every.members(owner))[:3] for owner in (0, 1)}
    assert {owner: sorted(few.keys[row] for row in few.members(owner)) for owner in (0, 1)} == first
    assert set(vocabulary(["cat", "dog"], mono=True).keys) > set(every.keys)


@pytest.mark.parametrize(
    ("caption", "aliases", "wanted"),
    [
        ("old red car, vehicle", ["car"], True),
        ("two cars", ["car"], True),
        ("car rental pictogram sign", ["car"], False),
        ("apple pie, dessert", ["apple"], False),
        ("house in the country", ["house"], True),
        ("woman and man", ["woman"], False),
        ("hot dog, meat or egg dish", ["dog", "!hot dog"], False),
        ("folder penguin icon", ["folder*"], True),
        ("scar", ["car"], False),
        ("Flag of Chile in America", ["flag"], True),
    ],
)
def test_captions_name_a_class_by_their_head(caption: str, aliases: list[str], wanted: bool) -> None:
    assert caption_matches(caption, aliases) is wanted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocabulary": "scenes16"}, "scenes15"),
        ({"vocabulary": ["zzyzx"]}, "no picture of 'zzyzx'"),
        ({"background": "sky"}, "gradient"),
        ({"objects": (3, 2)}, "least, most"),
        ({"objects": 3, "slots": "left-right"}, "2 slots"),
        ({"area": (0.5, 1.2)}, "area"),
        ({"occlusion": (0.5, 0.2)}, "occlusion"),
        ({"factors": {"hue": [1]}}, "colour"),
        ({"factors": {"colour": ["mauve"]}}, "red"),
        ({"factors": {"style": ["cubist"]}}, "openclipart"),
        ({"camouflage": 2.0}, "camouflage"),
        ({"pairs": "swap"}, "replace"),
        ({"pairs": "defect"}, "defects"),
        ({"tubes": -1}, "tubes"),
        ({"area": (0.5, 0.6), "objects": 4, "occlusion": 0.0}, "do not fit"),
    ],
)
def test_mistakes_are_named(options: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        scenes(0, 2, 32, **options)


def test_samples_carry_the_scene() -> None:
    batch = scenes(4, 3, 32, vocabulary=blocks(), objects=(1, 3), first=5)
    for i, sample in enumerate(batch.samples()):
        assert sample.key == f"scenes/4/{5 + i}"
        assert sample.caption == batch.captions[i]
        assert np.abs(np.asarray(sample.image) / 255 - batch.images[i].permute(1, 2, 0).numpy()).max() < 0.002
        count = len(batch.names[i])
        assert sample.boxes.shape == (count, 4)
        assert np.array_equal(sample.masks, batch.visible[i, :count].numpy())


@pytest.mark.parametrize(
    ("nouns", "line"),
    [
        ([], "an empty scene"),
        (["apple"], "an apple"),
        (["cat", "dog", "cat"], "two cats and a dog"),
        (["woman", "woman"], "two women"),
        (["red box", "red box", "fly", "fly", "moon"], "two red boxes, two flies and a moon"),
    ],
)
def test_lines_are_english(nouns: list[str], line: str) -> None:
    assert caption(nouns) == line
