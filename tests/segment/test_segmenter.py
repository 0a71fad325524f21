"""The segmenter against the tower's own forward, a hand-written value path, and invariances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.segment import METHODS, PRESETS, ClassRule, LastBlock, Segmenter, Whole, Windows, parts_of, vanilla

LABELS = ["a cat", "a dog", "green grass"]


def picture(height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def expected(model, dense: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    rows = model.encode_text(LABELS, normalize=True).detach()
    cosines = torch.einsum("behw,qe->bqhw", F.normalize(dense, dim=1), rows)
    return float(model.scale().detach()) * F.interpolate(cosines, size=size, mode="bilinear")[0]


def test_value_preset_is_out_proj_of_the_values_by_the_librarys_own_modules(clip_model) -> None:
    image = picture()
    visual = clip_model.visual
    seen: list[torch.Tensor] = []
    handle = visual.transformer.resblocks[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        clip_model.encode_image(image)
    handle.remove()
    block = visual.transformer.resblocks[-1]
    weight, bias = block.attn.in_proj_weight[96:], block.attn.in_proj_bias[96:]
    with torch.no_grad():
        values = block.attn.out_proj(F.linear(block.ln_1(seen[0]), weight, bias))
        dense = visual.ln_post(values)[:, 1:] @ visual.proj
    found = Segmenter(clip_model, size=32)(image, LABELS)
    want = expected(clip_model, dense.transpose(1, 2).unflatten(2, (4, 4)), (32, 32))
    torch.testing.assert_close(found.scores, want, rtol=1e-4, atol=1e-4)
    assert torch.equal(found.labels.long(), want.argmax(dim=0))


def test_plain_preset_is_the_towers_ordinary_forward(clip_model) -> None:
    image = picture(48, 32)
    tower = clip_model.image_tower
    with torch.no_grad():
        dense = tower.dense(tower.run(tower.embed(clip_model.preprocess.normalize(image[None]))))
    found = Segmenter(clip_model, "plain", size=32)(image, LABELS)
    torch.testing.assert_close(found.scores, expected(clip_model, dense, (48, 32)), rtol=1e-4, atol=1e-4)
    value = Segmenter(clip_model, "value", size=32)(image, LABELS)
    assert not torch.allclose(found.scores, value.scores, atol=1e-2)


def test_a_part_replaces_the_presets(clip_model) -> None:
    image = picture()
    swapped = Segmenter(clip_model, "value", size=32, last_block=LastBlock(vanilla, residual=True, mlp=True))
    plain = Segmenter(clip_model, "plain", size=32)
    torch.testing.assert_close(swapped(image, LABELS).scores, plain(image, LABELS).scores)
    doubled = Segmenter(clip_model, "plain", size=32, rule=ClassRule(scale=2.0))(image, LABELS)
    torch.testing.assert_close(doubled.scores / 2, plain(image, LABELS).scores / clip_model.scale().detach())
    flipped = Segmenter(clip_model, "plain", size=32, refine=lambda pixels, scores, context: -scores)
    torch.testing.assert_close(flipped(image, LABELS).scores, -plain(image, LABELS).scores)
    assert set(METHODS) == set(PRESETS) >= {"plain", "value"}


def test_permuting_labels_permutes_the_result(clip_model) -> None:
    image = picture(40, 56)
    segmenter = Segmenter(clip_model)
    a, b = segmenter(image, LABELS), segmenter(image, LABELS[::-1])
    torch.testing.assert_close(a.scores, b.scores.flip(0))
    assert torch.equal(a.labels, 2 - b.labels)
    torch.testing.assert_close(a.probs.sum(dim=0), torch.ones(40, 56))


def test_a_class_takes_the_best_of_its_words_and_background_is_the_first(clip_model) -> None:
    image = picture()
    single = Segmenter(clip_model, size=32)(image, ["a cat", "a dog", "a bird"])
    grouped = Segmenter(clip_model, size=32)(image, {"pet": ["a cat", "a dog"], "bird": ["a bird"]})
    assert grouped.classes == ("pet", "bird")
    torch.testing.assert_close(grouped.scores[0], torch.maximum(single.scores[0], single.scores[1]))
    torch.testing.assert_close(grouped.scores[1], single.scores[2])
    behind = Segmenter(clip_model, size=32, background=["a dog", "a bird"])(image, ["a cat"])
    assert behind.classes == ("background", "a cat")
    assert behind.background
    torch.testing.assert_close(behind.scores[0], torch.maximum(single.scores[1], single.scores[2]))


def test_threshold_leaves_unsure_pixels_unsegmented(clip_model) -> None:
    image = picture()
    found = Segmenter(clip_model, size=32, rule=ClassRule(threshold=0.5))(image, LABELS)
    assert torch.equal(found.labels == -1, found.probs.amax(dim=0) < 0.5)
    assert 0 < int((found.labels == -1).sum()) < 1024


def test_one_window_is_the_whole_image_and_constants_stay_constant(clip_model) -> None:
    image = picture()
    whole = Segmenter(clip_model, resolution=Whole(32))(image, LABELS)
    window = Segmenter(clip_model, resolution=Windows(32, 16, size=32))(image, LABELS)
    torch.testing.assert_close(window.scores, whole.scores, rtol=1e-4, atol=1e-4)
    wide = picture(32, 80)
    found = Segmenter(clip_model, resolution=Windows(32, 16, size=32))(wide, LABELS)
    # Columns 0 to 15 are covered by the first window only.
    first = Segmenter(clip_model, resolution=Whole(32))(wide[..., :32], LABELS)
    torch.testing.assert_close(found.scores[..., :16], first.scores[..., :16], rtol=1e-4, atol=1e-4)
    second = Segmenter(clip_model, resolution=Whole(32))(wide[..., 16:48], LABELS)
    overlap = (first.scores[..., 16:32] + second.scores[..., :16]) / 2
    torch.testing.assert_close(found.scores[..., 16:32], overlap, rtol=1e-4, atol=1e-4)


def test_any_size_and_type_of_image_gives_a_map_of_its_size(clip_model, tmp_path) -> None:
    from PIL import Image

    array = (picture(30, 75).permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(array).save(tmp_path / "x.png")
    segmenter = Segmenter(clip_model)
    by_file, by_array = segmenter(tmp_path / "x.png", LABELS), segmenter(array, LABELS)
    assert by_file.labels.shape == (30, 75)
    assert by_file.scores.shape[1:] == (64, 160)
    assert torch.equal(by_file.labels, by_array.labels)


def test_the_model_is_left_as_it_was(clip_model) -> None:
    clip_model.train()
    try:
        Segmenter(clip_model)(picture(), LABELS)
        assert clip_model.training
    finally:
        clip_model.eval()


def test_bad_input_is_named(clip_model) -> None:
    for options, words in [
        ({"preset": "magic"}, "preset 'magic' is unknown; there are .*plain.*value"),
        ({"preset": ["a cat"]}, r"preset must be a name or Parts, not \['a cat'\]; labels go with the image"),
        ({"size": 64, "resolution": Whole()}, "give one of them"),
        ({"background": "sky"}, "must be a list of words"),
    ]:
        with pytest.raises(UsageError, match=words):
            Segmenter(clip_model, **options)
    segmenter = Segmenter(clip_model)
    for labels, words in [([], "empty"), ("cat", "single text"), (["a", "a"], "twice"), (["a", " "], "non-empty")]:
        with pytest.raises(UsageError, match=words):
            segmenter(picture(), labels)
    with pytest.raises(UsageError, match="both a label and the name of the background"):
        Segmenter(clip_model, background=["sky"])(picture(), ["background"])
    with pytest.raises(UsageError, match="one image at a time"):
        segmenter(torch.rand(2, 3, 32, 32), LABELS)
    with pytest.raises(UsageError, match="not a multiple of the patch"):
        Segmenter(clip_model, resolution=Windows(20))(picture(), LABELS)
    with pytest.raises(UsageError, match="below one patch"):
        Segmenter(clip_model, size=4)(picture(), LABELS)


def test_a_tower_without_patches_is_refused_by_name() -> None:
    from binderclip.models import build

    conv = build(
        {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
            "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        }
    )
    with pytest.raises(NotSupported, match=r"ModifiedResNet.*without attention, which value needs; the preset dense"):
        Segmenter(conv)


def test_dense_is_plain_on_a_tower_with_attention(clip_model) -> None:
    image = picture(48, 32)
    dense, plain = (Segmenter(clip_model, preset, size=32)(image, LABELS) for preset in ("dense", "plain"))
    torch.testing.assert_close(dense.scores, plain.scores, rtol=1e-4, atol=1e-4)


def test_several_segmenters_share_the_towers_passes_and_agree_with_single_calls(clip_model, monkeypatch) -> None:
    from binderclip.models.towers import Tower
    from binderclip.segment import segment_all

    image, runs, embed = picture(40, 72), [], Tower.embed

    def counted(tower, pixels):
        runs.append(len(pixels))
        return embed(tower, pixels)

    monkeypatch.setattr(Tower, "embed", counted)
    windows = Windows(32, 16, size=32)
    three = [
        Segmenter(clip_model, "plain", resolution=windows),
        Segmenter(clip_model, "value", resolution=windows),
        Segmenter(clip_model, "value", size=32),
    ]
    single = [each(image, LABELS).scores for each in three]
    passes = sum(runs)
    runs.clear()
    together = [found.scores for found in segment_all(three, image, LABELS)]
    for one, other in zip(single, together, strict=True):
        torch.testing.assert_close(one, other)
    assert sum(runs) == passes - sum(runs[:1]) > 0
    assert len(runs) == 2


def test_a_segmentation_is_handed_out_before_other_windows_are_looked_at(clip_model, monkeypatch) -> None:
    from binderclip.models.towers import Tower
    from binderclip.segment import iter_segmentations, segment_all

    runs, embed = [], Tower.embed
    monkeypatch.setattr(Tower, "embed", lambda tower, pixels: runs.append(len(pixels)) or embed(tower, pixels))
    windows = Windows(32, 16, size=32)
    three = [
        Segmenter(clip_model, "plain", resolution=windows),
        Segmenter(clip_model, "value", size=32),
        Segmenter(clip_model, "value", resolution=windows),
    ]
    found = {}
    clip_model.train()
    for place, each in iter_segmentations(three, picture(40, 72), LABELS):
        found[place] = (len(runs), each)
        assert torch.is_grad_enabled()
    assert clip_model.training
    clip_model.eval()
    # The first and third look at the same windows, in one pass of the tower.
    assert [(place, passes) for place, (passes, _) in found.items()] == [(0, 1), (2, 1), (1, 2)]
    for place, each in enumerate(segment_all(three, picture(40, 72), LABELS)):
        torch.testing.assert_close(found[place][1].scores, each.scores)


def test_splicing_tokens_is_averaging_them_before_the_norm(clip_model) -> None:
    image, tower = picture(32, 48), clip_model.image_tower
    found = Segmenter(clip_model, resolution=Windows(32, 16, size=32, merge="tokens"))(image, LABELS)
    with torch.no_grad():
        maps = []
        for left in (0, 16):
            pixels = clip_model.preprocess.normalize(image[None, :, :, left : left + 32])
            tokens = tower.value_path(tower.run(tower.embed(pixels), stop=-1))
            maps.append(tokens.x[0, 1:].T.unflatten(1, (4, 4)))
        whole = torch.zeros(48, 4, 6)
        whole[:, :, :2], whole[:, :, 4:] = maps[0][:, :, :2], maps[1][:, :, 2:]
        whole[:, :, 2:4] = (maps[0][:, :, 2:] + maps[1][:, :, :2]) / 2
        dense = tower.head(whole.flatten(1).T[None])[0].T.unflatten(1, (4, 6))[None]
    torch.testing.assert_close(found.scores, expected(clip_model, dense, (32, 48)), rtol=1e-4, atol=1e-4)


def test_a_softmax_over_words_and_a_fall_back_to_background(clip_model) -> None:
    image, words = picture(), {"pet": ["a cat", "a dog"], "bird": ["a bird"]}
    rule = ClassRule(scale=20.0, over="words", threshold=0.4, below="background")
    found = Segmenter(clip_model, size=32, rule=rule, background=["a wall"])(image, words)
    plain = Segmenter(clip_model, size=32, rule=ClassRule(scale=20.0))
    probs = plain(image, ["a wall", "a cat", "a dog", "a bird"]).scores.softmax(dim=0)
    best = torch.stack([probs[0], probs[1:3].amax(0), probs[3]])
    torch.testing.assert_close(found.scores.exp(), best)
    want = torch.where(best.amax(0) < 0.4, 0, best.argmax(0))
    assert torch.equal(found.labels.long(), want)
    assert 0 < int((want == 0).sum()) < want.numel()


def test_descriptions_are_mixed_in_and_a_redundant_direction_taken_off(clip_model) -> None:
    from binderclip.segment import TextSide

    cat, dog, pet = clip_model.encode_text(["a cat", "a dog", "a small pet"], normalize=True).detach()
    mixed = TextSide(auxiliary={"a cat": "a small pet"}, alpha=0.25).bind(clip_model, ["a cat", "a dog"])
    torch.testing.assert_close(mixed.rows, torch.stack([0.75 * cat + 0.25 * pet, dog]))
    bare = TextSide(redundant="a dog").bind(clip_model, ["a cat"])
    torch.testing.assert_close(bare.rows[0], cat - dog)
    # Of the empty text it is the empty text, in the templates as it is in the release.
    empty, photo, photos = clip_model.encode_text(["", "a photo of a .", "many ."], normalize=True).detach()
    torch.testing.assert_close(TextSide(redundant="").bind(clip_model, ["a cat"]).rows[0], cat - empty)
    side = TextSide(redundant="", templates=("a photo of a {}.", "many {}."))
    mean = torch.nn.functional.normalize((photo + photos) / 2, dim=0)
    words = TextSide(templates=side.templates).bind(clip_model, ["cat", "dog"]).rows
    torch.testing.assert_close(side.bind(clip_model, ["cat", "dog"]).rows, words - mean)
    with pytest.raises(UsageError, match="alpha must be in"):
        TextSide(alpha=2)
    with pytest.raises(UsageError, match="'colour' is no part of a segmenter"):
        parts_of("value", colour=1)


def test_parts_stand_for_a_preset_and_none_is_none(clip_model) -> None:
    parts = replace(parts_of("itaclip"), views=None, refine=(), relabel=())
    assert Segmenter(clip_model, parts).parts == parts
    # A part of None among the arguments is the preset's own.
    assert Segmenter(clip_model, "itaclip", views=None).parts.views == parts_of("itaclip").views
    other = Segmenter(clip_model, parts, rule=ClassRule(scale=7.0)).parts
    assert other == replace(parts, rule=ClassRule(scale=7.0))
