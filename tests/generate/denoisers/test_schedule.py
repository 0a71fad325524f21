"""The noise schedule: steps as diffusers takes them, and conversions by their definitions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, DDPMScheduler

from binderclip.errors import MissingDependency, UsageError
from binderclip.generate import NoiseSchedule

PEERS: dict[str, tuple[NoiseSchedule, dict[str, Any]]] = {
    "linear": (NoiseSchedule.linear(), {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    "scaled linear": (
        NoiseSchedule.scaled_linear(set_alpha_to_one=False, steps_offset=1),
        {
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        },
    ),
    "cosine": (NoiseSchedule.cosine(), {"beta_schedule": "squaredcos_cap_v2"}),
}
COMMON = {"clip_sample": False, "timestep_spacing": "leading"}


def draws(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("name", PEERS)
def test_its_table_times_and_ddim_steps_are_those_of_diffusers(name: str) -> None:
    ours, settings = PEERS[name]
    peer = DDIMScheduler(**settings, **COMMON)
    torch.testing.assert_close(ours.alphas_cumprod.float(), peer.alphas_cumprod, rtol=2e-4, atol=1e-9)
    peer.set_timesteps(7)
    times = ours.timesteps(7)
    assert times.tolist() == peer.timesteps.tolist()
    x, epsilon, noise = draws()
    torch.testing.assert_close(
        ours.add_noise(x, noise, times[:2]), peer.add_noise(x, noise, times[:2]), rtol=1e-4, atol=1e-4
    )
    for t, target in zip(times.tolist(), [*times[1:].tolist(), None], strict=True):
        for eta in (0.0, 0.4, 1.0):
            theirs = peer.step(epsilon, t, x, eta=eta, variance_noise=noise).prev_sample
            step = ours.step(epsilon, x, t, target, eta=eta, noise=noise)
            torch.testing.assert_close(step, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_step_with_eta_1_is_the_ancestral_one(name: str) -> None:
    ours, settings = PEERS[name]
    peer = DDPMScheduler(**settings, **COMMON, variance_type="fixed_small")
    peer.set_timesteps(10)
    x, epsilon, _ = draws()
    times = ours.timesteps(10).tolist()
    assert times == peer.timesteps.tolist()
    for t, target in zip(times, [*times[1:], None], strict=True):
        theirs = peer.step(epsilon, t, x, generator=torch.Generator().manual_seed(5)).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
        step = ours.step(epsilon, x, t, target, eta=1.0, noise=noise)
        torch.testing.assert_close(step, theirs, rtol=1e-3, atol=2e-4)


def test_a_step_upwards_is_the_one_of_diffusers_inversion() -> None:
    ours, settings = PEERS["linear"]
    peer = DDIMInverseScheduler(**settings, **COMMON)
    peer.set_timesteps(5)
    x, epsilon, _ = draws()
    lower: int | None = None
    for t in peer.timesteps.tolist():
        theirs = peer.step(epsilon, t, x).prev_sample
        torch.testing.assert_close(ours.step(epsilon, x, lower, t), theirs, rtol=1e-4, atol=1e-5)
        lower = t


def test_a_tensor_of_etas_steps_every_pixel_by_its_own() -> None:
    schedule = NoiseSchedule.linear()
    x, epsilon, noise = draws()
    eta = torch.zeros(4, 4)
    eta[:2] = 0.7
    step = schedule.step(epsilon, x, 500, 400, eta=eta, noise=noise)
    # a scalar and a tensor of zeros may round differently, by the machine
    torch.testing.assert_close(step[..., 2:, :], schedule.step(epsilon, x, 500, 400)[..., 2:, :], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(step[..., :2, :], schedule.step(epsilon, x, 500, 400, eta=0.7, noise=noise)[..., :2, :])


def test_predictions_of_every_kind_speak_of_one_noise() -> None:
    schedule = NoiseSchedule.cosine()
    peer = DDPMScheduler(beta_schedule="squaredcos_cap_v2", **COMMON)
    x0, epsilon = (value.double() for value in draws(2))
    t = torch.tensor([3, 900])
    x = schedule.add_noise(x0, epsilon, t)
    s = (1 - schedule.alphas_cumprod[t]).sqrt()[:, None, None, None]
    velocity = schedule.from_epsilon(epsilon, x, t, "v_prediction")
    expected = {
        "epsilon": epsilon,
        "sample": x0,
        "v_prediction": velocity,
        "score": -(x - schedule.alphas_cumprod[t].sqrt()[:, None, None, None] * x0) / s**2,
    }
    torch.testing.assert_close(velocity, peer.get_velocity(x0, epsilon, t), rtol=1e-4, atol=1e-4)
    for kind, prediction in expected.items():
        torch.testing.assert_close(schedule.from_epsilon(epsilon, x, t, kind), prediction)
        torch.testing.assert_close(schedule.to_epsilon(prediction, x, t, kind), epsilon)
    exploding, sigma = schedule.to_variance_exploding(x, t)
    torch.testing.assert_close(exploding, x0 + sigma * epsilon)
    torch.testing.assert_close(schedule.from_variance_exploding(exploding, t), x)


def test_karras_levels_are_those_of_edm_and_its_step_is_eulers() -> None:
    schedule = NoiseSchedule.karras(18, 0.002, 80.0)
    steps = torch.arange(18).double()
    expected = (80 ** (1 / 7) + steps / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = schedule.timesteps(18)
    sigma = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()[times]
    torch.testing.assert_close(sigma, expected, rtol=1e-8, atol=0)
    x, denoised = (value.double() for value in draws(2))
    euler = x + (sigma[4] - sigma[3]) * (x - denoised) / sigma[3]
    t, target = int(times[3]), int(times[4])
    step = schedule.step((x - denoised) / sigma[3], schedule.from_variance_exploding(x, t), t, target)
    torch.testing.assert_close(step, schedule.from_variance_exploding(euler, target))


def test_a_scheduler_of_diffusers_is_taken_over_as_it_is_and_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, settings = PEERS["scaled linear"]
    peer = DDIMScheduler(**settings, **COMMON)
    peer.save_pretrained(tmp_path)
    for schedule in (NoiseSchedule.from_diffusers(peer), NoiseSchedule.from_diffusers(tmp_path)):
        torch.testing.assert_close(schedule.alphas_cumprod.float(), peer.alphas_cumprod, rtol=0, atol=0)
        assert schedule.timesteps(9).tolist() == ours.timesteps(9).tolist()
        assert schedule.final_alpha_cumprod == float(peer.final_alpha_cumprod)
    with pytest.raises(UsageError, match="leading"):
        NoiseSchedule.from_diffusers(DDIMScheduler(timestep_spacing="trailing"))
    with pytest.raises(UsageError, match=r"scheduler_config\.json"):
        NoiseSchedule.from_diffusers(tmp_path / "missing")
    with pytest.raises(UsageError, match="alphas_cumprod"):
        NoiseSchedule.from_diffusers(object())
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingDependency, match=r"binderclip\[generate\]"):
        NoiseSchedule.from_diffusers(tmp_path)


@pytest.mark.parametrize("table", [[], [0.9, 0.95], [1.0, 0.5], [0.5, 0.0], [0.9, float("nan")], [0.5, 0.5]], ids=str)
def test_tables_that_are_none_are_refused(table: list[float]) -> None:
    with pytest.raises(UsageError, match="alphas_cumprod"):
        NoiseSchedule(torch.tensor(table))


def test_settings_out_of_range_are_refused() -> None:
    schedule = NoiseSchedule.linear(10)
    x, epsilon, _ = draws()
    for steps in (0, 11, 2.5):
        with pytest.raises(UsageError, match="num_inference_steps"):
            schedule.timesteps(steps)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="steps_offset"):
        NoiseSchedule.linear(10, steps_offset=1).timesteps(10)
    with pytest.raises(UsageError, match="kind"):
        schedule.to_epsilon(x, x, 3, "noise")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs noise"):
        schedule.step(epsilon, x, 5, 4, eta=1.0)
    with pytest.raises(UsageError, match="beta_end"):
        NoiseSchedule.linear(beta_end=1.5)
    with pytest.raises(UsageError, match="sigma_max"):
        NoiseSchedule.karras(5, 1.0, 0.5)
