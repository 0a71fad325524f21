"""The trained head of CLIP-DINOiser (p105, arXiv 2312.12359): its loss by hand, learning, files and errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.models import load
from binderclip.segment import (
    DINOiserHead,
    External,
    GuidedPooling,
    Segmenter,
    Student,
    StudentSaliency,
    dinoiser_loss,
    train_dinoiser,
)
from binderclip.segment.parts.affinity import cosines
from binderclip.segment.parts.context import Frame, layer_at, open_windows

LABELS = ["a cat", "a dog", "green grass"]


def halves(pixels: torch.Tensor) -> torch.Tensor:
    """Bright cells against dark ones."""
    mean = F.avg_pool2d(pixels.mean(1, keepdim=True), 8)
    return torch.cat([mean > 0.5, mean <= 0.5], 1).float()


def bright(context) -> torch.Tensor:
    return halves(context.pixels)[:, 0]


def pictures(count: int = 12) -> torch.Tensor:
    """One half bright, one dark, in changing places, with noise."""
    generator = torch.Generator().manual_seed(0)
    images = 0.2 * torch.rand(count, 3, 32, 32, generator=generator)
    for index in range(count):
        width = 8 * (1 + index % 3)
        images[index, :, :, :width] += 0.75
    return images


def test_the_loss_by_hand() -> None:
    head = DINOiserHead(6, dim=4)
    generator = torch.Generator().manual_seed(1)
    tokens, alike = torch.randn(2, 6, 3, 3, generator=generator), torch.randn(2, 5, 3, 3, generator=generator)
    stands_out = torch.rand(2, 3, 3, generator=generator)
    loss, parts = dinoiser_loss(head, tokens, alike, stands_out, threshold=0.2)
    padded = F.pad(tokens, (1, 1, 1, 1), mode="replicate")
    drawn = F.conv2d(padded, head.alike.weight, head.alike.bias).flatten(2)
    first = []
    for b in range(2):
        for i in range(9):
            for j in range(9):
                logit = F.cosine_similarity(drawn[b, :, i], drawn[b, :, j], dim=0).clamp(min=0)
                cosine = F.cosine_similarity(alike[b].flatten(1)[:, i], alike[b].flatten(1)[:, j], dim=0)
                first.append(F.softplus(-logit) if cosine >= 0.2 else F.softplus(logit))
    torch.testing.assert_close(parts["alike"], torch.stack(first).mean())
    unit = tokens / tokens.norm(dim=1, keepdim=True)
    logits = (unit * head.object.weight[0, :, 0, 0].view(1, -1, 1, 1)).sum(1) + head.object.bias
    p = logits.sigmoid()
    second = -torch.where(stands_out > 0.5, p.log(), (1 - p).log()).mean()
    torch.testing.assert_close(parts["background"], second)
    torch.testing.assert_close(loss, parts["alike"] + second)
    # Logits end at 1: even a perfect head keeps log(1 + 1/e) on pairs that belong together.
    assert parts["alike"] > float((cosines(alike) >= 0.2).float().mean()) * 0.313


def test_a_head_learns_its_teacher(clip_model) -> None:
    images = pictures()
    options = {"teacher": External(halves), "saliency": bright, "steps": 80, "lr": 5e-3, "dim": 8, "batch_size": 6}
    head = train_dinoiser(clip_model, images, **options)
    test = pictures().flip(-1)
    with torch.no_grad():
        context = open_windows(Frame(clip_model, test, test), test, [(0, 0)] * 12, Student(head).record)
        student = Student(head)
        same = cosines(halves(test)) > 0.5
        found, salient = cosines(student(context)), student.saliency(context)
    assert found[same].mean() > found[~same].mean() + 0.3
    assert ((salient > 0.5) == (halves(test)[:, 0] > 0.5)).float().mean() > 0.9
    again = train_dinoiser(clip_model, images, **options)
    torch.testing.assert_close(head.alike.weight, again.alike.weight)


def test_a_student_stands_where_external_features_stand(clip_model, tmp_path) -> None:
    torch.manual_seed(0)
    head = DINOiserHead(48, dim=8)
    head.save(tmp_path / "head", card={"summary": "a test"})
    student = Student(str(tmp_path / "head"))
    fusion = GuidedPooling(student, saliency=StudentSaliency(student))
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(2))
    found = Segmenter(clip_model, "clip_dinoiser", fusion=fusion, background=["background"])(image, LABELS)
    inside = GuidedPooling(Student(head), saliency=StudentSaliency(Student(head)))
    want = Segmenter(clip_model, "clip_dinoiser", fusion=inside, background=["background"])(image, LABELS)
    torch.testing.assert_close(found.scores, want.scores)


@pytest.mark.parametrize(("where", "index"), [({}, 1), ({"layer": 0}, 0), ({"layer": -2}, 1)])
def test_a_head_reads_what_the_second_norm_of_its_block_gives(clip_model, where: dict, index: int) -> None:
    """The normalised input of the MLP, by the library's own module: ten twelfths of three blocks, the second."""
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    head = DINOiserHead(48, **where)
    blocks = clip_model.backbone.visual.transformer.resblocks
    assert layer_at(where.get("layer", 10 / 12), len(blocks)) == index
    seen: list[torch.Tensor] = []
    hook = blocks[index].ln_2.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            clip_model.backbone.visual(clip_model.preprocess.normalize(pixels))
    finally:
        hook.remove()
    with torch.no_grad():
        context = open_windows(Frame(clip_model, pixels, pixels), pixels, [(0, 0)] * 2, Student(head).record)
        found = head.tokens(context)
    # Cell (y, x) of the 4 x 4 grid is the token 4 y + x behind the class token.
    want = torch.stack([seen[0][:, 1 + 4 * y : 5 + 4 * y].mT for y in range(4)], 2)
    assert found.shape == (2, 48, 4, 4)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def test_the_bundled_head_fits_the_bundled_model_only(clip_model) -> None:
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(2))
    found = Segmenter(load("small"), "clip_dinoiser", background=["background"])(image, LABELS)
    assert found.labels.shape == (64, 64)
    with pytest.raises(UsageError, match=r"width 256, and this one has 48: train one"):
        Segmenter(clip_model, "clip_dinoiser")(image, LABELS)


