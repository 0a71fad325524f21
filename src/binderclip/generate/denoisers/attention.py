"""Attention of a diffusion network, in the open: probabilities that can be read, changed and differentiated."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import NotSupported

__all__ = ["AttentionControl", "AttentionSite", "AttentionStore", "ControlledAttention"]


@dataclass(frozen=True)
class AttentionSite:
    """Which attention of a network a control is called for.

    Args:
        kind: queries of the picture attend to the picture (`self`), to words (`text`) or to image tokens (`image`).
        layer: number of the attention block, in the order of the forward pass.
        size: (h, w) of the queries' grid.
        conditions: of the blocks of equal length that the rows come in.
    """

    kind: Literal["self", "text", "image"]
    layer: int
    size: tuple[int, int]
    conditions: tuple[Hashable, ...]

    def rows(self, condition: Hashable, count: int) -> slice:
        """The rows of a condition among `count` rows.

        Raises:
            ValueError: the denoiser is not asked about this condition.
        """
        length = count // len(self.conditions)
        first = self.conditions.index(condition) * length
        return slice(first, first + length)


@runtime_checkable
class AttentionControl(Protocol):
    """Sees the attention probabilities of every block and gives those to be used."""

    def __call__(
        self, probabilities: Float[Tensor, "R heads Q K"], site: AttentionSite
    ) -> Float[Tensor, "R heads Q K"]:
        """The probabilities to be used, which may be the given ones."""
        ...


class AttentionStore:
    """Keeps the attention probabilities of the last forward, averaged over heads.

    Args:
        kinds: of the attentions to keep.
        largest: grids of more than so many queries are left out, which saves memory in large networks.
    """

    def __init__(self, kinds: tuple[str, ...] = ("self", "text"), largest: int = 32 * 32) -> None:
        self.kinds, self.largest = kinds, largest
        self.maps: dict[tuple[str, int], Float[Tensor, "R Q K"]] = {}
        self.sites: dict[tuple[str, int], AttentionSite] = {}

    def __call__(
        self, probabilities: Float[Tensor, "R heads Q K"], site: AttentionSite
    ) -> Float[Tensor, "R heads Q K"]:
        if site.kind in self.kinds and probabilities.shape[2] <= self.largest:
            key = (site.kind, site.layer)
            self.maps[key], self.sites[key] = probabilities.mean(1), site
        return probabilities

    def average(self, kind: str, size: tuple[int, int], condition: Hashable) -> Float[Tensor, "B h w K"]:
        """The mean over the blocks of one grid size, of the rows of one condition.

        Raises:
            NotSupported: no attention of this kind and size was kept.
        """
        chosen = [key for key, site in self.sites.items() if site.kind == kind and site.size == size]
        if not chosen:
            kept = sorted({site.size for site in self.sites.values() if site.kind == kind})
            raise NotSupported(f"no {kind} attention of size {size} was kept; there are {kept}")
        maps = [self.maps[key][self.sites[key].rows(condition, len(self.maps[key]))] for key in chosen]
        return torch.stack(maps).mean(0).unflatten(1, size)


class ControlledAttention(nn.Module):
    """A diffusers attention processor with image tokens, values of their own, and probabilities open to a control.

    Without a control it uses the fused kernel. Names of weights are those of diffusers' IP-Adapter processors.

    Args:
        kind: `self` or `text`.
        layer: number of the block.
        image_width: width of image tokens; None for no image attention.
        width: of the block's queries.

    Papers: IP-Adapter (arXiv 2308.06721), decoupled cross-attention; Prompt-to-Prompt (arXiv 2208.01626), control.
    """

    def __init__(
        self, kind: Literal["self", "text"], layer: int, *, image_width: int | None = None, width: int = 0
    ) -> None:
        super().__init__()
        self.kind, self.layer = kind, layer
        if image_width is not None:
            self.to_k_ip = nn.ModuleList([nn.Linear(image_width, width, bias=False)])
            self.to_v_ip = nn.ModuleList([nn.Linear(image_width, width, bias=False)])

    @property
    def has_image(self) -> bool:
        """Whether it attends to image tokens."""
        return hasattr(self, "to_k_ip")

    def __call__(  # type: ignore[override]  # diffusers reads the signature of __call__ to know what it may pass
        self,
        attn: Any,
        hidden_states: Float[Tensor, "R Q C"],
        encoder_hidden_states: Float[Tensor, "R K D"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *,
        values: Float[Tensor, "R K D"] | None = None,
        image_tokens: Float[Tensor, "R N D"] | None = None,
        image_scale: Float[Tensor, "R 1 1"] | None = None,
        control: AttentionControl | None = None,
        conditions: tuple[Hashable, ...] = (None,),
        latent_size: tuple[int, int] = (1, 1),
    ) -> Float[Tensor, "R Q C"]:
        """The block's output, before the residual.

        Args:
            attn: diffusers' attention module.
            hidden_states: states of the picture's places.
            encoder_hidden_states: states of words, from which keys are made; None for self-attention.
            attention_mask: not supported.
            temb: not used, as in diffusers' processors for transformer blocks.
            values: states from which values are made; default those of the keys.
            image_tokens: default none.
            image_scale: factor of the image attention, one a row.
            control: sees and changes probabilities.
            conditions: of the blocks of rows.
            latent_size: (h, w) of the network's input, whose aspect ratio the queries have.

        Raises:
            NotSupported: a mask, or a kind of attention that transformer blocks of Stable Diffusion do not have.
        """
        if attention_mask is not None or attn.spatial_norm is not None or attn.group_norm is not None:
            raise NotSupported("attention with masks or norms of its own is not supported")
        query = self._split(attn.to_q(hidden_states), attn.heads)
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        key = self._split(attn.to_k(states), attn.heads)
        own = values is not None and self.kind == "text"  # diffusers hands the same arguments to self-attention
        value = self._split(attn.to_v(values if own else states), attn.heads)
        height, width = latent_size
        rows = round((query.shape[2] * height / width) ** 0.5)
        size = (rows, query.shape[2] // rows)
        site = AttentionSite(self.kind, self.layer, size, conditions)
        out = self._attend(query, key, value, attn.scale, control, site)
        if image_tokens is not None and self.has_image:
            key = self._split(self.to_k_ip[0](image_tokens), attn.heads)
            value = self._split(self.to_v_ip[0](image_tokens), attn.heads)
            image = self._attend(
                query, key, value, attn.scale, control, AttentionSite("image", self.layer, size, conditions)
            )
            out = out + (image if image_scale is None else image_scale * image)
        out = attn.to_out[1](attn.to_out[0](out))  # linear, dropout
        return out / attn.rescale_output_factor

    @staticmethod
    def _split(x: Float[Tensor, "R L C"], heads: int) -> Float[Tensor, "R heads L d"]:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    @staticmethod
    def _attend(
        query: Float[Tensor, "R heads Q d"],
        key: Float[Tensor, "R heads K d"],
        value: Float[Tensor, "R heads K d"],
        scale: float,
        control: AttentionControl | None,
        site: AttentionSite,
    ) -> Float[Tensor, "R Q C"]:
        if control is None and not torch.is_grad_enabled():  # on CPUs the fused kernel is slow backwards
            out = functional.scaled_dot_product_attention(query, key, value, scale=scale)
        else:
            probabilities = (scale * query @ key.transpose(-1, -2)).softmax(-1)
            out = (probabilities if control is None else control(probabilities, site)) @ value
        return out.transpose(1, 2).flatten(2)
