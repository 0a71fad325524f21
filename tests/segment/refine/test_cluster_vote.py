"""CLIPtrase (p029): regions from correlation, votes in them, the class-token product, against loops and limits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from binderclip.errors import NotSupported, UsageError
from binderclip.segment import (
    ClassTokenProduct,
    ClusterVote,
    Frame,
    LastBlock,
    Segmenter,
    SelfSelf,
    Windows,
    override,
    parts_of,
    presets,
)
from binderclip.segment.parts.context import open_windows
from binderclip.segment.parts.last_block import PatchWeights
from binderclip.segment.refine.cluster_vote import best_mean, cluster_maps, row_clusters

LABELS = ["a cat", "a dog", "green grass"]


def picture(height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def blocks(grid: tuple[int, int] = (8, 8)) -> torch.Tensor:
    """Correlation of patches of which the left half, and the right half, are one thing each."""
    side = (torch.arange(grid[1]) >= grid[1] // 2).expand(grid).flatten()
    return (side[:, None] == side[None]).float()


def neighbours(rows: np.ndarray, eps: float, least: int) -> np.ndarray:
    """Density clusters by their definition: connected cores, in the order of their first row, borders to the first."""
    near = np.linalg.norm(rows[:, None] - rows[None], axis=-1) <= eps
    core = near.sum(1) >= least
    out, count = np.full(len(rows), -1), 0
    for first in np.flatnonzero(core):
        if out[first] >= 0:
            continue
        waiting = [first]
        while waiting:
            here = waiting.pop()
            if out[here] < 0:
                out[here] = count
                waiting += list(np.flatnonzero(near[here] & (out < 0))) if core[here] else []
        count += 1
    return out


def test_rows_are_clustered_by_density() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.rand(4, 100, generator=generator)
    rows = centres[torch.arange(100) % 5 % 4] + 0.04 * torch.randn(100, 100, generator=generator)
    rows[::17] += torch.rand(6, 100, generator=generator)
    found = row_clusters(rows, eps=0.7, min_samples=4)
    np.testing.assert_array_equal(found, neighbours(rows.numpy(), 0.7, 4))
    assert set(found) == {-1, 0, 1, 2, 3}
    for side, least in ((14, 3), (21, 7)):  # the paper's cores
        near = torch.randn(side**2, side**2, generator=generator)
        np.testing.assert_array_equal(row_clusters(near, eps=30.0), row_clusters(near, eps=30.0, min_samples=least))


def test_distances_follow_the_spread_of_the_rows() -> None:
    """Half of the rows are cores, by counting, and a tower with cosines closer together has the same regions."""
    generator = torch.Generator().manual_seed(2)
    centres = torch.rand(5, 144, generator=generator)
    rows = centres[torch.arange(144) % 5] + 0.02 * torch.arange(144)[:, None] ** 0.5 * torch.randn(
        144, 144, generator=generator
    )
    found = row_clusters(rows)
    distances = np.linalg.norm(rows.numpy()[:, None] - rows.numpy()[None], axis=-1)
    third = np.sort(distances, axis=1)[:, 2]
    eps = np.median(third)
    np.testing.assert_array_equal(found, neighbours(rows.numpy(), eps, 3))
    assert ((distances <= eps).sum(1) >= 3).sum() == 72
    assert {-1, 0, 1} <= set(found)
    for scale in (0.1, 0.5, 4.0):
        np.testing.assert_array_equal(row_clusters(0.3 + scale * rows), found)
    assert set(row_clusters(torch.ones(9, 9))) == {0}


def test_blocks_of_correlation_are_the_regions_and_median_filtering_is_scipys() -> None:
    found = row_clusters(blocks())
    np.testing.assert_array_equal(found.reshape(8, 8), np.repeat([[0] * 4 + [1] * 4], 8, axis=0))
    maps = cluster_maps(blocks(), found, (8, 8))
    assert maps.shape == (2, 32, 32)
    want = torch.zeros(32, 32, dtype=torch.long)
    want[:, 16:] = 1
    assert torch.equal(maps.argmax(0), want)
    # A median by sorting the 7 x 7 values, borders mirrored.
    noisy = torch.rand(16, 16, generator=torch.Generator().manual_seed(3))
    one = cluster_maps(noisy, np.array([0, 0] + [-1] * 14), (4, 4))[0]
    fine = F.interpolate(noisy[:2].mean(0).view(1, 1, 4, 4), size=(16, 16), mode="bilinear")[0, 0]
    wide = torch.from_numpy(np.pad(fine.numpy(), 3, mode="symmetric")).unfold(0, 7, 1).unfold(1, 7, 1)
    torch.testing.assert_close(one, wide.flatten(2).sort(-1).values[..., 24])
    assert len(cluster_maps(noisy, np.full(16, -1), (4, 4))) == 0


def test_votes_are_those_of_loops_over_regions(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 3, (12, 20), generator=generator, dtype=torch.int32)
    ids = torch.randint(0, 4, (12, 20), generator=generator)
    logits = torch.randn(3, 6, 10, generator=generator)
    monkeypatch.setattr(ClusterVote, "regions", lambda self, frame, size: ids)
    frame = Frame(None, torch.zeros(1, 3, 12, 20), torch.zeros(1, 3, 12, 20))
    by_count, by_mean = (ClusterVote(vote=vote)(labels, logits, frame) for vote in ("majority", "mean"))
    drawn = F.interpolate(logits[None], size=(12, 20), mode="bilinear")[0]
    for region in range(4):
        inside = ids == region
        assert (by_count[inside] == labels[inside].mode().values).all()
        assert (by_mean[inside] == drawn[:, inside].mean(1).argmax()).all()
    assert by_count.dtype == by_mean.dtype == labels.dtype
    assert not torch.equal(by_count, by_mean)
    assert torch.equal(best_mean(logits, ids).int(), by_mean)
    monkeypatch.setattr(ClusterVote, "regions", lambda self, frame, size: None)
    assert ClusterVote()(labels, logits, frame) is labels


def test_correlation_is_that_of_the_block_before_the_last_less_the_class_tokens(clip_model) -> None:
    image = picture(32, 48)[None]
    frame = Frame(clip_model, image, image)
    found = ClusterVote().correlation(frame)
    seen: list[torch.Tensor] = []
    block = clip_model.visual.transformer.resblocks[-2]
    handle = block.ln_1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad():
        clip_model.image_tower.run(clip_model.image_tower.embed(clip_model.preprocess.normalize(image)))
        packed = F.linear(seen[0][0], block.attn.in_proj_weight, block.attn.in_proj_bias)
    handle.remove()
    heads = packed.unflatten(1, (3, block.attn.num_heads, -1))  # (L, q k v, H, d)
    unit = heads / heads.norm(dim=-1, keepdim=True)
    want = torch.einsum("ithd,jthd->ij", unit, unit) / (3 * block.attn.num_heads)
    torch.testing.assert_close(want.diagonal(), torch.ones(25))
    torch.testing.assert_close(found, (want[1:, 1:] - want[:1, 1:]).clamp(min=0), rtol=1e-4, atol=1e-5)
    raw = ClusterVote(denoise=False).correlation(frame)
    torch.testing.assert_close(raw, want[1:, 1:], rtol=1e-4, atol=1e-5)
    assert raw.shape == (24, 24)


def test_the_windows_do_not_matter_and_a_segmented_picture_needs_no_second_pass(clip_model, monkeypatch) -> None:
    from binderclip.segment.refine import cluster_vote

    passes = []
    monkeypatch.setattr(cluster_vote, "open_windows", lambda *a: passes.append(1) or open_windows(*a))
    seen = {}
    vote = ClusterVote(eps=1.3, min_samples=2)

    def spy(labels, logits, frame):
        seen[len(seen)] = vote.regions(frame, (64, 96))
        return labels

    spy.record = vote.record
    image = picture(64, 96)
    Segmenter(clip_model, "plain", size=64, relabel=spy)(image, LABELS)
    assert not passes
    Segmenter(clip_model, "plain", resolution=Windows(32, 16, size=64), relabel=spy)(image, LABELS)
    assert len(passes) == 1
    assert torch.equal(seen[0], seen[1])
    assert seen[0].shape == (64, 96)
    assert int(seen[0].max()) > 0


def test_the_preset_is_the_rewired_block_and_the_vote(clip_model) -> None:
    image = picture(36, 50)
    found = Segmenter(clip_model, "cliptrase", size=32)(image, LABELS)
    block = LastBlock(SelfSelf("q+k+v"), residual=True, mlp=True)
    parts = Segmenter(clip_model, "plain", size=32, last_block=block)(image, LABELS)
    torch.testing.assert_close(found.scores, parts.scores)
    voted = Segmenter(clip_model, "plain", size=32, last_block=block, relabel=ClusterVote())(image, LABELS)
    assert torch.equal(found.labels, voted.labels)
    assert presets.cliptrase.PRESETS["cliptrase"]["relabel"] == ClusterVote()
    names = [(("relabel", "0", "eps"), 0.4), (("relabel", "0", "vote"), "mean"), (("fusion",), "class-token")]
    changed = override(parts_of("cliptrase"), names)
    assert changed.relabel == (ClusterVote(eps=0.4, vote="mean"),)
    assert changed.fusion == ClassTokenProduct()
    assert override(parts_of("value"), [(("relabel",), "cluster-vote")]).relabel == (ClusterVote(),)


def test_the_class_token_multiplies_logits_word_by_word(clip_model) -> None:
    image = picture()
    plain = Segmenter(clip_model, "plain", size=32)(image, LABELS)
    found = Segmenter(clip_model, "plain", size=32, fusion=ClassTokenProduct())(image, LABELS)
    with torch.no_grad():
        # The ordinary last block: its class token is the library's own image embedding.
        whole = clip_model.encode_image(image[None], normalize=True) @ clip_model.encode_text(LABELS, normalize=True).T
    want = plain.scores * float(clip_model.scale().detach()) * whole[0, :, None, None]
    torch.testing.assert_close(found.scores, want, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_is_said(clip_model) -> None:
    for settings, said in (
        ({"vote": "most"}, "vote must be one of majority, mean"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"min_samples": -1}, "min_samples must be positive"),
        ({"of": "q+x"}, "of is "),
    ):
        with pytest.raises(UsageError, match=said):
            ClusterVote(**settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="reads the class token of a LastBlock"):
        Segmenter(clip_model, last_block=lambda context: None, fusion=ClassTokenProduct())(picture(), LABELS)

    def between_patches(block, qkv, context):
        return PatchWeights(torch.eye(16)[None, None], (4, 4))

    with pytest.raises(NotSupported, match="has none"):
        Segmenter(clip_model, size=32, last_block=LastBlock(between_patches), fusion=ClassTokenProduct())(
            picture(), LABELS
        )
    no_class_token = SimpleNamespace(prefix=0, grid=(4, 4), block=SimpleNamespace(mix=lambda w, v: v.flatten(2)))
    no_class_token.tokens, no_class_token.qkv = SimpleNamespace(x=None), lambda layer: [torch.zeros(1, 16, 2, 3)] * 3
    with pytest.raises(NotSupported, match="has none"):
        LastBlock(lambda *a: None).with_class_token(no_class_token)  # type: ignore[arg-type]


def test_a_picture_without_a_cluster_stays_as_it_was(clip_model) -> None:
    image = Image.fromarray((picture().permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    voted = Segmenter(clip_model, "plain", size=32, relabel=ClusterVote(eps=1e-6, min_samples=2))(image, LABELS)
    assert torch.equal(voted.labels, Segmenter(clip_model, "plain", size=32)(image, LABELS).labels)
