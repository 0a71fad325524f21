"""What the parts of a segmenter look at: the image as a whole, and one batch of its windows inside the tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.towers import Block, Record, Recorder, Site, Tower
from binderclip.models.towers.record import resolve_layer
from binderclip.models.towers.tokens import Tokens


@dataclass
class Frame:
    """One image while it is segmented.

    Attributes:
        model: the image-text model.
        image: (1, 3, H, W) in [0, 1], the picture at its own size.
        pixels: (1, 3, h, w), the picture as it is cut into windows.
        notes: free for parts that work together (region masks, affinities); kept for all segmenters of one call.
        context: the windows that ran last; all of them where there is one window.
        background: of the segmenter whose scores are refined: whether class 0 is the background.
    """

    model: Any
    image: Tensor
    pixels: Tensor
    notes: dict[Any, Any] = field(default_factory=dict)
    context: Context | None = None
    background: bool = False

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once an image and kept under `key`."""
        if key not in self.notes:
            self.notes[key] = make()
        return self.notes[key]


@dataclass
class Context:
    """One batch of windows inside the tower, up to the last block; the tower runs when a part first looks inside.

    Attributes:
        tower: the image tower.
        pixels: (B, 3, h, w) in [0, 1], as the model sees them before normalisation.
        frame: the image they are windows of.
        places: (top, left) of each window in `frame.pixels`.
        record: sites of earlier blocks to keep.
        notes: free for parts that work together on these windows.
    """

    tower: Tower
    pixels: Tensor
    frame: Frame
    places: tuple[tuple[int, int], ...]
    record: Record = field(default_factory=Record)
    notes: dict[Any, Any] = field(default_factory=dict)
    _seen: tuple[Tokens, Tokens, dict[Site, Tensor]] | None = field(default=None, init=False, repr=False)

    def run(self) -> tuple[Tokens, Tokens, dict[Site, Tensor]]:
        """Run the tower up to its last block, once: the stream entering block 0, that entering the last, the sites."""
        if self._seen is None:
            recorder = Recorder(self.record, self.tower.depth)
            pixels = self.frame.model.preprocess.normalize(self.pixels).to(self.tower.dtype)
            start = self.tower.embed(pixels)
            tokens = self.tower.run(start, stop=max(0, self.tower.depth - 1), record=recorder)
            self._seen = (start, tokens, recorder.values)
        return self._seen

    @property
    def start(self) -> Tokens:
        """The stream entering block 0."""
        return self.run()[0]

    @property
    def tokens(self) -> Tokens:
        """The residual stream entering the last block."""
        return self.run()[1]

    @property
    def sites(self) -> dict[Site, Tensor]:
        """What was recorded of the earlier blocks."""
        return self.run()[2]

    @property
    def block(self) -> Block:
        """The last block, which segmenters rewire."""
        return self.tower.blocks[-1]

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the patch grid of a window."""
        assert self.tokens.grid is not None
        return self.tokens.grid

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        return self.tokens.prefix

    @property
    def rope(self) -> Tensor | None:
        """How queries and keys of these windows are rotated (`tower.rope`); None without rotary positions."""
        if "rope" not in self.notes:
            self.notes["rope"] = self.tower.rope(self.tokens)
        return self.notes["rope"]

    def qkv(self, layer: int = -1) -> Projected:
        """Query, key, value (B, H, L, d) of a block; computed once for all segmenters of one call, when asked for."""
        layer = resolve_layer(layer, self.tower.depth)
        if ("qkv", layer) not in self.notes:
            if Site("q", layer) in self.sites:
                projected: Any = tuple(self.sites[Site(name, layer)] for name in ("q", "k", "v"))
            else:
                projected = Projected(self.tower.blocks[layer], self.stream(layer), self.rope)
            self.notes["qkv", layer] = projected
        return self.notes["qkv", layer]

    def stream(self, layer: int = -1) -> Float[Tensor, "B L D"]:
        """The residual stream entering a block: the last one always, another if `block_in` was recorded."""
        layer = resolve_layer(layer, self.tower.depth)
        return self.tokens.x if layer == self.tower.depth - 1 else self.site("block_in", layer)

    def site(self, name: str, layer: int) -> Tensor:
        """What was recorded; the part that asks must name it in its `record`.

        Raises:
            UsageError: the last block, which has not run.
        """
        layer = resolve_layer(layer, self.tower.depth)
        if layer == self.tower.depth - 1:
            raise UsageError(
                f"block {layer} is the last of {self.tower.depth}, which segmenters run in their own way: "
                f"{name} is to be had of the blocks before it"
            )
        return self.sites[Site(name, layer)]

    def again(self, key: Any, change: Callable[[Tensor], Tensor], *, moved: bool = False) -> Context:
        """The same windows, their pixels changed; run once for all segmenters of one call.

        Args:
            key: what tells this change from others.
            change: of the pixels.
            moved: whether things are then elsewhere, as in a flipped window: parts that look up where a window lies in
                the picture are refused.
        """
        if ("again", key) not in self.notes:
            context = open_windows(self.frame, change(self.pixels), self.places, self.record)
            context.places = _Nowhere() if moved else self.places
            self.notes["again", key] = context
        return self.notes["again", key]


class _Nowhere(tuple[Any, ...]):
    """The places of windows that were turned."""

    def __iter__(self) -> Any:
        raise UsageError("regions and features of the picture as a whole do not fit windows that a view has flipped")


class Projected(Sequence[Tensor]):
    """Query, key, value of a block, computed when asked for: many attention maps need the value alone.

    Args:
        block: whose.
        x: the residual stream (B, L, D) entering it, or any other tokens.
        rope: as in `Block.qkv`.
    """

    def __init__(self, block: Block, x: Float[Tensor, "B L D"], rope: Tensor | None = None) -> None:
        self.block, self.x, self.rope = block, x, rope
        self._value: Tensor | None = None
        self._all: tuple[Tensor, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        if self._all is None and index in (2, -1):
            if self._value is None:
                self._value = self.block.value(self.x)
            return self._value
        if self._all is None:
            self._all = self.block.qkv(self.x, self.rope)
        return self._all[index]


def dense_tower(model: Any) -> Tower:
    """The tower that sees the windows: of a model with a text side, a convolutional one too."""
    return model.dense_tower if hasattr(type(model), "dense_tower") else model.image_tower


def open_windows(
    frame: Frame, pixels: Float[Tensor, "B 3 h w"], places: Sequence[tuple[int, int]], record: Record
) -> Context:
    """Run windows through the tower up to its last block.

    Args:
        frame: the image they come from.
        pixels: in [0, 1].
        places: (top, left) of each.
        record: sites of earlier blocks to keep.
    """
    context = Context(dense_tower(frame.model), pixels, frame, tuple(places), record)
    context.run()
    return context


def layer_at(where: int | float, depth: int) -> int:
    """Index of a block from an index (negative from the end) or a share of the depth.

    A paper's seventh of twelve blocks is 7 / 12 in any tower: the round(share * depth)-th block, at least the first.

    Raises:
        UsageError: no such block, or a share outside (0, 1].
    """
    if isinstance(where, int):
        return resolve_layer(where, depth)
    if not 0 < where <= 1:
        raise UsageError(f"block {where}: a share of the depth is in (0, 1], an index is an integer")
    return max(1, round(where * depth)) - 1


def records(*parts: Any) -> Record:
    """The union of what parts want recorded (their attribute `record`, a `Record`, where they have one)."""
    total = Record()
    for part in parts:
        needed = getattr(part, "record", None)
        if isinstance(needed, Record):
            total = total | needed
    return total


def to_map(x: Float[Tensor, "B N D"], grid: tuple[int, int]) -> Float[Tensor, "B D h w"]:
    """Patch tokens, row by row, as a map."""
    return x.transpose(1, 2).unflatten(2, grid)


def head(tower: Tower, maps: Float[Tensor, "B D h w"]) -> Float[Tensor, "B E h w"]:
    """Final norm and projection of every cell: a map of tokens in the shared space, raw."""
    grid = (maps.shape[-2], maps.shape[-1])
    return to_map(tower.head(maps.flatten(2).transpose(1, 2)), grid)


def resample(maps: Float[Tensor, "B D h w"], grid: tuple[int, int]) -> Float[Tensor, "B D i j"]:
    """Bilinearly to another grid."""
    if tuple(maps.shape[-2:]) == tuple(grid):
        return maps
    return torch.nn.functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
