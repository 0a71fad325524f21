"""ITACLIP (p170): views, mixed texts, the blended block and tidying, against limits, loops and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from binderclip.errors import UsageError
from binderclip.models.towers import Tower
from binderclip.segment import (
    PAMR,
    AttentionMean,
    Blend,
    ClassRule,
    Closing,
    DropSmall,
    Frame,
    LastBlock,
    MaskScoped,
    Segmenter,
    SelfSelf,
    TextSide,
    ViewEnsemble,
    Windows,
    override,
    parts_of,
    presets,
    vanilla,
)
from binderclip.segment import segmenter as segmenter_module
from binderclip.segment.parts.context import open_windows, records
from binderclip.segment.parts.views import blurred, grey

LABELS = ["a cat", "a dog", "green grass"]


def picture(height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def cosines(model, pixels: torch.Tensor) -> torch.Tensor:
    """Patch cosines (Q, 4, 4) of one 32 px picture by the ordinary forward."""
    tower = model.image_tower
    with torch.no_grad():
        dense = F.normalize(tower.dense(tower.run(tower.embed(model.preprocess.normalize(pixels[None])))), dim=1)
        return torch.einsum("behw,qe->qhw", dense, model.encode_text(LABELS, normalize=True))


def by_scipy(pixels: torch.Tensor, side: int, sigma: float) -> torch.Tensor:
    """A Gaussian cut to `side` taps, along both axes, mirrored about the border pixel."""
    taps = np.exp(-0.5 * (np.arange(side) - side // 2) ** 2 / sigma**2)
    out = pixels.double().numpy()
    for axis in (-1, -2):
        out = ndimage.convolve1d(out, taps / taps.sum(), axis=axis, mode="mirror")
    return torch.from_numpy(out).float()


def test_views_are_weighted_passes_of_changed_pictures(clip_model) -> None:
    image = picture()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (clip_model.preprocess.mean, clip_model.preprocess.std))
    luminance = ((image - mean) / std * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(0, keepdim=True)
    first = [image, luminance * std + mean, by_scipy(image, 5, 1.5)]
    kept = torch.stack([cosines(clip_model, each) for each in first]).mean(0)
    turned = torch.stack([cosines(clip_model, image.flip(axis)).flip(axis) for axis in (-2, -1)]).mean(0)
    views = ViewEnsemble(share=0.7, sigma=1.5, kernel=5, side=None)
    found = Segmenter(clip_model, "plain", size=32, views=views, rule=ClassRule(scale=1.0))(image, LABELS)
    want = F.interpolate((0.7 * kept + 0.3 * turned)[None], size=(32, 32), mode="bilinear")[0]
    torch.testing.assert_close(found.scores, want, rtol=1e-4, atol=1e-4)
    assert views.passes == 5


def test_the_blur_keeps_its_proportion_to_the_window_and_grey_is_of_pixels_if_asked(clip_model) -> None:
    image = picture(64, 64)[None]
    context = open_windows(Frame(clip_model, image, image), image, [(0, 0)], records())
    views = ViewEnsemble(sigma=7.0, kernel=22, side=128)
    torch.testing.assert_close(
        views._changed("blur", context, image)[0], by_scipy(image[0], 11, 3.5), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(blurred(image, sigma=1.0, kernel=1.0)[0], by_scipy(image[0], 3, 1.0), atol=1e-4, rtol=0)
    on_pixels = ViewEnsemble(on="pixels")._changed("grey", context, image)
    assert torch.equal(on_pixels[:, 0], on_pixels[:, 2])
    torch.testing.assert_close(on_pixels, grey(image))
    on_normalised = ViewEnsemble()._changed("grey", context, image)
    assert not torch.allclose(on_normalised, on_pixels, atol=1e-2)
    assert blurred(picture(2, 3)[None], sigma=5, kernel=11).shape == (1, 3, 2, 3)


def test_no_views_are_none_and_all_flips_make_a_mirrored_picture_a_mirrored_map(clip_model) -> None:
    image = picture()
    alone = ViewEnsemble(first=(), second=())
    plain = Segmenter(clip_model, "plain", size=32)(image, LABELS)
    torch.testing.assert_close(Segmenter(clip_model, "plain", size=32, views=alone)(image, LABELS).scores, plain.scores)
    one_flip = ViewEnsemble(first=(), second=("flip-horizontal",), share=0.5)
    segmenter = Segmenter(clip_model, "plain", size=32, views=one_flip)
    there, back = segmenter(image, LABELS).scores, segmenter(image.flip(-1), LABELS).scores.flip(-1)
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(there, plain.scores, atol=1e-2)


def test_regions_of_the_picture_refuse_flipped_windows(clip_model) -> None:
    def halves(image):
        return (torch.arange(image.shape[-1]) // 16).expand(image.shape[-2:])

    from binderclip.segment import Scope

    block = LastBlock(MaskScoped(Scope(halves, merge=None)))
    with pytest.raises(UsageError, match="do not fit windows that a view has flipped"):
        Segmenter(clip_model, size=32, last_block=block, views=ViewEnsemble())(picture(), LABELS)
    Segmenter(clip_model, size=32, last_block=block, views=ViewEnsemble(second=()))(picture(), LABELS)


def test_the_preset_is_the_paper_s_by_the_library_s_own_modules(clip_model) -> None:
    """The 7th, 8th and 10th of 12 blocks are all the second of three."""
    image = picture()
    visual = clip_model.visual
    seen: list[torch.Tensor] = []
    handles = [b.register_forward_pre_hook(lambda m, i: seen.append(i[0])) for b in visual.transformer.resblocks]
    with torch.no_grad():
        clip_model.encode_image(image)
        for handle in handles:
            handle.remove()

        def projected(layer):
            block = visual.transformer.resblocks[layer]
            packed = F.linear(block.ln_1(seen[layer])[0], block.attn.in_proj_weight, block.attn.in_proj_bias)
            return packed.unflatten(1, (3, 4, 12)).permute(1, 2, 0, 3)  # q k v, H, L, d

        def own(layer):
            q, k, _ = projected(layer)
            return sum((x @ x.mT / 12**0.5).softmax(-1) for x in (q, k))

        weights = 0.5 * own(2) + 0.5 * own(1)
        torch.testing.assert_close(weights.sum(-1), torch.full(weights.shape[:2], 2.0))
        mixed = (weights @ projected(2)[2]).transpose(0, 1).flatten(1)
        tokens = seen[2][0] + visual.transformer.resblocks[2].attn.out_proj(mixed)
        dense = F.normalize(visual.ln_post(tokens[1:]) @ visual.proj, dim=-1)
        want = (dense @ clip_model.encode_text(LABELS, normalize=True).T).T.unflatten(1, (4, 4))
    options = {"views": ViewEnsemble((), ()), "rule": ClassRule(scale=1.0), "refine": lambda *given: given[1]}
    found = Segmenter(clip_model, "itaclip", size=32, **options)(image, LABELS)
    expected = F.interpolate(want[None], size=(32, 32), mode="bilinear")[0]
    torch.testing.assert_close(found.scores, expected, rtol=1e-4, atol=1e-4)
    assert presets.itaclip.BLOCK.map == Blend(SelfSelf("q+k"), AttentionMean(SelfSelf("q+k")), share=0.5)


def test_the_presets_run_and_carry_the_papers_constants(clip_model) -> None:
    image = picture(48, 40)
    parts = parts_of("itaclip")
    assert (parts.rule, parts.text.alpha) == (ClassRule(scale=40.0, over="words"), 0.2)
    layout = parts.resolution.layout((448, 600), patch=16, native=224)
    assert (layout.size, layout.window, layout.lefts[:3]) == ((448, 608), (224, 224), (0, 28, 56))
    assert parts_of("itaclip-background").resolution.layout((500, 500), patch=16, native=224).size == (336, 336)
    found = Segmenter(clip_model, "itaclip", resolution=Windows(stride=0.5), refine=PAMR(2, (1, 2)))(image, LABELS)
    assert found.labels.shape == (48, 40)
    torch.testing.assert_close(found.scores.exp().sum(0), torch.ones(48, 40), rtol=1e-4, atol=1e-4)
    wide = Segmenter(clip_model, "itaclip-background", background=["sky", "wall"], resolution=Windows(stride=0.5))
    assert set(wide(image, LABELS).labels.unique().tolist()) <= {0, 1, 2, 3}
    chosen = [(("views",), "flips"), (("views", "share"), 0.5), (("relabel",), "closing"), (("refine",), "drop-small")]
    changed = override(parts_of("value"), chosen)
    assert changed.views == ViewEnsemble(first=(), share=0.5)
    assert (changed.relabel, changed.refine) == ((Closing(),), (DropSmall(),))
    assert override(parts_of("itaclip"), [(("views",), "none")]).views is None


def test_definitions_are_mixed_into_the_vectors_of_their_class(clip_model) -> None:
    labels = {"cat": ["a cat", "a kitten"], "dog": ["a dog"]}
    own = {"cat": "a small animal that purrs", "dog": ["an animal that barks", "a pet"]}
    side = TextSide(templates=("{}", "a picture of {}"), background=("sky",), auxiliary=own, alpha=0.3)
    plain, mixed = (each.bind(clip_model, labels) for each in (side.with_(alpha=0.0), side))
    assert plain.classes == ("background", "cat", "dog")

    def row(text: str) -> torch.Tensor:
        with torch.no_grad():
            both = clip_model.encode_text([text, f"a picture of {text}"], normalize=True)
        return F.normalize(both.mean(0), dim=-1)

    torch.testing.assert_close(mixed.rows[0], plain.rows[0])
    for place, word, extra in ((1, "a cat", row(own["cat"])), (2, "a kitten", row(own["cat"]))):  # type: ignore[arg-type]
        torch.testing.assert_close(mixed.rows[place], 0.7 * row(word) + 0.3 * extra, rtol=1e-4, atol=1e-5)
    extra = (row("an animal that barks") + row("a pet")) / 2
    torch.testing.assert_close(mixed.rows[3], 0.7 * row("a dog") + 0.3 * extra, rtol=1e-4, atol=1e-5)
    assert torch.equal(side.with_(auxiliary=None).bind(clip_model, labels).rows, plain.rows)


UNSEEN = (torch.zeros(1, 3, 9, 9), Frame(None, torch.zeros(1, 3, 9, 9), torch.zeros(1, 3, 9, 9)))
"""A picture, or scores, and a frame that a part does not look at."""


@pytest.mark.parametrize("size", [1, 3, 5])
def test_closing_is_scipys_grey_closing(size: int) -> None:
    labels = torch.randint(-1, 5, (19, 23), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    found = Closing(size)(labels, *UNSEEN)
    want = ndimage.grey_erosion(ndimage.grey_dilation(labels.numpy(), size=size), size=size)
    np.testing.assert_array_equal(found.numpy(), want)
    assert found.dtype == labels.dtype
    gap = torch.ones(9, 9, dtype=torch.int32)
    gap[4, 2:7] = 0
    assert (Closing(3)(gap, *UNSEEN) == 1).all()


def test_small_classes_lose_their_pixels_to_the_next_best() -> None:
    logits = torch.zeros(4, 10, 10)
    logits[0, :5] = 3.0  # background: half of the picture
    logits[1, 5:, :] = 2.0
    logits[2, 5:, 0] = 4.0  # 5 of 50: not above a tenth
    logits[3, 5:, 4:6] = 5.0  # 10 of 50
    found = DropSmall(background=True)(UNSEEN[0], logits, UNSEEN[1]).argmax(0)
    assert found.unique().tolist() == [0, 1, 3]
    assert (found[5:, 0] == 1).all()
    kept = DropSmall(share=0.09, background=True)(UNSEEN[0], logits, UNSEEN[1])
    assert torch.equal(kept, logits)
    with_all = DropSmall(share=0.2, background=False)(UNSEEN[0], logits, UNSEEN[1]).argmax(0)
    assert with_all.unique().tolist() == [0, 1]
    # By itself it asks whether the segmenter has words for a background.
    for background in (True, False):
        frame = Frame(None, logits, logits, background=background)
        alone, want = (DropSmall(0.2, on)(logits, logits, frame) for on in (None, background))
        assert torch.equal(alone, want)


def test_without_words_for_a_background_a_small_first_label_is_dropped_too(clip_model) -> None:
    seen: list[bool] = []

    class Spy:
        def __call__(self, image, logits, frame):
            seen.append(frame.background)
            return logits

    for background in ((), ("a wall",)):
        Segmenter(clip_model, background=background, refine=Spy())(picture(32, 32), LABELS)
    assert seen == [False, True]


def test_many_views_and_recorded_streams_make_smaller_batches(clip_model, monkeypatch) -> None:
    tower, sizes = clip_model.image_tower, []

    embed = Tower.embed

    def counted(tower, pixels):
        sizes.append(len(pixels))
        return embed(tower, pixels)

    monkeypatch.setattr(Tower, "embed", counted)
    image, windows = picture(32, 96), Windows(stride=0.25)
    every = 4 * tower.depth * tower.width * 17  # the streams of a window of 17 tokens
    monkeypatch.setattr(segmenter_module, "RECORDED_BYTES", 20 * every)
    block = LastBlock(AttentionMean(vanilla))
    one = Segmenter(clip_model, resolution=windows, last_block=block)(image, LABELS)
    few = Segmenter(clip_model, resolution=windows, last_block=block, views=ViewEnsemble((), ("flip-horizontal",), 1.0))
    assert max(sizes) == 16
    sizes.clear()
    torch.testing.assert_close(few(image, LABELS).scores, one.scores, rtol=1e-4, atol=1e-4)
    assert max(sizes) == 10


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ViewEnsemble(first=("sepia",)), "first is a list of grey, blur"),
        (lambda: ViewEnsemble(second=("flip-vertical",) * 2), "each at most once"),
        (lambda: ViewEnsemble(second="flip-vertical"), "second is a list"),
        (lambda: ViewEnsemble(share=1.2), "share must be in"),
        (lambda: ViewEnsemble(sigma=0), "sigma 0 must be positive"),
        (lambda: ViewEnsemble(on="tokens"), "on must be one of normalised, pixels"),
        (lambda: Closing(2), "size must be odd"),
        (lambda: DropSmall(1.5), "share must be in"),
        (lambda: Windows(stride=100.0).layout((64, 64), patch=8, native=32), "stride 100.0: pixels are an integer"),
        (lambda: Windows(size=224.0).layout((64, 64), patch=8, native=32), "size 224.0: pixels are an integer"),
    ],
)
def test_what_cannot_be_is_said(make, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make()
