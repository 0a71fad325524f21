"""Image embeddings of many pictures as exact sums of what every head, token and MLP contributed; their heat maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.text.textbank import TextBank
from binderclip.models.towers.contributions import By, Contributions
from binderclip.models.towers.trace import trace
from binderclip.numeric import check_number
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel


@dataclass(frozen=True)
class Decomposition:
    """Terms of N image embeddings. Everything is on the CPU, in float32 or better.

    Attributes:
        by: what `values` is split by: "head", "token", "head_token", "layer" or "mlp".
        layers: the K blocks that `values` covers.
        values: (N, K, H, E) by head, (N, K, L, E) by source token (prefix first), (N, K, H, L, E), (N, K, E) by layer
            or MLP.
        mlps: (N, depth, E), the MLP of every block.
        rest: (N, E), every term that is not in `values`: stem, mlp (of all blocks), attention (blocks left out),
            attention_bias, norm_bias, projection_bias, and for attention pooling pool_bias and pool_mlp.
        length: (N,) of the embeddings in the scale of the terms: 1 after `unit()`.
        grid: (h, w) of the patches.
        prefix: tokens before the patches.
        depth: blocks of the tower.
        texts: of the last axis, where `onto` was given; E is then their number.
        index: positions of the N pictures in what was given.
        skipped: (position, reason) of those that could not be read.
    """

    by: By
    layers: tuple[int, ...]
    values: Float[Tensor, "N K *S E"]
    mlps: Float[Tensor, "N M E"]
    rest: dict[str, Float[Tensor, "N E"]]
    length: Float[Tensor, "N"]
    grid: tuple[int, int]
    prefix: int
    depth: int
    texts: tuple[str, ...] = ()
    index: tuple[int, ...] = ()
    skipped: tuple[tuple[int, str], ...] = ()
    _encode: Callable[[Any], Tensor] = field(default=torch.as_tensor, repr=False)

    def __len__(self) -> int:
        return len(self.values)

    def total(self) -> Float[Tensor, "N E"]:
        """The sum of all terms: what `encode_image` gives, in the scale of the terms."""
        return self.values.flatten(1, -2).sum(1) + sum(self.rest.values())

    def unit(self) -> Decomposition:
        """The terms divided by the length of their embedding, so that they sum to the unit embedding."""
        rest = {name: term / self.length[:, None] for name, term in self.rest.items()}
        values = self.values / self.length.view(-1, *[1] * (self.values.dim() - 1))
        mlps = self.mlps / self.length[:, None, None]
        return replace(self, values=values, mlps=mlps, rest=rest, length=torch.ones_like(self.length))

    def select(self, index: Sequence[int] | Int[Tensor, "M"]) -> Decomposition:
        """The pictures at `index`."""
        rows = torch.as_tensor(index)
        return replace(
            self,
            values=self.values[rows],
            mlps=self.mlps[rows],
            rest={name: term[rows] for name, term in self.rest.items()},
            length=self.length[rows],
            index=tuple(self.index[i] for i in rows.tolist()),
        )

    def place(self, layer: int) -> int:
        """Where block `layer` (negative from the end) stands in `values`.

        Raises:
            UsageError: it was left out.
        """
        index = layer + self.depth if layer < 0 else layer
        if index not in self.layers:
            raise UsageError(f"block {layer} is not among the blocks {list(self.layers)} of this decomposition")
        return self.layers.index(index)

    def heat(self, texts: Any = None, *, centre: bool = False) -> Float[Tensor, "N Q h w"]:
        """How much the attention to each patch adds to the cosine with each text, heads and blocks summed.

        Over the patches, the prefix tokens and the terms of `rest`, it sums to the cosine.

        Args:
            texts: several texts, one, rows (Q, E), or a `TextBank` (its prototypes); None with `onto`.
            centre: subtract the mean over the texts, so that a map is positive where its text fits best of them.

        Raises:
            UsageError: split by something else than tokens, texts beside `onto`, or centred on a single text.
        """
        values = self._tokens() if self.by == "token" else self._tokens().sum(2)
        maps = self._on_texts(values.sum(1), texts) / self.length[:, None, None]
        return self._folded(maps, centre)

    def head_heat(self, layer: int, head: int, texts: Any = None, *, centre: bool = False) -> Float[Tensor, "N Q h w"]:
        """`heat` of one head alone; needs by="head_token".

        Args:
            layer: block (negative from the end).
            head: from 0.
            texts, centre: as in `heat`.

        Raises:
            UsageError: another split, or no such block or head.
        """
        if self.by != "head_token":
            raise UsageError(f"head_heat needs by='head_token', this decomposition is by {self.by!r}")
        values = self._tokens()[:, self.place(layer)]
        if not 0 <= head < values.shape[1]:
            raise UsageError(f"head {head} is none of the {values.shape[1]} heads")
        return self._folded(self._on_texts(values[:, head], texts) / self.length[:, None, None], centre)

    def _tokens(self) -> Tensor:
        if self.by not in ("token", "head_token"):
            raise UsageError(f"a heat map needs by='token' or 'head_token', this decomposition is by {self.by!r}")
        return self.values

    def _on_texts(self, values: Float[Tensor, "N L E"], texts: Any) -> Float[Tensor, "N L Q"]:
        if self.texts:
            if texts is not None:
                raise UsageError("the terms are dot products with the texts of `onto` already: leave out texts")
            return values
        if texts is None:
            raise UsageError("texts is None: give the texts of the heat map")
        return values @ self._encode(texts).to(values).T

    def _folded(self, maps: Float[Tensor, "N L Q"], centre: bool) -> Float[Tensor, "N Q h w"]:
        count = self.grid[0] * self.grid[1]
        maps = maps[:, self.prefix : self.prefix + count].transpose(1, 2).unflatten(2, self.grid)
        if not centre:
            return maps
        if maps.shape[1] < 2:
            raise UsageError("centre=True compares texts: give at least two")
        return maps - maps.mean(dim=1, keepdim=True)


def decompose_image_embedding(
    model: ImageTextModel,
    images: Any,
    *,
    by: By = "head",
    layers: Sequence[int] | None = None,
    onto: Any = None,
    batch_size: int = 32,
    size: int | tuple[int, int] | None = None,
    on_error: str = "raise",
) -> Decomposition:
    """Write every image embedding as the exact sum of the direct contributions of its heads, tokens and MLPs.

    The residual stream is a sum; pooling, projection and the final norm (its statistics held fixed) are linear, so the
    embedding is a sum as well. Any term can then be compared with texts, averaged away or drawn.

    Paper: Interpreting CLIP's Image Representation via Text-Based Decomposition (arXiv 2310.05916).

    Args:
        model: an `ImageTextModel` with a transformer image tower.
        images: anything `encode_image` takes, or an iterable of it that is read lazily.
        by: "head", "token" (source token), "head_token", "layer" (attention of a block) or "mlp".
        layers: blocks that are split (negative from the end); None = all. The others go to `rest`.
        onto: texts, rows (Q, E) or a `TextBank`: keep only the dot products with these unit rows instead of vectors of
            width E, which bounds the memory of "head_token".
        batch_size: images that go through the tower at once.
        size: input side or (h, w) in pixels; default the model's.
        on_error: `skip` leaves unreadable pictures out, see `Decomposition.skipped`.

    Returns:
        N * K * (heads, tokens) * E floats are kept; `decompositions` gives one batch at a time instead.

    Raises:
        NotSupported: a tower without attention, or whose embedding is no sum (maximum pooling, MLP projection, inner
            norms).
        UsageError: no image, or bad options.
        DataError: a picture that cannot be read.

    Examples:
        >>> found = decompose_image_embedding(model, paths, by="token")      # doctest: +SKIP
        >>> maps = found.heat(["a cat", "a dog"])                            # (N, 2, h, w)  # doctest: +SKIP
    """
    refuse_bare_module(model, "decompose_image_embedding")
    options: dict[str, Any] = {"by": by, "layers": layers, "onto": onto, "size": size, "on_error": on_error}
    parts = list(decompositions(model, images, batch_size=batch_size, **options))
    return replace(
        parts[0],
        values=torch.cat([part.values for part in parts]),
        mlps=torch.cat([part.mlps for part in parts]),
        rest={name: torch.cat([part.rest[name] for part in parts]) for name in parts[0].rest},
        length=torch.cat([part.length for part in parts]),
        index=tuple(i for part in parts for i in part.index),
        skipped=tuple(entry for part in parts for entry in part.skipped),
    )


def decompositions(
    model: ImageTextModel,
    images: Any,
    *,
    by: By = "head",
    layers: Sequence[int] | None = None,
    onto: Any = None,
    batch_size: int = 32,
    size: int | tuple[int, int] | None = None,
    on_error: str = "raise",
) -> Iterator[Decomposition]:
    """`decompose_image_embedding` batch by batch, for sets whose terms do not fit into memory.

    Args:
        model, images, by, layers, onto, batch_size, size, on_error: as there.

    Yields:
        One `Decomposition` a batch; an unreadable picture is in its batch's `skipped`.

    Examples:
        >>> moments = Moments(model.embed_dim)                                   # doctest: +SKIP
        >>> for part in decompositions(model, paths, layers=[-1]):               # doctest: +SKIP
        ...     moments.update(part.unit().values[:, 0, 3])    # head 3 of the last block
    """
    refuse_bare_module(model, "decompositions")
    check_number("batch_size", batch_size, least=1)
    check_choice("on_error", on_error, ("raise", "skip"))
    encode = _encoder(model)
    rows = None if onto is None else encode(onto)
    names = () if rows is None else _names(onto, len(rows))
    tower, first = model.image_tower, 0
    ready: Decomposition | None = None
    unread: tuple[tuple[int, str], ...] = ()
    for batch in _batches(images, batch_size):
        pixels, index, skipped = _pixels(model, batch, first, size, on_error)
        first += len(batch)
        unread += skipped
        if pixels is None:
            continue
        if ready is not None:
            yield ready
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                seen = trace(tower, pixels.to(model.device, tower.dtype))
                terms = seen.contributions(by, layers=layers, onto=rows)
        finally:
            model.train(training)
        ready, unread = _decomposition(terms, seen.grid, tower, names, index, unread, encode), ()
    if not first:
        raise UsageError("images is empty: give at least one")
    if ready is None:
        raise DataError(f"none of {len(unread)} pictures can be read: {unread[0][1]}")
    # Held back until here, so that pictures that are skipped at the very end have a batch to be reported in.
    yield replace(ready, skipped=ready.skipped + unread)


def _decomposition(
    terms: Contributions, grid: tuple[int, int], tower: Any, names: tuple[str, ...], index: tuple[int, ...],
    skipped: tuple[tuple[int, str], ...], encode: Callable[[Any], Tensor],
) -> Decomposition:  # fmt: skip
    return Decomposition(
        by=terms.by,
        layers=terms.layers,
        values=terms.values.cpu(),
        mlps=terms.mlps.cpu(),
        rest={name: term.cpu() for name, term in terms.rest.items()},
        length=terms.length.cpu(),
        grid=grid,
        prefix=tower.prefix,
        depth=tower.depth,
        texts=names,
        index=index,
        skipped=skipped,
        _encode=encode,
    )


def _encoder(model: ImageTextModel) -> Callable[[Any], Float[Tensor, "Q E"]]:
    """From texts, rows or a bank to unit rows."""

    @torch.no_grad()
    def encode(texts: Any) -> Tensor:
        if isinstance(texts, TextBank):
            return texts.prototypes()
        if isinstance(texts, Tensor):
            return F.normalize(texts.float() if texts.dtype != torch.float64 else texts, dim=-1)
        captions = [texts] if isinstance(texts, str) else list(texts)
        if not captions or not all(isinstance(text, str) and text.strip() for text in captions):
            raise UsageError(f"texts is {texts!r}: give at least one text, none of them empty")
        model.need_cosines("a decomposition by texts")
        return model.encode_text(captions, normalize=True)

    return encode


def _names(onto: Any, count: int) -> tuple[str, ...]:
    if isinstance(onto, TextBank):
        return tuple(onto.names)
    if isinstance(onto, Tensor):
        return tuple(f"direction {i}" for i in range(count))
    return (onto,) if isinstance(onto, str) else tuple(onto)


def _batches(images: Any, size: int) -> Iterator[list[Any]]:
    """Lists of at most `size` pictures from a tensor, one picture, a sequence or an iterable."""
    if isinstance(images, Tensor) and images.ndim == 4:
        yield from (list(part) for part in images.split(size) if len(part))
        return
    single = isinstance(images, (str, bytes, Tensor)) or not isinstance(images, Iterable)
    source = iter([images] if single else images)
    while batch := list(islice(source, size)):
        yield batch


def _pixels(
    model: ImageTextModel, batch: list[Any], first: int, size: Any, on_error: str
) -> tuple[Float[Tensor, "B 3 h w"] | None, tuple[int, ...], tuple[tuple[int, str], ...]]:
    kept, index, skipped = [], [], []
    for position, image in enumerate(batch, first):
        try:
            kept.append(model.preprocess(image, size=size))
            index.append(position)
        except DataError as error:
            if on_error == "raise":
                raise
            skipped.append((position, str(error)))
    return torch.cat(kept) if kept else None, tuple(index), tuple(skipped)
