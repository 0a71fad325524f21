"""Pictures with noise of a known level, denoised in one step, for certificates by randomised smoothing."""

from __future__ import annotations

from collections.abc import Hashable

from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.denoisers.denoiser import Denoiser
from binderclip.generate.denoisers.schedule import NoiseSchedule
from binderclip.numeric import check_number

__all__ = ["OneStepDenoising", "matching_time"]


def matching_time(schedule: NoiseSchedule, sigma: float) -> int:
    """The smallest time t >= 1 whose noise is at least that of pictures in [0, 1]: s_t / a_t >= 2 sigma.

    A diffusion model works on [-1, 1], twice as wide as [0, 1]; so is the noise there.

    Args:
        schedule: of the diffusion model.
        sigma: standard deviation of the noise, in units of pixels in [0, 1].

    Raises:
        UsageError: more noise than the schedule's last time has, or a sigma that is not above 0.

    Paper: Adversarial Robustification via Text-to-Image Diffusion Models (arXiv 2407.18658), section 3.1; Carlini et
    al. (arXiv 2206.10550).
    """
    check_number("sigma", sigma, above=0)
    ratio = (1 / schedule.alphas_cumprod - 1).sqrt()  # s_t / a_t, rising with t
    enough = (ratio[1:] >= 2 * sigma).nonzero()
    if not len(enough):
        raise UsageError(f"sigma = {sigma:g} is more noise than the schedule's {len(schedule)} times have")
    return int(enough[0]) + 1


class OneStepDenoising(nn.Module):
    """Noisy pictures in [0, 1] to what the diffusion model expects behind them, by one forward.

    `RandomizedSmoothing(predictor, sigma, denoise=OneStepDenoising(denoiser, sigma))` certifies any classifier that has
    never seen noise. The picture u = a_t (2 x - 1) has the noise of time t; x_0 = (u - s_t eps(u)) / a_t goes back.

    Args:
        denoiser: a diffusion model of pictures in [-1, 1].
        sigma: standard deviation of the noise that the pictures carry, in units of pixels in [0, 1].
        condition: what the pictures are said to show; default nothing.
        clip: whether x_0 is cut to [-1, 1], as schedulers of pixel models do.

    Raises:
        UsageError: more noise than the model's schedule has.

    Paper: Adversarial Robustification via Text-to-Image Diffusion Models (arXiv 2407.18658), eq. 5.

    Examples:
        >>> import torch
        >>> from binderclip.generate import MixtureDenoiser
        >>> pictures = torch.stack([torch.full((3, 4, 4), -1.0), torch.full((3, 4, 4), 1.0)])
        >>> denoise = OneStepDenoising(MixtureDenoiser(pictures), 0.25)
        >>> denoise(torch.full((1, 3, 4, 4), 0.7)).unique()
        tensor([1.])
    """

    def __init__(self, denoiser: Denoiser, sigma: float, *, condition: Hashable = None, clip: bool = True) -> None:
        super().__init__()
        self.denoiser, self.condition, self.clip = denoiser, condition, clip
        self.time = matching_time(denoiser.schedule, sigma)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return one_step(self.denoiser, 2 * images - 1, self.time, self.condition, clip=self.clip)


def one_step(
    denoiser: Denoiser, pictures: Float[Tensor, "B C H W"], t: int, condition: Hashable, *, clip: bool = True
) -> Float[Tensor, "B C H W"]:
    """Denoised pictures in [0, 1] of pictures in [-1, 1] with noise of s_t / a_t on them."""
    signal, _ = denoiser.schedule.coefficients(t, pictures)
    state = signal * pictures
    (epsilon,) = denoiser.predict(state, t, [condition])
    x0 = denoiser.schedule.from_epsilon(epsilon, state, t, "sample")
    return ((x0.clamp(-1, 1) if clip else x0) + 1) / 2
