"""One instrumented forward of a tower: values, gradients and exact contributions at named sites.

Examples:
    >>> import binderclip, torch
    >>> model = binderclip.load("small")
    >>> text = model.encode_text("a cat")  # (1, E)
    >>> pixels = torch.rand(2, 3, 64, 64)
    >>> seen = trace(model.image_tower, pixels, record=Record("attn", "v", layers=[-1]))
    >>> seen.value(Site("attn", -1)).shape  # (B, H, L, L), L = 1 + 4 x 4
    torch.Size([2, 4, 17, 17])
    >>> score = lambda t: torch.cosine_similarity(t.embedding, text)  # (B,)
    >>> _, at_pixels = seen.grad(score, [Site("attn", -1), Site("input")])  # one backward
    >>> at_pixels.shape
    torch.Size([2, 3, 64, 64])
    >>> seen.contributions(by="head").values.shape  # (B, layers, H, E)
    torch.Size([2, 4, 4, 384])
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers.base import OnBlock, Stack, Tower
from binderclip.models.towers.contributions import By, Contributions, contributions
from binderclip.models.towers.record import BLOCK_SITES, FREE_SITES, Record, Recorder, Site, resolve_layer
from binderclip.models.towers.recorded import Capture, Recorded, _leaf, capture
from binderclip.models.towers.text import HasIds, Override, TextTower
from binderclip.models.towers.tokens import Tokens

__all__ = ["Capture", "Contributions", "Record", "Recorder", "Site", "Trace", "capture", "trace"]


class Trace(Recorded):
    """What `trace` returns.

    Always there: the sites "input" (pixels, or word vectors), "embedded" (images: before ln_pre), ("block_in", 0),
    "tokens" (after the last block), "pooled", "embedding". Callable targets of `grad` receive this trace and return
    (B,).

    Attributes:
        tower: the tower that ran.
        start: tokens entering block 0.
        tokens: tokens after the last block.
        pooled: (B, D) before the projection.
        embedding: (B, E) raw.
    """

    def __init__(
        self,
        tower: Stack,
        values: Mapping[Site, Tensor],
        start: Tokens,
        tokens: Tokens,
        settings: dict[str, Any],
    ) -> None:
        self.tower = tower
        self.start = start
        self.tokens = tokens
        self.pooled: Float[Tensor, "B D"] = tower.pool(tokens)
        self.embedding: Float[Tensor, "B E"] = tower.project(self.pooled)
        self._settings = settings
        free = {"tokens": tokens.x, "pooled": self.pooled, "embedding": self.embedding}
        super().__init__(dict(values) | {Site(name): value for name, value in free.items()})

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patch grid of these images."""
        if self.tokens.grid is None:
            raise UsageError("a text has no patch grid")
        return self.tokens.grid

    def site(self, place: Any) -> Hashable:
        """The recorded site of `Site(...)`, a (name, layer) pair, or a bare name where no block is needed."""
        name, layer = (place, None) if isinstance(place, str) else place
        if layer is not None:
            layer = resolve_layer(layer, self.tower.depth)
        key = Site(name, layer)
        if key in self.values:
            return key
        if name in BLOCK_SITES and layer is None:
            raise UsageError(f"site {name!r} is one of every block: Site({name!r}, block)")
        if name not in (*BLOCK_SITES, *FREE_SITES):
            raise UsageError(f"unknown site {name!r}; sites: {', '.join((*FREE_SITES, *BLOCK_SITES))}")
        raise UsageError(f"{name} of block {layer} was not recorded: trace(..., record=Record({name!r}, ...))")

    def _is_single(self, sites: Any) -> bool:
        return isinstance(sites, Site | str) or (isinstance(sites, tuple) and isinstance(sites[0], str))

    def dense(self) -> Float[Tensor, "B E h w"]:
        """Patch tokens in the shared space, raw (`tower.dense`)."""
        if not isinstance(self.tower, Tower):
            raise UsageError("a text has no dense map")
        return self.tower.dense(self.tokens)

    def contributions(
        self, by: By = "head", *, layers: Sequence[int] | None = None, onto: Float[Tensor, "Q E"] | None = None
    ) -> Contributions:
        """The embedding as an exact sum of direct contributions, with the norm statistics of this very forward.

        Costs one more forward; nothing has to be recorded for it.

        Args:
            by: "head", "token" (source token), "head_token", "layer" (attention as a whole) or "mlp".
            layers: blocks that are split (negative from the end); None = all.
            onto: keep only dot products with these directions, see `models.towers.contributions.contributions`.

        Raises:
            NotSupported: see `binderclip.models.towers.contributions.contributions`, or the run was rewired by
                `on_block`.
        """
        if self._settings["on_block"] is not None:
            raise NotSupported("contributions need the plain residual stream: trace without on_block")
        return contributions(
            self.tower, self.start, self.tokens, by=by, layers=layers, onto=onto,
            attn_bias=self._settings["attn_bias"], bias_blocks=self._settings["bias_blocks"],
        )  # fmt: skip


def trace(
    tower: Stack,
    x: Tensor | HasIds,
    *,
    record: Record | None = None,
    attn_bias: Float[Tensor, "B H Lq Lk"] | None = None,
    bias_blocks: Container[int] | None = None,
    on_block: OnBlock | None = None,
    override: Override | None = None,
) -> Trace:
    """Run a tower once and keep what `record` names.

    Gradients are available where grad mode is on, whether or not parameters require them: the input (pixels or word
    vectors) is made a leaf. Recording `attn` makes attention explicit in those blocks, nowhere else.

    Args:
        tower: an image or text tower.
        x: normalised pixels (B, 3, H, W); for a text tower ids (B, L) or what `tokenize` returns.
        record: the block sites to keep; None = only those that are always there.
        attn_bias, bias_blocks, on_block: as in `tower.run`.
        override: replaced word vectors of a text tower, see `TextTower.embed_tokens`.
    """
    recorder = Recorder(Record() if record is None else record, tower.depth)
    if isinstance(tower, TextTower):
        ids = x if isinstance(x, Tensor) else x.ids
        ids = ids.to(tower.device)
        place = tower.pool_position(tower.known(ids, override)) if isinstance(x, Tensor) else x.position
        source = _leaf(tower.embed_tokens(ids, override))
        start = tower.embed(ids, override=source, pool_at=place)
    elif isinstance(tower, Tower) and isinstance(x, Tensor):
        if override is not None:
            raise UsageError("override replaces words; an image tower has none")
        source = _leaf(x)
        start = tower.embed(source, record=recorder)
    else:
        raise UsageError(f"trace: {type(tower).__name__} cannot take {type(x).__name__}")
    recorder.put("input", None, source)
    if on_block is None:
        recorder.values[Site("block_in", 0)] = start.x
    final = tower.run(
        start, attn_bias=attn_bias, bias_blocks=bias_blocks, on_block=on_block, record=recorder
    )  # fmt: skip
    settings = {"attn_bias": attn_bias, "bias_blocks": bias_blocks, "on_block": on_block}
    return Trace(tower, recorder.values, start, final, settings)
