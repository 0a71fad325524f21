"""How much noise a picture carries at every time of a diffusion, and what follows from it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError, require
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["NoiseSchedule", "PredictionKind"]

PredictionKind = Literal["epsilon", "sample", "v_prediction", "score"]
KINDS: tuple[PredictionKind, ...] = ("epsilon", "sample", "v_prediction", "score")


class NoiseSchedule:
    """The variance-preserving diffusion x_t = a_t x_0 + s_t eps with a_t = sqrt(abar_t), s_t = sqrt(1 - abar_t).

    Time 0 is the least noisy. The tables are kept in float64. Steps agree with diffusers' `DDIMScheduler` and, for
    `eta=1`, with its `DDPMScheduler` (`variance_type="fixed_small"`), both without clipping.

    Args:
        alphas_cumprod: abar_t, strictly falling, each in (0, 1).
        set_alpha_to_one: whether the last step of sampling ends at abar = 1, without noise; otherwise at `abar_0`.
        steps_offset: added to the times that `timesteps` gives.

    Raises:
        UsageError: a table that is empty, not finite, out of range or does not fall.

    Examples:
        >>> schedule = NoiseSchedule.scaled_linear()
        >>> schedule.timesteps(4).tolist()
        [750, 500, 250, 0]
    """

    def __init__(
        self, alphas_cumprod: Float[Tensor, " T"], *, set_alpha_to_one: bool = True, steps_offset: int = 0
    ) -> None:
        table = alphas_cumprod.detach().cpu().double()
        if table.ndim != 1 or not len(table):
            raise UsageError(f"alphas_cumprod must have shape (T,) with T at least 1, not {tuple(table.shape)}")
        inside = bool(((table > 0) & (table < 1)).all())  # NaN is not inside either
        if not inside or not bool((table.diff() < 0).all()):
            raise UsageError("alphas_cumprod must fall strictly with time, between 0 and 1, both excluded")
        check_whole("steps_offset", steps_offset, least=0)
        self.alphas_cumprod = table
        self.steps_offset = steps_offset
        self.final_alpha_cumprod = 1.0 if set_alpha_to_one else float(table[0])
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    @classmethod
    def from_betas(cls, betas: Float[Tensor, " T"], **settings: Any) -> NoiseSchedule:
        """The schedule with `abar_t = prod_{i <= t} (1 - beta_i)`.

        Args:
            betas: variances of the single steps, each in (0, 1).
            settings: as of the class.
        """
        return cls(torch.cumprod(1 - betas.double(), dim=0), **settings)

    @classmethod
    def linear(cls, T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, **settings: Any) -> NoiseSchedule:
        """Betas that rise linearly, as in DDPM and guided diffusion."""
        _check_betas(T, beta_start, beta_end)
        return cls.from_betas(torch.linspace(beta_start, beta_end, T, dtype=torch.float64), **settings)

    @classmethod
    def scaled_linear(
        cls, T: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, **settings: Any
    ) -> NoiseSchedule:
        """Betas whose roots rise linearly; the defaults are Stable Diffusion's."""
        _check_betas(T, beta_start, beta_end)
        return cls.from_betas(torch.linspace(beta_start**0.5, beta_end**0.5, T, dtype=torch.float64) ** 2, **settings)

    @classmethod
    def cosine(cls, T: int = 1000, **settings: Any) -> NoiseSchedule:
        """`abar = cos^2((t / T + 0.008) / 1.008 * pi / 2)`, betas at most 0.999 (diffusers' `squaredcos_cap_v2`)."""
        check_whole("T", T, least=1)
        abar = torch.cos((torch.linspace(0, 1, T + 1, dtype=torch.float64) + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls.from_betas((1 - abar[1:] / abar[:-1]).clamp(max=0.999), **settings)

    @classmethod
    def karras(cls, T: int = 18, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> NoiseSchedule:
        """Noise levels sigma = s / a that are evenly spaced in `sigma^(1 / rho)`, as in EDM; its Euler step is DDIM's.

        Args:
            T: how many levels; sampling with `num_inference_steps=T` visits all of them.
            sigma_min, sigma_max: the least and the largest level.
            rho: 7 in EDM; larger ones take shorter steps near `sigma_min`.
        """
        check_whole("T", T, least=2)
        check_number("sigma_min", sigma_min, above=0)
        check_number("sigma_max", sigma_max, above=sigma_min)
        check_number("rho", rho, above=0)
        ramp = torch.linspace(0, 1, T, dtype=torch.float64)
        sigmas = (sigma_min ** (1 / rho) + ramp * (sigma_max ** (1 / rho) - sigma_min ** (1 / rho))) ** rho
        return cls(1 / (1 + sigmas**2))

    @classmethod
    def from_diffusers(cls, scheduler: Any) -> NoiseSchedule:
        """The schedule of a diffusers scheduler with `timestep_spacing="leading"`.

        Args:
            scheduler: a scheduler with `alphas_cumprod`, or the folder that holds its `scheduler_config.json`. A folder
                needs diffusers (`pip install "binderclip[generate]"`).

        Raises:
            UsageError: a folder without such a file, another spacing, or no table of that name.
            MissingDependency: diffusers is not installed.
        """
        if isinstance(scheduler, (str, Path)):
            diffusers: Any = require("diffusers", "generate")
            if not (Path(scheduler) / "scheduler_config.json").is_file():
                raise UsageError(f"{scheduler} holds no scheduler_config.json")
            scheduler = diffusers.DDIMScheduler.from_pretrained(str(scheduler))
        if not hasattr(scheduler, "alphas_cumprod"):
            raise UsageError(f"{type(scheduler).__name__} has no alphas_cumprod: give a DDIM or DDPM scheduler")
        config = scheduler.config
        spacing = config.get("timestep_spacing", "leading")
        if spacing != "leading":
            raise UsageError(f"timestep_spacing must be 'leading', got {spacing!r}")
        return cls(
            scheduler.alphas_cumprod,
            set_alpha_to_one=config.get("set_alpha_to_one", True),
            steps_offset=config.get("steps_offset", 0),
        )

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def timesteps(self, num_inference_steps: int) -> Int[Tensor, " {num_inference_steps}"]:
        """The times of so many steps, the noisiest first: multiples of `T // num_inference_steps` plus the offset.

        Raises:
            UsageError: no step, more steps than times, or an offset that leads past the last time.
        """
        check_whole("num_inference_steps", num_inference_steps, least=1)
        if num_inference_steps > len(self):
            raise UsageError(f"num_inference_steps is {num_inference_steps}, and the schedule has {len(self)} times")
        times = torch.arange(num_inference_steps).flip(0) * (len(self) // num_inference_steps) + self.steps_offset
        if int(times[0]) >= len(self):
            raise UsageError(f"steps_offset = {self.steps_offset} leads past the {len(self)} times: take fewer steps")
        return times

    def coefficients(
        self, t: int | Int[Tensor, " R"] | None, like: Float[Tensor, "R *shape"]
    ) -> tuple[float, float] | tuple[Float[Tensor, "R ..."], Float[Tensor, "R ..."]]:
        """(a_t, s_t), as numbers for one time, or shaped to be multiplied with `like` for a time a row.

        Args:
            t: times; None for the end of sampling, abar = 1 or `abar_0`.
            like: what they shall fit: shape, precision and device.
        """
        if t is None or isinstance(t, int):
            abar = self.final_alpha_cumprod if t is None else float(self.alphas_cumprod[t])
            return abar**0.5, (1 - abar) ** 0.5
        key = (like.device, like.dtype)
        if key not in self._tables:
            abars = self.alphas_cumprod
            self._tables[key] = (abars.sqrt().to(like.dtype).to(like.device), (1 - abars).sqrt().to(like))
        shape = (-1, *[1] * (like.ndim - 1))
        signal, noise = (table[t].reshape(shape) for table in self._tables[key])
        return signal, noise

    def add_noise(
        self, x0: Float[Tensor, "R *shape"], noise: Float[Tensor, "R *shape"], t: int | Int[Tensor, " R"] | None
    ) -> Float[Tensor, "R *shape"]:
        """`x_t = a_t x0 + s_t noise`; None for the end of sampling."""
        a, s = self.coefficients(t, x0)
        return a * x0 + s * noise

    def renoise(
        self, x: Float[Tensor, "R *shape"], t: int, target: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "R *shape"]:
        """A state at time t made noisier, to time `target`: sqrt(r) x + sqrt(1 - r) noise, r = abar_target / abar_t.

        Raises:
            UsageError: a target that is not noisier.
        """
        ratio = float(self.alphas_cumprod[target] / self.alphas_cumprod[t])
        if ratio > 1:
            raise UsageError(f"time {target} is less noisy than time {t}")
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return ratio**0.5 * x + (1 - ratio) ** 0.5 * noise

    def to_epsilon(
        self,
        prediction: Float[Tensor, "R *shape"],
        x: Float[Tensor, "R *shape"],
        t: int | Int[Tensor, " R"],
        kind: PredictionKind,
    ) -> Float[Tensor, "R *shape"]:
        """The noise eps that a prediction of another kind speaks of.

        Args:
            prediction: by a denoiser at `x`.
            x: noisy pictures x_t.
            t: their times.
            kind: `epsilon`; `sample`, x_0; `v_prediction`, a eps - s x_0; `score`, -eps / s.

        Raises:
            UsageError: no such kind.
        """
        check_choice("kind", kind, KINDS)
        a, s = self.coefficients(t, x)
        if kind == "sample":
            return (x - a * prediction) / s
        if kind == "v_prediction":
            return a * prediction + s * x
        return prediction if kind == "epsilon" else -s * prediction

    def from_epsilon(
        self,
        epsilon: Float[Tensor, "R *shape"],
        x: Float[Tensor, "R *shape"],
        t: int | Int[Tensor, " R"],
        kind: PredictionKind,
    ) -> Float[Tensor, "R *shape"]:
        """The prediction of a kind that predicted noise speaks of; the inverse of `to_epsilon`, with its arguments."""
        check_choice("kind", kind, KINDS)
        a, s = self.coefficients(t, x)
        if kind == "sample":
            return (x - s * epsilon) / a
        if kind == "v_prediction":
            return (epsilon - s * x) / a  # a eps - s x_0 with x_0 = (x - s eps) / a and a^2 + s^2 = 1
        return epsilon if kind == "epsilon" else -epsilon / s

    def to_variance_exploding(
        self, x: Float[Tensor, "R *shape"], t: int | Int[Tensor, " R"]
    ) -> tuple[Float[Tensor, "R *shape"], float | Float[Tensor, "R ..."]]:
        """`x / a_t = x_0 + sigma eps`, and its noise level `sigma = s_t / a_t`; eps is the same in both coordinates."""
        a, s = self.coefficients(t, x)
        return x / a, s / a

    def from_variance_exploding(
        self, x: Float[Tensor, "R *shape"], t: int | Int[Tensor, " R"]
    ) -> Float[Tensor, "R *shape"]:
        """The inverse of `to_variance_exploding` at known times: `a_t x`."""
        return self.coefficients(t, x)[0] * x

    def deviation(self, t: int, target: int | None) -> float:
        """Standard deviation of the noise that a DDPM step from t to a less noisy time adds (None: the end)."""
        a, s = self._pair(t)
        a_target, s_target = self._pair(target)
        return s_target / s * max(1 - (a / a_target) ** 2, 0.0) ** 0.5

    def step(
        self,
        epsilon: Float[Tensor, "R *shape"],
        x: Float[Tensor, "R *shape"],
        t: int | None,
        target: int | None,
        *,
        eta: float | Float[Tensor, "..."] = 0.0,
        noise: Float[Tensor, "R *shape"] | None = None,
    ) -> Float[Tensor, "R *shape"]:
        """x at time `target` from x at time `t`, by DDIM (`eta=0`), DDPM (`eta=1`) or between.

        `a' x_0 + sqrt(s'^2 - d^2) eps + d n`, with d eta times `deviation`. Without noise it also leads upwards, which
        inverts sampling.

        Args:
            epsilon: predicted noise.
            x: noisy pictures at `t`.
            t, target: times; None is the end of sampling.
            eta: noise of the step, in units of DDPM's; a tensor that broadcasts with x for one a pixel.
            noise: standard normal n; needed where eta is not 0.

        Raises:
            UsageError: eta without noise.
        """
        (a, s), (a_target, s_target) = self._pair(t), self._pair(target)
        x0 = (x - s * epsilon) / a
        if not isinstance(eta, Tensor) and eta == 0:
            return a_target * x0 + s_target * epsilon
        if noise is None or t is None:
            raise UsageError("a step with eta other than 0 needs noise and a time to start from")
        added = eta * self.deviation(t, target)
        left = s_target**2 - added**2
        kept = left.clamp(min=0).sqrt() if isinstance(left, Tensor) else max(left, 0.0) ** 0.5
        return a_target * x0 + kept * epsilon + added * noise

    def _pair(self, t: int | None) -> tuple[float, float]:
        abar = self.final_alpha_cumprod if t is None else float(self.alphas_cumprod[t])
        return abar**0.5, (1 - abar) ** 0.5


def _check_betas(T: int, beta_start: float, beta_end: float) -> None:
    check_whole("T", T, least=1)
    check_number("beta_start", beta_start, above=0, below=1)
    check_number("beta_end", beta_end, above=0, below=1)
