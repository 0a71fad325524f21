"""The recipe of the bundled denoiser: its table, its batches, its loss, exact resume, and the folder it writes."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.generate import LatentDenoiser, load_denoiser
from binderclip.train.bundled.data.drawings import CaptionedPicture, shape_pictures
from binderclip.train.bundled.generative import diffusion as recipe
from binderclip.train.bundled.generative.autoencoder import new_autoencoder
from binderclip.train.bundled.generative.diffusion import (
    LatentBatches,
    latent_table,
    new_diffusion,
    random_masks,
    train_diffusion,
    velocity_loss,
)

pytest.importorskip("diffusers")


@pytest.fixture
def denoiser() -> LatentDenoiser:
    return new_diffusion(new_autoencoder(width=8), channels=(16, 16))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    def drawings(split: str, seed: int) -> list[CaptionedPicture]:
        pictures = shape_pictures(6, seed)
        kinds = ("emojione", "silhouette", "maki")
        return [CaptionedPicture(p.pixels, p.caption, kinds[i % 3], p.alpha) for i, p in enumerate(pictures)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "drawing_pictures", drawings)
        model = new_diffusion(new_autoencoder(width=8), channels=(16, 16))
        path = tmp_path_factory.mktemp("table") / "table.safetensors"
        made = latent_table(path, model, shapes=8, masked=8, embedded=6)
        assert all(torch.equal(made[key], value) for key, value in latent_table(path, model).items())
    return made


@pytest.fixture
def nothing(denoiser: LatentDenoiser) -> Tensor:
    return denoiser.encode(torch.full((1, 3, 64, 64), 0.5))[0].detach()


def test_drawings_that_nothing_resembles_are_left_out(table: dict[str, Tensor]) -> None:
    # of 2 x 6 drawings a third is of maki, which is no emoji
    assert len(table["latents"]) == 8 + 8
    assert torch.bincount(table["kind"]).tolist() == [8, 4, 4]


def test_the_first_states_are_those_of_the_empty_text(table: dict[str, Tensor], denoiser: LatentDenoiser) -> None:
    torch.testing.assert_close(table["states"][0].float(), denoiser.text.states([""])[0], atol=2e-3, rtol=2e-3)
    assert int(table["text"].min()) == 1


def test_rows_of_a_batch_know_what_their_mask_leaves(table: dict[str, Tensor], nothing: Tensor) -> None:
    (batch,) = islice(LatentBatches(table, 10, nothing), 1)
    filled = round(recipe.FILLED_IN * 10)
    assert bool((batch["mask"][filled:] == 1).all())
    torch.testing.assert_close(batch["known"][filled:], nothing.expand(10 - filled, -1, -1, -1))
    assert bool((batch["mask"][:filled].mean((1, 2, 3)) < 1).any())
    # rows with image tokens have an embedding, the others none
    assert torch.equal(batch["embedding"].abs().sum(1) > 0, batch["scale"] > 0)


def test_kinds_are_drawn_by_their_weights(table: dict[str, Tensor], nothing: Tensor) -> None:
    batches = LatentBatches(table, 10, nothing)
    weight = torch.from_numpy(batches._free)
    totals = [float(weight[table["kind"] == kind].sum()) for kind in range(3)]
    assert totals == pytest.approx(list(recipe.KIND_WEIGHTS.values()))


def test_batches_go_on_from_a_number(table: dict[str, Tensor], nothing: Tensor) -> None:
    batches = LatentBatches(table, 6, nothing)
    third = list(islice(batches, 3))[2]
    batches.seek(2)
    again = next(iter(batches))
    assert all(torch.equal(again[key], value) for key, value in third.items())


def test_masks_leave_and_hide_something() -> None:
    alpha = torch.stack([torch.from_numpy(p.alpha.copy())[None].float() / 255 for p in shape_pictures(60, 2)])
    masks = random_masks(alpha, torch.Generator().manual_seed(0))
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    hidden = masks.mean((1, 2, 3))
    assert bool((hidden > 0).all())
    assert bool((hidden < 1).all())
    covers = ((masks >= (alpha > 0.5).float()).flatten(1).all(1)).float().mean()
    assert 0.35 < float(covers) < 0.8  # grown silhouettes hide all of the drawing, boxes and halves seldom


def test_the_loss_of_a_perfect_network_is_zero_and_weighted_by_min_snr(
    table: dict[str, Tensor], denoiser: LatentDenoiser, nothing: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = next(iter(LatentBatches(table, 4, nothing)))
    batch["times"] = torch.tensor([0, 300, 600, 999])
    kept = denoiser.schedule.alphas_cumprod[batch["times"]]
    a, s = (value.float()[:, None, None, None] for value in (kept.sqrt(), (1 - kept).sqrt()))
    velocity = a * batch["noise"] - s * batch["latents"]

    def answer(error: float) -> Any:
        def forward(state: Tensor, *_: Any, **__: Any) -> Any:
            torch.testing.assert_close(state[:, :4], a * batch["latents"] + s * batch["noise"])
            return type("Output", (), {"sample": velocity + error})

        return forward

    monkeypatch.setattr(denoiser.unet, "forward", answer(0.0))
    assert float(velocity_loss(denoiser, batch)) == pytest.approx(0, abs=1e-10)
    monkeypatch.setattr(denoiser.unet, "forward", answer(0.5))
    snr = kept / (1 - kept)
    expected = sum(0.25 * min(float(one), 5.0) / (float(one) + 1) for one in snr) / 4
    assert float(velocity_loss(denoiser, batch)) == pytest.approx(expected, rel=1e-4)


def test_a_run_that_was_interrupted_goes_on_exactly(
    table: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "CHECKPOINT_EVERY", 2)

    class Interrupt:
        def before_step(self, step: int) -> None:
            if step == 4:
                raise KeyboardInterrupt

    def run(folder: str, callbacks: tuple[Any, ...] = ()) -> LatentDenoiser:
        start = new_diffusion(new_autoencoder(width=8), channels=(16, 16))
        return train_diffusion(tmp_path / folder, start, table, steps=5, batch=4, callbacks=callbacks)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("parts", (Interrupt(),))
    parts = run("parts")
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_the_written_folder_is_opened_and_has_a_card(
    denoiser: LatentDenoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "diffusion_figures", lambda _: {"shape drawn": 0.5})
    folder = recipe.write_diffusion(tmp_path / "tiny", denoiser.eval(), steps=5, seconds=1.2)
    card = json.loads((folder / "card.json").read_text())
    assert card["figures"]["shape drawn"] == 0.5
    assert 0 < card["figures"]["psnr"] < 30
    read = load_denoiser(folder)
    assert read.prediction == "v_prediction"
    assert read.inpaints
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([500])
    close = torch.nn.functional.cosine_similarity(
        read(x, times, ["a cat"]).flatten(), denoiser(x, times, ["a cat"]).flatten(), dim=0
    )
    assert float(close.detach()) > 0.99  # eight bits
