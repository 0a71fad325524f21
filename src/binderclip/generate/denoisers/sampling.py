"""From noise to pictures, and back."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate.denoisers.context import GuidanceTerm, SamplingHook, StepContext
from binderclip.generate.denoisers.denoiser import Denoiser
from binderclip.numeric import check_number, check_whole

__all__ = ["invert", "sample"]


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    x: Float[Tensor, "B *shape"],
    condition: Hashable = None,
    *,
    terms: Sequence[GuidanceTerm] = (),
    hooks: Sequence[SamplingHook] = (),
    num_inference_steps: int = 50,
    eta: float = 0.0,
    resamples: int = 1,
    first_step: int = 0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B *shape"]:
    """Pictures out of noise, step by step: DDIM, or DDPM for `eta=1`.

    The predicted noise of a step is that of `condition` plus every term; one batched forward serves all conditions that
    the terms need.

    Args:
        denoiser: predicts the noise; its schedule says how much there is.
        x: standard normal noise, the state at the noisiest time.
        condition: what is sampled, a value that the denoiser knows.
        terms: guidance, added to the predicted noise.
        hooks: change the states, in their order.
        num_inference_steps: steps, evenly spread over the schedule's times.
        eta: noise that every step adds, in units of DDPM's.
        resamples: how often every step but the last is taken: noise is added again in between, by which hooks that
            replace a part of the picture and the rest come to agree (RePaint, arXiv 2201.09865, jumps of length 1).
        first_step: steps that are left out; `x` is then the state at the time of the first one that is taken, such as
            a picture with that much noise on (SDEdit, arXiv 2108.01073).
        generator: of all noise; default torch's.

    Raises:
        UsageError: an empty batch, a state that is not finite, or a setting out of range.

    Paper: Diffusion Models Beat GANs on Image Synthesis (arXiv 2105.05233), algorithms 1 and 2; Song et al., Denoising
    Diffusion Implicit Models (arXiv 2010.02502), eq. 12.
    """
    _check_state(x)
    check_number("eta", eta, least=0)
    check_whole("resamples", resamples, least=1)
    times = denoiser.schedule.timesteps(num_inference_steps).tolist()
    check_whole("first_step", first_step, least=0)
    if first_step >= len(times):
        raise UsageError(f"first_step = {first_step} leaves none of {len(times)} steps")
    steps = list(enumerate(zip(times, [*times[1:], None], strict=True)))[first_step:]
    repeated = [step for step in steps for _ in range(resamples if step[1][1] is not None else 1)]
    for number, (i, (t, target)) in enumerate(repeated):
        step = StepContext(
            denoiser, x, t=t, target=target, i=i, n=len(times), condition=condition, terms=terms
        )  # fmt: skip
        for hook in hooks:
            step.condition = hook.condition(step)
        for hook in hooks:
            state = hook.before(step)
            step = step if state is step.x else step.at(state)
        epsilon = step.guided().detach()
        spread: float | Tensor = eta
        for hook in hooks:
            x0 = step.schedule.from_epsilon(epsilon, step.x, t, "sample")
            changed = hook.on_x0(step, x0)
            epsilon = epsilon if changed is x0 else step.schedule.to_epsilon(changed, step.x, t, "sample")
            spread = hook.eta(step, spread)
        quiet = not isinstance(spread, Tensor) and spread == 0
        noise = None if quiet else torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        if noise is not None:
            for hook in hooks:
                noise = hook.noise(step, noise)
        x = step.schedule.step(epsilon, step.x.detach(), t, target, eta=spread, noise=noise)
        for hook in hooks:
            x = hook.after(step, x)
        if target is not None and repeated[number + 1][0] == i:
            x = denoiser.schedule.renoise(x, target, t, generator)
    return x


@torch.no_grad()
def invert(
    denoiser: Denoiser,
    x0: Float[Tensor, "B *shape"],
    condition: Hashable = None,
    *,
    terms: Sequence[GuidanceTerm] = (),
    num_inference_steps: int = 50,
    refinements: int = 0,
) -> list[Float[Tensor, "B *shape"]]:
    """The noise from which `sample` makes given pictures, by DDIM inversion.

    Without refinements the noise of a step is predicted at the less noisy state that is known, which leaves an error
    of the order of a step's length. Each refinement predicts it again at the state just found; this iteration
    ends where `sample`, with `eta=0` and the same terms, leads back exactly.

    Args:
        denoiser: predicts the noise.
        x0: clean pictures.
        condition: of the pictures.
        terms: guidance, as of `sample`.
        num_inference_steps: as of `sample`.
        refinements: further forwards a step.

    Returns:
        The states, `x0` first and the noisiest last, one more than there are steps.

    Raises:
        UsageError: an empty batch, a picture that is not finite, or a setting out of range.
    """
    _check_state(x0)
    check_whole("refinements", refinements, least=0)
    times = denoiser.schedule.timesteps(num_inference_steps).tolist()
    states = [x0]
    for i, (t, lower) in reversed(list(enumerate(zip(times, [*times[1:], None], strict=True)))):
        state = states[-1]
        for _ in range(refinements + 1):
            step = StepContext(
                denoiser, state, t=t, target=lower, i=i, n=len(times), condition=condition, terms=terms
            )  # fmt: skip
            state = denoiser.schedule.step(step.guided().detach(), states[-1], lower, t)
        states.append(state)
    return states


def _check_state(x: Tensor) -> None:
    if x.ndim < 2 or not len(x):
        raise UsageError(f"x must be a batch of at least one, shape (B, ...), not {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        raise UsageError("x has a value that is not finite")
