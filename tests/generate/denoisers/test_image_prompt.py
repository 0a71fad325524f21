"""IP-Adapter files: keys and shapes of the released form, equal predictions, and files of other forms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from binderclip.errors import CheckpointError, NotSupported
from binderclip.generate import LatentDenoiser, load_ip_adapter

TIMES = torch.tensor([300])
PARTS = ("image_proj", "ip_adapter")


def released(denoiser: LatentDenoiser) -> dict[str, torch.Tensor]:
    """A network's image attention as the authors' file names it: every second processor, from 1."""
    projection = denoiser.image_projection
    assert projection is not None
    state = {f"image_proj.proj.{key.split('.')[1]}": value for key, value in projection.state_dict().items()}
    state |= {"image_proj.norm.weight": torch.ones(24), "image_proj.norm.bias": torch.zeros(24)}
    for number, processor in enumerate(denoiser.unet.attn_processors.values()):
        for key, value in processor.state_dict().items():
            state[f"ip_adapter.{number}.{key.replace('.0.', '.')}"] = value
    return {key: value.contiguous() for key, value in state.items()}


def test_a_released_file_gives_its_image_attention(
    make_denoiser: Callable[..., LatentDenoiser], tmp_path: Path
) -> None:
    own = make_denoiser(9)
    state = released(own)
    assert {key.split(".")[1] for key in state if key.startswith("ip_adapter")} == {"1", "3", "5", "7"}
    save_file(state, tmp_path / "adapter.safetensors")
    adapted = load_ip_adapter(make_denoiser(9), tmp_path / "adapter.safetensors")
    tokens = adapted.image_tokens(torch.ones(1, 6))
    torch.testing.assert_close(tokens[0], torch.nn.functional.layer_norm(own.image_tokens(torch.ones(1, 6))[0], (24,)))
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    outputs = [n(x, TIMES, [replace(n.prompt("a dog"), image_tokens=tokens[0])]) for n in (own, adapted)]
    torch.testing.assert_close(outputs[1], outputs[0])
    assert not torch.allclose(outputs[0], own(x, TIMES, ["a dog"]), atol=1e-4)
    nested = {name: {k.split(".", 1)[1]: v for k, v in state.items() if k.startswith(name)} for name in PARTS}
    torch.save(nested, tmp_path / "adapter.bin")
    other = load_ip_adapter(make_denoiser(9), tmp_path / "adapter.bin")
    torch.testing.assert_close(other(x, TIMES, [replace(other.prompt("a dog"), image_tokens=tokens[0])]), outputs[0])


def test_other_files_are_refused(make_denoiser: Callable[..., LatentDenoiser], tmp_path: Path) -> None:
    state, path = released(make_denoiser(9)), tmp_path / "adapter.safetensors"
    save_file({key: value for key, value in state.items() if "norm" not in key}, path)
    with pytest.raises(CheckpointError, match="no plain IP-Adapter"):
        load_ip_adapter(make_denoiser(4), path)
    save_file({key: value for key, value in state.items() if "ip_adapter.1." not in key}, path)
    with pytest.raises(CheckpointError, match="does not fit the network's attention: 2 differ"):
        load_ip_adapter(make_denoiser(4), path)
    save_file(state | {"image_proj.norm.weight": torch.ones(12)}, path)
    with pytest.raises(CheckpointError, match="makes tokens of 12"):
        load_ip_adapter(make_denoiser(4), path)
    with pytest.raises(CheckpointError):
        load_ip_adapter(make_denoiser(4), tmp_path / "nothing.safetensors")
    with pytest.raises(NotSupported):
        make_denoiser(4).image_tokens(torch.ones(1, 6))
