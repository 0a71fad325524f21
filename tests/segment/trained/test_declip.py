"""DeCLIP (p118, arXiv 2508.11256): its dense map is ClearCLIP's, grids of crops, losses by hand, what training does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.models import load, load_vision
from binderclip.models.towers import Record, Site
from binderclip.models.towers.trace import trace
from binderclip.segment import AttentionChain, DeCLIP, External, Segmenter, parts_of, train_declip
from binderclip.segment.parts.context import Frame, head, open_windows, records
from binderclip.segment.trained import declip


def colours(pixels: torch.Tensor) -> torch.Tensor:
    """A vision model that sees the mean colour of each 8 x 8 cell, and that of grey."""
    mean = F.avg_pool2d(pixels, 8)
    return torch.cat([mean, torch.ones_like(mean[:, :1])], 1) - 0.5


VISION = External(colours)


def pictures(count: int = 6, side: int = 32) -> torch.Tensor:
    """Rectangles of one colour on noise."""
    generator = torch.Generator().manual_seed(0)
    images = 0.3 * torch.rand(count, 3, side, side, generator=generator)
    for index in range(count):
        images[index, index % 3, :, : 8 * (1 + index % 3)] = 0.9
    return images


def opened(model: Any, pixels: torch.Tensor, *parts: Any) -> Any:
    return open_windows(Frame(model, pixels, pixels), pixels, [(0, 0)] * len(pixels), records(*parts))


def test_its_dense_map_is_clearclips(clip_model) -> None:
    pixels = pictures(2)
    block = parts_of("clearclip").last_block
    context = opened(clip_model, pixels, block)
    with torch.no_grad():
        torch.testing.assert_close(declip._LAST(context), block(context))


@pytest.mark.parametrize("seed", range(8))
def test_a_grid_covers_the_picture_and_no_cell_is_smaller_than_the_maps(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, owner = declip.grid_boxes((2, 3, 60, 90), generator, most_boxes=1000, grid=(6, 9))
    for picture in range(2):
        own = boxes[owner == picture]
        counts = torch.zeros(60, 90)
        for x0, y0, x1, y1 in own.tolist():
            counts[y0:y1, x0:x1] += 1
            assert min(y1 - y0, x1 - x0) >= 9
        assert bool((counts == 1).all())
        rows, columns = len(own[:, 1].unique()), len(own[:, 0].unique())
        assert rows <= 6
        assert min((rows + 1) // 2, 9) <= columns <= min(2 * rows, 9)
    few, whose = declip.grid_boxes((2, 3, 60, 90), torch.Generator().manual_seed(seed), most_boxes=3)
    assert max(whose.bincount()) <= 3
    again, _ = declip.grid_boxes((2, 3, 60, 90), torch.Generator().manual_seed(seed), most_boxes=3)
    torch.testing.assert_close(few, again)


def test_a_region_of_a_constant_map_is_the_constant_and_of_halves_each_half() -> None:
    maps = torch.full((1, 2, 4, 4), 3.0)
    maps[0, 1, :, 2:] = 7
    boxes, owner = torch.tensor([[0, 0, 32, 32], [16, 0, 32, 32]]), torch.tensor([0, 0])
    cells = declip._regions(maps, boxes, owner, torch.Size((1, 3, 32, 32)), 2)
    torch.testing.assert_close(cells[:, 0], torch.full((2, 2, 2), 3.0))
    torch.testing.assert_close(cells[1, 1, :, 1], torch.tensor([7.0, 7.0]))
    one = declip._regions(maps, boxes[:1], owner[:1], torch.Size((1, 3, 32, 32)), 1)
    torch.testing.assert_close(one[0, :, 0, 0], torch.tensor([3.0, 5.0]))


def test_the_earlier_papers_loss_by_hand(clip_model) -> None:
    pixels = pictures(2)
    objective = DeCLIP(version="conference", vision=VISION, most_rows=1)  # one crop a picture: all of it
    loss, parts = objective(clip_model, clip_model, pixels, torch.Generator().manual_seed(0))
    context = opened(clip_model, pixels, declip._LAST)
    with torch.no_grad():
        dense = head(context.tower, declip._LAST(context))
        whole = clip_model.encode_image(pixels)
        queries = context.qkv(-1)[0].transpose(1, 2).flatten(2)[:, 1:]  # heads side by side, without the class token
    content = 1 - F.cosine_similarity(dense.mean((2, 3)), whole).mean()
    torch.testing.assert_close(parts["content"], content)
    seen = colours(pixels).flatten(2).mT
    own, theirs = (F.normalize(each, dim=-1) @ F.normalize(each, dim=-1).mT for each in (queries, seen))
    distances = torch.linalg.vector_norm(own - theirs, dim=-1).mean()
    torch.testing.assert_close(parts["context"], distances)
    torch.testing.assert_close(loss, content + 0.1 * distances)


def test_the_extended_loss_completes_the_teacher_and_keeps_regions(clip_model) -> None:
    pixels = pictures(2)
    uniform = lambda context: torch.full((2, 16, 16), 1 / 16)  # noqa: E731
    plain = DeCLIP(vision=VISION, completion=None)
    flat = DeCLIP(vision=VISION, completion=uniform)
    (loss, parts), (_, even) = (
        each(clip_model, clip_model, pixels, torch.Generator().manual_seed(1)) for each in (plain, flat)
    )
    assert set(parts) == {"content", "regions", "context"}
    torch.testing.assert_close(loss, parts["content"] + parts["regions"] + 0.1 * parts["context"])
    context = opened(clip_model, pixels, External(of="q"))
    with torch.no_grad():
        own = declip.cosines(declip._QUERIES(context))
    # Through a uniform attention every row of the teacher is the mean row.
    unit = F.normalize(colours(pixels).flatten(2).mT, dim=-1)
    mean = (unit @ unit.mT).mean(1, keepdim=True).expand(-1, 16, -1)
    want = F.kl_div(own.log_softmax(-1), mean.softmax(-1), reduction="sum") / 32
    torch.testing.assert_close(even["context"], want)
    assert not torch.isclose(parts["context"], even["context"])


def test_the_chain_is_the_product_of_the_towers_attention() -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    model = load("small")
    chain = AttentionChain("small-dino")(opened(model, images))
    other = load_vision("small-dino")
    found = trace(other.image_tower, other.preprocess.normalize(images), record=Record("attn"))
    want = torch.eye(chain.shape[-1])
    for layer in range(other.image_tower.depth):
        # Patches come last, behind the class token and its like.
        weights = found.value(Site("attn", layer))[0].mean(0)[-len(want) :, -len(want) :]
        want = want @ (weights / weights.sum(-1, keepdim=True))
    torch.testing.assert_close(chain[0], want.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(chain.sum(-1), torch.ones(chain.shape[:2]))


def test_training_teaches_and_leaves_the_rest_alone(clip_model, tmp_path) -> None:
    images = pictures()
    before = {name: value.clone() for name, value in clip_model.state_dict().items()}
    objective = DeCLIP(vision=VISION, completion=None, most_rows=2, cells=2)
    options: dict[str, Any] = {"objective": objective, "steps": 30, "lr": 2e-3, "batch_size": 3, "seed": 1}
    tuned = train_declip(clip_model, images, alpha=1.0, **options)
    for name, value in clip_model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    with torch.no_grad():
        loss = [
            objective(each, clip_model, images, torch.Generator().manual_seed(9))[0] for each in (clip_model, tuned)
        ]
    assert loss[1] < 0.8 * loss[0]
    labels = ["a red thing", "a blue thing"]
    torch.testing.assert_close(tuned.encode_text(labels), clip_model.encode_text(labels), rtol=0, atol=0)
    assert torch.equal(tuned.logit_scale, clip_model.logit_scale)
    assert tuned.fingerprint != clip_model.fingerprint
    # Half of the way is half of the way.
    half = train_declip(clip_model, images, alpha=0.5, **options)
    for name, value in half.visual.named_parameters():
        torch.testing.assert_close(
            value, (tuned.visual.get_parameter(name) + clip_model.visual.get_parameter(name)) / 2
        )
    none = train_declip(clip_model, images, alpha=0.0, **options)
    torch.testing.assert_close(none.encode_image(images), clip_model.encode_image(images), rtol=0, atol=0)
    # What was saved segments as before.
    tuned.save(tmp_path / "tuned")
    one, two = (
        Segmenter(each, "clearclip")(images[0], labels).scores for each in (tuned, load(str(tmp_path / "tuned")))
    )
    torch.testing.assert_close(one, two)


def test_the_last_blocks_alone(clip_model) -> None:
    objective = DeCLIP(version="conference", vision=VISION)
    tuned = train_declip(clip_model, pictures(), objective=objective, steps=2, lr=1e-2, blocks=1, batch_size=3)
    changed = {
        name for name, value in tuned.named_parameters() if not torch.equal(value, clip_model.get_parameter(name))
    }
    assert changed
    assert all("resblocks.2." in name or "ln_post" in name for name in changed)
    assert all(value.requires_grad for value in tuned.parameters())


def test_what_cannot_be_trained_is_refused(clip_model) -> None:
    with pytest.raises(UsageError, match="version must be one of extended, conference"):
        DeCLIP(version="first")
    with pytest.raises(UsageError, match="at least 1"):
        DeCLIP(cells=0)
    for images in (torch.rand(0, 3, 32, 32), torch.rand(2, 3, 30, 32), torch.rand(3, 32, 32)):
        with pytest.raises(UsageError, match="multiples of 8"):
            train_declip(clip_model, images)
    with pytest.raises(UsageError, match="alpha"):
        train_declip(clip_model, pictures(), alpha=2)
    with pytest.raises(UsageError, match="0 to 3"):
        train_declip(clip_model, pictures(), blocks=4)
    wrong = DeCLIP(vision=VISION, completion=lambda context: torch.ones(1, 2, 2))
    with pytest.raises(UsageError, match="completion gives"):
        wrong(clip_model, clip_model, pictures(1), torch.Generator())


def test_weights_and_temperature_are_those_of_the_formula(clip_model) -> None:
    pixels = pictures(2)

    def judged(**settings: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        objective = DeCLIP(vision=VISION, completion=None, **settings)
        return objective(clip_model, clip_model, pixels, torch.Generator().manual_seed(1))

    loss, parts = judged(content_weight=0.3, context_weight=2.0, temperature=0.5)
    torch.testing.assert_close(loss, 0.3 * (parts["content"] + parts["regions"]) + 2 * parts["context"])
    context = opened(clip_model, pixels, External(of="q"), declip._LAST)
    with torch.no_grad():
        queries = declip.cosines(declip._QUERIES(context))
        dense = head(context.tower, declip._LAST(context)).flatten(2).mT
        dense = F.normalize(dense, dim=-1) @ F.normalize(dense, dim=-1).mT
    unit = F.normalize(colours(pixels).flatten(2).mT, dim=-1)
    teacher = ((unit @ unit.mT) / 0.5).softmax(-1)
    for own, found in ((queries, parts), (dense, judged(decoupled=False, temperature=0.5)[1])):
        want = F.kl_div((own / 0.5).log_softmax(-1), teacher, reduction="sum") / 32
        torch.testing.assert_close(found["context"], want)
