"""Labels of experts: what is kept of them, how often the expert is asked, and normals of known surfaces (p093)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from binderclip.data import PseudoLabeler, decode_labels, encode_labels, surface_normals
from binderclip.errors import UsageError


def test_classes_are_kept_exactly_in_a_byte() -> None:
    labels = torch.randint(-1, 255, (3, 5, 7))
    labels[0, 0] = 255  # both ways of saying that nothing is known
    stored = encode_labels(labels, "classes")
    assert stored.dtype == torch.uint8
    assert torch.equal(decode_labels(stored, "classes"), torch.where(labels == 255, -1, labels))


def test_depth_is_kept_up_to_scale_and_shift_in_two_bytes() -> None:
    depth = torch.rand(3, 5, 7) * torch.tensor([1.0, 1e-3, 1e3])[:, None, None] - 5
    depth[1, 2, 3] = torch.nan
    stored = encode_labels(depth, "depth")
    assert stored.element_size() == 2
    found = decode_labels(stored, "depth")
    assert torch.equal(found.isnan(), depth.isnan())
    for one, other in zip(found, depth, strict=True):
        known = ~other.isnan()
        low, high = other[known].min(), other[known].max()
        torch.testing.assert_close(one[known], (other[known] - low) / (high - low), rtol=0, atol=1e-4)
    flat = decode_labels(encode_labels(torch.ones(1, 4, 4), "depth"), "depth")
    assert torch.equal(flat, torch.zeros(1, 4, 4))


def test_normals_are_kept_to_a_degree_in_three_bytes() -> None:
    normals = torch.randn(2, 3, 6, 6)
    normals[0, :, 1, 1] = 0
    normals[1, 0, 2, 2] = torch.nan
    stored = encode_labels(normals, "normals")
    assert stored.dtype == torch.uint8
    found = decode_labels(stored, "normals")
    assert torch.equal(found[0, :, 1, 1], torch.zeros(3))
    known = torch.ones(2, 6, 6, dtype=torch.bool)
    known[0, 1, 1] = known[1, 2, 2] = False
    cosine = F.cosine_similarity(found, normals, dim=1)[known]
    assert float(cosine.min()) > 0.9998  # cos 1.1 degrees
    torch.testing.assert_close(found.norm(dim=1)[known], torch.ones(int(known.sum())))


def test_an_expert_is_asked_once_for_each_picture_and_version(tmp_path: Path) -> None:
    asked: list[int] = []

    def bright(images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return (images.mean(1) > 0.5).long()

    def expert(version: str = "1") -> PseudoLabeler:
        return PseudoLabeler("bright", bright, kind="classes", version=version, classes=2, batch=2, root=tmp_path)

    images = torch.rand(5, 3, 8, 8)
    first = expert()(images)
    assert asked == [2, 2, 1]
    assert torch.equal(first, (images.mean(1) > 0.5).long())
    assert torch.equal(expert()(images.flip(0)), first.flip(0))  # by content, not by place
    assert asked == [2, 2, 1]
    expert()(torch.cat([images[:1], torch.rand(1, 3, 8, 8)]))
    assert asked == [2, 2, 1, 1]
    expert("2")(images[:2])
    assert asked == [2, 2, 1, 1, 2]
    expert()(images[:2, :, :4])  # pictures of another size are others
    assert sum(asked) == 10
    octets = (images * 255).byte()
    torch.testing.assert_close(expert()(octets), (octets.float().div(255).mean(1) > 0.5).long())


def test_normals_of_a_plane_and_of_a_ball() -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    plane = surface_normals((2 * x - y)[None])[0, :, 1:-1, 1:-1]
    expected = F.normalize(torch.tensor([-2.0, 1.0, 1.0]), dim=0)
    torch.testing.assert_close(plane, expected[:, None, None].expand_as(plane))
    y, x = torch.meshgrid(*(torch.arange(-20.0, 21.0),) * 2, indexing="ij")
    ball = (60.0**2 - x**2 - y**2).sqrt()
    found = surface_normals(ball[None])[0, :, 1:-1, 1:-1]
    truth = torch.stack([x, y, ball])[:, 1:-1, 1:-1] / 60
    torch.testing.assert_close(found, truth, rtol=0, atol=2e-3)
    steep = surface_normals(ball[None], 2.0)[0]
    assert float(steep[2].mean()) < float(found[2].mean())


def test_wrong_labels_and_settings_are_refused(tmp_path: Path) -> None:
    for labels, kind, message in (
        (torch.zeros(2, 3), "classes", r"\(N, H, W\), got \(2, 3\)"),
        (torch.zeros(2, 4, 4), "classes", "classes are integers"),
        (torch.full((1, 2, 2), 300), "classes", "0 to 254"),
        (torch.zeros(2, 4, 4), "normals", r"\(N, 3, H, W\)"),
        (torch.zeros(0, 4, 4), "depth", "got"),
        (torch.zeros(1, 4, 4), "edges", "not 'edges'"),
    ):
        with pytest.raises(UsageError, match=message):
            encode_labels(labels, kind)  # type: ignore[arg-type]
    for settings, message in (
        ({"kind": "edges", "version": "1"}, "not 'edges'"),
        ({"kind": "depth", "version": ""}, "name and a version"),
        ({"kind": "depth", "version": "1", "classes": 3}, "no others do"),
        ({"kind": "classes", "version": "1"}, "say how many"),
        ({"kind": "depth", "version": "1", "batch": 0}, "batch is at least 1"),
    ):
        with pytest.raises(UsageError, match=message):
            PseudoLabeler("x", lambda images: images[:, 0], **settings)  # type: ignore[arg-type]
    short = PseudoLabeler("short", lambda x: x[:1, 0], kind="depth", version="1", root=tmp_path)
    with pytest.raises(UsageError, match="gave 1 label maps for 2 pictures"):
        short(torch.rand(2, 3, 4, 4))
    beyond = PseudoLabeler(
        "beyond", lambda x: x[:, 0].long() + 7, kind="classes", version="1", classes=7, root=tmp_path
    )
    with pytest.raises(UsageError, match="has 7 classes and gave one beyond"):
        beyond(torch.rand(2, 3, 4, 4))
    with pytest.raises(UsageError, match="3 keys for 2 pictures"):
        short(torch.rand(2, 3, 4, 4), ["a", "b", "c"])
    with pytest.raises(UsageError, match="no picture"):
        short(torch.rand(0, 3, 4, 4))
    with pytest.raises(UsageError, match="at least 3 x 3"):
        surface_normals(torch.zeros(1, 2, 5))