def test_bad_heads_and_pictures_are_named(clip_model, tmp_path) -> None:
    with pytest.raises(UsageError, match="odd"):
        DINOiserHead(8, kernel=2)
    with pytest.raises(UsageError, match="multiples of 8"):
        train_dinoiser(clip_model, torch.rand(2, 3, 30, 32))
    image = torch.rand(3, 32, 32)
    with pytest.raises(UsageError, match="no head or folder"):
        Segmenter(clip_model, "clip_dinoiser", fusion=GuidedPooling(Student("nothing")))(image, LABELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError):
        DINOiserHead.open(tmp_path / "empty")


def test_a_head_cannot_read_the_last_block(clip_model) -> None:
    head = DINOiserHead(clip_model.image_tower.width, dim=8, layer=-1)
    fusion = GuidedPooling(Student(head), saliency=StudentSaliency(Student(head)))
    with pytest.raises(UsageError, match=r"is the last of .*: ln2 is to be had of the blocks before it"):
        Segmenter(clip_model, fusion=fusion)(torch.rand(3, 32, 32), ["a cat", "a dog"])


def test_both_heads_have_rates_of_their_own_that_fall_at_four_fifths(clip_model, monkeypatch) -> None:
    """The paper: 5e-5 and 1e-2, a tenth of them after 5000 of 6300 steps."""
    asked: dict = {}
    monkeypatch.setattr(
        "binderclip.fit.fit", lambda step, groups, batches, **options: asked.update(options, groups=groups)
    )
    head = train_dinoiser(clip_model, pictures(), teacher=External(halves), saliency=bright, dim=8, lr=3e-5)
    rates = {id(p): group["lr"] for group in asked["groups"] for p in group["params"]}
    assert {rates[id(p)] for p in head.alike.parameters()} == {3e-5}
    assert {rates[id(p)] for p in head.object.parameters()} == {1e-2}
    assert [asked["schedule"](step / 6300) for step in (0, 5000, 5100)] == [1.0, 1.0, 0.1]


@torch.no_grad()
def test_the_authors_head_gives_their_correlations_and_background(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"obj_proj.weight": (6, 12, 3, 3), "obj_proj.bias": (6,), "bkg_decoder.weight": (1, 12, 1, 1),
              "bkg_decoder.bias": (1,)}  # fmt: skip
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    torch.save({"epoch": 100, "model_state_dict": state}, tmp_path / "last.pt")
    head = DINOiserHead.from_released(tmp_path / "last.pt")
    assert head.settings == {"width": 12, "dim": 6, "kernel": 3, "layer": 10 / 12}
    assert layer_at(head.layer, 12) == 9  # the official feats_idx = -3
    x = torch.randn(2, 12, 5, 4, generator=generator)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    features = F.conv2d(padded, state["obj_proj.weight"], state["obj_proj.bias"]).flatten(2)
    features = features / features.norm(dim=1, keepdim=True)
    background = F.conv2d(x / x.norm(dim=1, keepdim=True), state["bkg_decoder.weight"], state["bkg_decoder.bias"])
    ours, saliency = head(x)
    torch.testing.assert_close(cosines(ours).flatten(1), (features.mT @ features).flatten(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(saliency, background[:, 0], rtol=1e-4, atol=1e-5)
    again = DINOiserHead.open(head.save(tmp_path / "folder"))
    assert torch.equal(again(x)[0], ours)
    for change, said in (({"obj_proj.weight": None}, "there is no convolution obj_proj"),
                         ({"bkg_decoder.bias": None}, r"1 missing \(object.bias\)")):  # fmt: skip
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, tmp_path / "w.pt")
        with pytest.raises(CheckpointError, match=said):
            DINOiserHead.from_released(tmp_path / "w.pt")
