"""p135: DeeFuser against its formula written out, and its limiting cases."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.models import DeeFuser

SHALLOW, DEEP = (torch.randn(2, n, 8, generator=torch.Generator().manual_seed(n)) for n in (12, 4))


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v


@pytest.fixture
def fuser() -> DeeFuser:
    torch.manual_seed(0)
    made = DeeFuser(8)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


def test_it_is_the_formula(fuser: DeeFuser) -> None:
    x, q = fuser.norm_shallow(SHALLOW), fuser.norm_deep(DEEP)
    crossed = fuser.mlp[2](functional.gelu(fuser.mlp[0](attention(q, x, x))))
    normal = fuser.norm_fused(crossed)
    wanted = q + fuser.gain * (crossed + fuser.gain_self * attention(normal, normal, normal))
    assert torch.allclose(fuser(SHALLOW, DEEP), wanted, atol=1e-5)


def test_without_gains_the_normalised_deep_tokens_are_left(fuser: DeeFuser) -> None:
    with torch.no_grad():
        fuser.gain.zero_()
    assert torch.equal(fuser(SHALLOW, DEEP), fuser.norm_deep(DEEP))


def test_one_key_is_what_every_query_gets(fuser: DeeFuser) -> None:
    with torch.no_grad():
        fuser.gain_self.zero_()
    added = fuser(SHALLOW[:, :1], DEEP) - fuser.norm_deep(DEEP)
    value = fuser.gain * fuser.mlp(fuser.norm_shallow(SHALLOW[:, :1]))
    assert torch.allclose(added, value.expand_as(added), atol=1e-5)


def test_the_order_of_shallow_tokens_does_not_matter_and_the_hidden_width_is_four_times(fuser: DeeFuser) -> None:
    assert torch.allclose(fuser(SHALLOW.flip(1), DEEP), fuser(SHALLOW, DEEP), atol=1e-5)
    assert fuser.mlp[0].out_features == 32
    assert DeeFuser(8, mlp_hidden=4).mlp[0].out_features == 4
    with pytest.raises(UsageError, match="8 is asked for"):
        fuser(SHALLOW, torch.zeros(2, 4, 7))
