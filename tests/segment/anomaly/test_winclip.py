"""WinCLIP (p094, arXiv 2303.14814): windows against masked attention, harmonic means by hand, memory by brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, open_image_tower
from binderclip.segment.anomaly import (
    ANOMALOUS_STATES,
    NORMAL_STATES,
    TEMPLATES,
    Anomalies,
    NormalMemory,
    WinCLIP,
    WindowLevels,
    harmonic_mean,
    join_levels,
    spread_harmonic,
    state_prompts,
    state_vectors,
    token_windows,
    window_patches,
)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def detector(clip_model: ImageTextModel) -> WinCLIP:
    return WinCLIP(clip_model, "textile")


def siglip() -> Any:
    """A tower without class token that pools by attention."""
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**vision, "vocab_size": 50, "max_position_embeddings": 8}
    config = SiglipConfig(text_config=text, vision_config={**vision, "image_size": 24, "patch_size": 8})
    return open_image_tower(SiglipModel(config).eval())


def test_a_window_is_the_tower_that_attends_to_nothing_outside_it(clip_model: ImageTextModel) -> None:
    tower = clip_model.image_tower
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = tower.embed(pixels)
    found = token_windows(tower, tokens, 2)
    assert found.shape == (2, 9, clip_model.embed_dim)
    for window, inside in enumerate(window_patches((4, 4), 2)):
        bias = torch.full((1, 1, 17, 17), -math.inf)
        bias[..., 0] = 0
        bias[..., 1 + inside] = 0
        masked = tower.project(tower.pool(tower.run(tokens, attn_bias=bias)))
        assert torch.allclose(found[:, window], masked, atol=1e-5)


@pytest.mark.parametrize("kind", ["open_clip", "small", "siglip"])
def test_one_window_over_the_whole_grid_is_the_picture(clip_model: ImageTextModel, kind: str) -> None:
    from binderclip.models import load

    tower = {"open_clip": lambda: clip_model.image_tower, "small": lambda: load("small").image_tower, "siglip": siglip}[
        kind
    ]()
    height, width = tower.grid
    pixels = torch.randn(2, 3, *tower.image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = tower(pixels)
        windows = token_windows(tower, tower.embed(pixels), height)
        assert torch.allclose(windows[:, 0], whole, atol=1e-4)
        one = token_windows(tower, tower.embed(pixels), 1)
    assert one.shape[1] == height * width
    assert not torch.allclose(one[:, 0], one[:, -1], atol=1e-4)


def test_windows_go_through_in_parts(clip_model: ImageTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = clip_model.image_tower
    tokens = tower.embed(torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    whole = token_windows(tower, tokens, 2)
    monkeypatch.setattr("binderclip.segment.anomaly.windows.TOKENS_AT_ONCE", 40)
    assert torch.allclose(token_windows(tower, tokens, 2), whole, atol=1e-5)


def test_harmonic_means_by_hand_and_by_a_loop() -> None:
    # The centre of 3 x 3 patches lies in all four windows of 2 x 2: 4 / (1 + 4/3 + 2 + 4) = 0.48.
    found = spread_harmonic(torch.tensor([[1.0, 0.75, 0.5, 0.25]]), (3, 3), 2)
    expected = [[1, 6 / 7, 0.75], [2 / 3, 0.48, 0.375], [0.5, 1 / 3, 0.25]]
    assert torch.allclose(found[0], torch.tensor(expected))
    scores = torch.rand(2, 2 * 4, generator=torch.Generator().manual_seed(0)) + 0.01
    members = window_patches((4, 6), 3).tolist()
    found = spread_harmonic(scores, (4, 6), 3)
    for patch in range(24):
        own = [w for w, inside in enumerate(members) if patch in inside]
        mean = len(own) / (1 / scores[:, own]).sum(dim=1)
        assert torch.allclose(found[:, patch // 6, patch % 6], mean)
    assert torch.allclose(spread_harmonic(torch.full((1, 12), 0.3), (4, 5), 2), torch.full((1, 4, 5), 0.3))
    # One window that is sure of 0 vetoes all patches it covers, and makes no NaN.
    veto = spread_harmonic(torch.tensor([[0.0, 1.0, 1.0, 1.0]]), (3, 3), 2)
    assert veto[0].tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 1]]
    maps = [torch.tensor([[[0.2, 0.0]]]), torch.tensor([[[0.6, 0.5]]])]
    assert torch.allclose(harmonic_mean(maps), torch.tensor([[[0.3, 0.0]]]))


def test_words_are_all_states_in_all_templates(clip_model: ImageTextModel) -> None:
    assert (len(TEMPLATES), len(set(TEMPLATES))) == (21, 21)
    normal = state_prompts("screw", NORMAL_STATES)
    assert len(normal) == 7 * 21
    assert "a blurry photo of the screw without flaw." in normal
    assert "a photo of a damaged screw for anomaly detection." in state_prompts("screw", ANOMALOUS_STATES)
    assert state_prompts("screw", ["dirt"], ["{}!"]) == ["dirt!"]
    vectors = state_vectors(clip_model, "screw")
    means = [clip_model.encode_text(state_prompts("screw", s)).mean(dim=0) for s in (NORMAL_STATES, ANOMALOUS_STATES)]
    assert torch.allclose(vectors, F.normalize(torch.stack(means), dim=-1), atol=1e-5)


def test_zero_shot_map_is_the_formula(detector: WinCLIP, clip_model: ImageTextModel, pictures: torch.Tensor) -> None:
    found = detector(pictures)
    levels = detector.encode(pictures)

    def damage(rows: torch.Tensor) -> torch.Tensor:
        logits = torch.stack([F.cosine_similarity(rows, t[None], dim=-1) for t in detector.text], dim=-1) / 0.07
        return logits.exp()[..., 1] / logits.exp().sum(dim=-1)

    image = damage(clip_model.encode_image(pictures))
    assert torch.allclose(found.scores, image, atol=1e-5)
    two = spread_harmonic(torch.stack([damage(w) for w in levels.windows[2]]), (4, 4), 2)
    three = spread_harmonic(torch.stack([damage(w) for w in levels.windows[3]]), (4, 4), 3)
    assert torch.allclose(found.maps, 3 / (1 / image[:, None, None] + 1 / two + 1 / three), atol=1e-5)
    # A window as large as the grid says what the whole picture says.
    single = WinCLIP(clip_model, "textile", scales=(4,))(pictures)
    assert torch.allclose(single.maps, image[:, None, None].expand(-1, 4, 4), atol=1e-5)


def test_memory_is_the_nearest_neighbour() -> None:
    generator = torch.Generator().manual_seed(5)
    references, others = torch.randn(3, 4, 6, generator=generator), torch.randn(2, 4, 6, generator=generator)
    memory = NormalMemory(references)
    assert len(memory) == 3
    rows = references.reshape(-1, 6).numpy()
    for b, m in np.ndindex(2, 4):
        one = others[b, m].numpy()
        cosines = rows @ one / np.linalg.norm(rows, axis=1) / np.linalg.norm(one)
        assert float(memory.distances(others)[b, m]) == pytest.approx((1 - cosines.max()) / 2, abs=1e-6)
    assert float(memory.distances(3 * references).max()) < 1e-6
    left_out = memory.distances(references, without=torch.tensor([0, 1, 2]))
    for k in range(3):
        rest = NormalMemory(references[[i for i in range(3) if i != k]])
        assert torch.allclose(left_out[k], rest.distances(references[k : k + 1])[0], atol=1e-6)


def test_winclip_plus_is_the_mean_of_words_and_memory(detector: WinCLIP, pictures: torch.Tensor) -> None:
    levels = detector.encode(pictures, batch_size=2)
    zero = detector.score(levels)
    assert detector.shots == 0
    plus = detector.fit(pictures[:2]).score(levels)
    assert detector.shots == 2
    parts = [
        spread_harmonic(NormalMemory(levels.windows[k][:2]).distances(levels.windows[k]), (4, 4), k) for k in (2, 3)
    ]
    parts.append(NormalMemory(levels.patches[:2]).distances(levels.patches).view(-1, 4, 4))
    few = sum(parts) / 3
    assert torch.allclose(plus.maps, (zero.maps + few) / 2, atol=1e-5)
    assert torch.allclose(plus.scores, (zero.scores + few.amax(dim=(1, 2))) / 2, atol=1e-5)
    assert float(few[:2].max()) < 1e-6 < float(few[2:].min())
    held = detector.association_map(levels[:2], without=torch.arange(2))
    assert float(held.min()) > 1e-4
    assert torch.equal(detector.forget().score(levels).maps, zero.maps)
    patches = WinCLIP(detector.model, "textile", scales=()).fit(levels[:2])
    assert torch.allclose(patches.association_map(levels), parts[2], atol=1e-6)


def test_without_words_only_the_memory_counts(clip_model: ImageTextModel, pictures: torch.Tensor) -> None:
    silent = WinCLIP(clip_model, "textile", words=False)
    levels = silent.encode(pictures)
    with pytest.raises(UsageError, match="call fit"):
        silent.score(levels)
    found = silent.fit(pictures[:2]).score(levels)
    assert torch.equal(found.maps, silent.association_map(levels))
    assert torch.equal(found.scores, found.maps.amax(dim=(1, 2)))
    assert float(found.scores[:2].max()) < 1e-6


def test_pictures_of_any_size_are_squashed_whole(detector: WinCLIP) -> None:
    wide = torch.zeros(1, 3, 64, 128)
    wide[..., :16] = 1
    levels = detector.encode(wide)
    squashed = F.interpolate(wide, size=(32, 32), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.allclose(levels.image, detector.encode(squashed).image, atol=1e-4)
    larger = WinCLIP(detector.model, "textile", size=48)(wide)
    assert larger.maps.shape == (1, 6, 6)


def test_results_are_drawn_on_one_scale() -> None:
    maps = torch.zeros(2, 4, 4)
    maps[1, 0, 0] = 1
    found = Anomalies(torch.tensor([0.1, 0.9]), maps)
    calm, loud = (np.asarray(found.overlay(np.full((32, 40, 3), 128, np.uint8), i)) for i in range(2))
    assert calm.shape == (32, 40, 3)
    assert np.ptp(calm) == 0
    changed = np.abs(loud.astype(int) - calm).sum(axis=2) > 0
    assert changed[:8, :10].mean() > 0.9
    assert not changed[16:].any()
    assert found.maps_at((8, 8)).shape == (2, 8, 8)


def test_mistakes_are_named(clip_model: ImageTextModel, detector: WinCLIP, pictures: torch.Tensor) -> None:
    for options, said in [
        ({"scales": (2, 2)}, "different numbers of patches"),
        ({"scales": (0,)}, "at least 1"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"size": 30}, "multiple of the model's patch, 8"),
        ({"normal": ()}, "list of phrases"),
        ({"normal": ("{}",), "anomalous": ("{}",)}, "cannot tell them apart"),
        ({"templates": ("no place",)}, "exactly one {}"),
    ]:
        with pytest.raises(UsageError, match=said):
            WinCLIP(clip_model, "textile", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="what the object is"):
        WinCLIP(clip_model, " ")
    with pytest.raises(UsageError, match="give at least one"):
        detector([])
    levels = detector.encode(pictures[:1])
    with pytest.raises(UsageError, match="call fit"):
        detector.association_map(levels)
    with pytest.raises(UsageError, match="it is the only one"):
        detector.fit(levels).association_map(levels, without=torch.tensor([0]))
    with pytest.raises(UsageError, match="nothing to remember"):
        WinCLIP(clip_model, "textile", scales=(), patches=False).fit(pictures)
    with pytest.raises(UsageError, match="do not fit"):
        spread_harmonic(torch.zeros(1, 5), (3, 3), 2)
    with pytest.raises(UsageError, match="at least 0"):
        spread_harmonic(torch.full((1, 4), -1.0), (3, 3), 2)
    with pytest.raises(UsageError, match="references of width"):
        NormalMemory(torch.ones(1, 2, 3)).distances(torch.ones(1, 2, 4))
    with pytest.raises(UsageError, match="NaN"):
        NormalMemory(torch.full((1, 2, 3), math.nan))
    other = WindowLevels(levels.image, {2: levels.windows[2]}, levels.patches, levels.grid)
    with pytest.raises(UsageError, match="cannot be joined"):
        join_levels([levels, other])
    with pytest.raises(UsageError, match="there are 1"):
        Anomalies(torch.zeros(1), torch.zeros(1, 2, 2)).overlay(np.zeros((4, 4, 3), np.uint8), 1)


def test_a_red_defect_stays_red_on_the_overlay_and_is_outlined() -> None:
    picture = np.full((64, 64, 3), (90, 120, 90), np.uint8)
    picture[24:40, 24:40] = (200, 20, 20)
    maps = torch.zeros(1, 16, 16)
    maps[0, 6:10, 6:10] = 1
    found = Anomalies(torch.ones(1), maps)
    shown = np.asarray(found.overlay(picture, limits=(0.0, 1.0))).astype(int)
    inside, outside = shown[30:34, 30:34].reshape(-1, 3), shown[2:8, 2:8].reshape(-1, 3)
    # Redder than what is around it, and by more than the tint alone makes a grey picture.
    grey = np.full((64, 64, 3), 106, np.uint8)
    tinted = np.asarray(found.overlay(grey, limits=(0.0, 1.0))).astype(int)[30:34, 30:34].reshape(-1, 3)
    redness = [float((part[:, 0] - part[:, 1]).mean()) for part in (inside, tinted, outside)]
    assert redness[0] > redness[1] + 60
    assert abs(redness[2]) < 15
    # A white line around it, and none where nothing is.
    assert (shown == 255).all(axis=2)[18:46, 18:46].any()
    assert not (shown == 255).all(axis=2)[:14].any()
