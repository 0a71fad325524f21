"""Grad-ECLIP and MedGrad E-CLIP: where the class token found the evidence for a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.engine.attribute import Plan, run_plans
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.engine.gathering import Gathered, Opening, SiteSignal
from binderclip.explain.engine.observed import Observed, Observer
from binderclip.explain.engine.passes import Pass
from binderclip.explain.engine.placement import input_box
from binderclip.explain.engine.places import Place
from binderclip.explain.engine.targets import resolve
from binderclip.explain.transformer.eclip_parts import (
    Attended,
    channel_entropy,
    channel_evidence,
    local_entropy,
    similarity,
    single_head_run,
)
from binderclip.explain.words.text_tokens import WordScores, paired
from binderclip.explain.words.token_words import words_of_tokens
from binderclip.models.checks import refuse_bare_module
from binderclip.models.layers.freezing import frozen
from binderclip.models.towers.block import join_heads
from binderclip.models.towers.record import Record, Site, resolve_layer
from binderclip.models.towers.trace import trace
from binderclip.numeric import check_number
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models.towers import Tower
    from binderclip.models.towers.tokens import Tokens

Heads = Literal["model", "single"]
Entropy = Literal["local", "channel"]


@dataclass(frozen=True)
class GradECLIP:
    """`relu(sum_d g_d v_id) lambda_i`: gradient of the score at the class token's attention output, times what each
    patch offers to it, times how alike the token's query and the patch's key are.

    One value a patch, specific to the target, from one backward that ends at the last block. It says what the class
    token gathered there, so it can only be as local as the tokens that enter that block.

    The bundled `small` attends uniformly in its last block: there lambda is 1 and the map is Grad-CAM's, and the block
    before (`layer=-2`) is no better. Explain a `targets.margin` with it, not the cosine, whose gradient leads away from
    the object (study p018).

    Args:
        layer: block, negative from the end; the published one is the last. Several are cut off and summed. The
            gradient is that of the block's own attention output, through everything after it.
        heads: `model` explains the network as it is; `single` recomputes the block with one full-width head, as the
            authors' code does, and so explains a slightly different network.
        ksim: False leaves lambda out. In a block that attends uniformly (the last of `small`) it is 1 anyway.
        projected: whether queries and keys pass the output projection before they are compared (the authors'
            evaluation) or not (their notebooks).
        signed: keep negative evidence instead of cutting it off.

    Raises:
        UsageError: unknown heads; when called, no such block, or see `attribute`.
        NotSupported: when called, a tower without a class token.

    Paper: Gradient-based Visual Explanation for Transformer-based CLIP (ICML 2024).
    """

    layer: int | Sequence[int] = -1
    heads: Heads = "model"
    ksim: bool = True
    projected: bool = True
    signed: bool = False

    def __post_init__(self) -> None:
        check_choice("heads", self.heads, ("model", "single"))
        if not self._blocks():
            raise UsageError("layer names no block")

    def plan(self) -> Plan | None:
        """What it asks of a pass, to be shared with other methods; None for a single head, whose pass is another."""
        if self.heads == "single":
            return None
        outs: list[Place] = [("heads", block) for block in self._blocks()]
        others: list[Place] = [(name, block) for name in ("q", "k", "v") for block in self._blocks()]
        return Plan(
            self._name(),
            lambda opening: _Evidence(opening, self),
            layers=outs,
            values=others,
            finish="signed" if self.signed else "relu",
        )

    def __call__(self, model: Any, images: Any, target: Any = None) -> Attribution:
        """Explain images; see `attribute` for the arguments."""
        plan = self.plan()
        return self._single(model, images, target) if plan is None else run_plans(model, images, target, [plan])[0]

    def words(self, model: Any, images: Any, texts: str | Sequence[str], *, layers: int = 8) -> WordScores:
        """The text side: how much of the cosine the sentence's token drew from each word, over the last blocks.

        Evidence of the blocks is summed, cut at zero and divided by its sum over the caption's tokens. Lambda goes from
        0 to 1 over the tokens that the sentence's token may attend to (the authors take padding in, too).

        Args:
            model: an `ImageTextModel` whose text tower opens.
            images: one for all captions or one each, or their features (B, E).
            texts: one caption or several.
            layers: how many of the last blocks; fewer where the tower has fewer.

        Raises:
            UsageError: layers below 1, or captions and images that do not pair up.
        """
        refuse_bare_module(model, "GradECLIP.words")
        check_number("layers", layers, least=1)
        return _words(self, model, images, texts, layers)

    def maps(self, evidence: Float[Tensor, "B h w D"], alike: Float[Tensor, "B h w"] | None) -> Float[Tensor, "B h w"]:
        """Evidence of channels and similarity -> one signed value a patch."""
        total = evidence.sum(dim=-1)
        return total if alike is None else total * alike

    def _blocks(self) -> list[int]:
        return [self.layer] if isinstance(self.layer, int) else list(self.layer)

    def _name(self) -> str:
        return "gradeclip"

    def _site(self, gradient: Tensor, attended: Attended, tower: Tower, grid: tuple[int, int]) -> Tensor:
        first = tower.prefix
        batch, length = attended.v.shape[:2]
        reader = torch.zeros(batch, dtype=torch.long, device=gradient.device)
        evidence = channel_evidence(gradient, attended.v, reader)
        keep = torch.arange(length, device=gradient.device).expand(batch, -1) >= first
        alike = similarity(attended, reader, keep, projected=self.projected) if self.ksim else None
        patches = evidence[:, first:].unflatten(1, grid)
        return self.maps(patches, None if alike is None else alike[:, first:].unflatten(1, grid))

    def _single(self, model: Any, images: Any, target: Any) -> Attribution:
        observer = Observer(model)
        batch = observer.images(images)
        tower = _class_tower(None if observer.backbone is None else observer.backbone.image_tower, model)
        blocks = [resolve_layer(block, tower.depth) for block in self._blocks()]
        with observer.ready():
            # Something has to ask for gradients: the weights do not.
            pixels = observer.preprocess.normalize(observer.fit(batch)).to(tower.dtype).requires_grad_()
            start = tower.embed(pixels)
            last, taken = single_head_run(tower, start, blocks)
            features = tower.project(tower.pool(last)).float()
            outputs = features if observer.model is observer.backbone else model.from_features(features)
            score = resolve(model, target, outputs.detach())(outputs)
            grads = torch.autograd.grad(score.sum(), [taken[block].out for block in blocks])
        assert start.grid is not None
        maps = [self._site(g, taken[b], tower, start.grid).detach() for g, b in zip(grads, blocks, strict=True)]
        size = (batch.shape[-2], batch.shape[-1])
        box = input_box(observer.preprocess, size)
        finish: Literal["signed", "relu"] = "signed" if self.signed else "relu"
        return Attribution(tuple(maps), (box,) * len(maps), size, score.detach(), self._name(), finish)


@dataclass(frozen=True)
class MedGradECLIP(GradECLIP):
    """Grad-ECLIP times the entropy around each patch: evidence that many neighbours share counts, lone spikes do not.

    Meant for lesions, whose signs are diffuse. `w = (1 - mu) + mu E`, E the entropy of the map in the patch's 3 x 3
    neighbourhood from 0 (all of it in one patch) to 1 (all equal). The authors' code of this step is not public in
    readable form: the weighting follows the abstract's "local entropy" and every part is a setting.

    Args:
        layer, heads, ksim, projected, signed: as in `GradECLIP`.
        entropy: `local`; `channel` for the entropy of the evidence over channels; None for plain Grad-ECLIP.
        mu: share of the weight that the entropy decides, in [0, 1].

    Raises:
        UsageError: an unknown entropy, mu out of range, or as `GradECLIP`.
        NotSupported: as `GradECLIP`.

    Paper: MedGrad E-CLIP: Enhancing Trust and Transparency in AI-Driven Skin Lesion Diagnosis (arXiv 2501.06887).
    """

    entropy: Entropy | None = "local"
    mu: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("entropy", self.entropy, ("local", "channel", None))
        check_number("mu", self.mu, least=0, most=1)

    def maps(self, evidence: Float[Tensor, "B h w D"], alike: Float[Tensor, "B h w"] | None) -> Float[Tensor, "B h w"]:
        """Grad-ECLIP's map, weighted."""
        plain = super().maps(evidence, alike)
        if self.entropy is None:
            return plain
        entropy = local_entropy(plain) if self.entropy == "local" else channel_entropy(evidence)
        return plain * ((1 - self.mu) + self.mu * entropy)

    def _name(self) -> str:
        return "medgradeclip"


class _Evidence:
    """Reads the blocks of one clean pass."""

    def __init__(self, opening: Opening, method: GradECLIP) -> None:
        self.opening, self.method = opening, method
        self.found: list[SiteSignal] = []

    def add(self, seen: Observed, score: Tensor, step: Pass) -> None:
        """The clean pass."""
        tower = _class_tower(seen.tower, None)
        for block, place in zip(self.method._blocks(), self.opening.places, strict=True):
            parts = [join_heads(seen.raw((name, block))) for name in ("q", "k", "v", "heads")]
            attended = Attended(tower.blocks[block], *parts)
            gradient = join_heads(seen.raw_grads(score, [place])[0])
            values = self.method._site(gradient, attended, tower, seen.tokens.grid)
            self.found.append(SiteSignal(values, seen.boxes[place]))

    def result(self) -> Gathered:
        """One map a block."""
        return Gathered(self.found)


def _class_tower(tower: Any, model: Any) -> Any:
    if tower is None:
        raise NotSupported(f"{type(model).__name__} has no transformer tower of an image-text model")
    if tower.pooling != "token":
        raise NotSupported(
            f"Grad-ECLIP reads the class token, but this tower pools by {tower.pooling!r}; gradcam and saliency do not "
            "need one"
        )
    return tower


def _words(method: GradECLIP, model: Any, images: Any, texts: str | Sequence[str], layers: int) -> WordScores:
    captions, features = paired(model, images, texts)
    spans = words_of_tokens(model.tokenizer, captions)
    tower = model.text_tower
    read = tuple(range(max(0, tower.depth - layers), tower.depth))
    ids = model.tokenize(captions).to(tower.device)
    with frozen(model), torch.enable_grad():
        last, cosine, signals = _attend(method, tower, ids, features, read)
    reader = last.pool_at
    assert reader is not None
    keep = _readable(tower, last, reader)
    total = torch.zeros(keep.shape, device=keep.device)
    for gradient, attended in signals:
        evidence = channel_evidence(gradient, attended.v, reader).sum(dim=-1)
        alike = similarity(attended, reader, keep, projected=method.projected) if method.ksim else 1.0
        total = total + evidence * alike
    total = (total.clamp(min=0) * keep).detach().cpu()
    bodies = [(words[0].start, max(word.stop for word in words)) for words in spans]
    sums = torch.stack([row[a:b].sum() for row, (a, b) in zip(total, bodies, strict=True)])
    shares = total / torch.where(sums > 0, sums, 1.0)[:, None]
    scores = tuple(
        tuple(float(row[w.start : w.stop].mean()) if w.seen else None for w in words)
        for row, words in zip(shares, spans, strict=True)
    )
    return WordScores(tuple(captions), tuple(map(tuple, spans)), scores, cosine.cpu(), read, shares)


def _attend(
    method: GradECLIP, tower: Any, ids: Any, features: Float[Tensor, "B E"], read: Sequence[int]
) -> tuple[Tokens, Tensor, list[tuple[Tensor, Attended]]]:
    """One pass of the text tower: its last tokens, the cosines, and gradient and attention of each block."""
    if method.heads == "single":
        words = tower.embed_tokens(ids.ids).detach().requires_grad_()
        last, taken = single_head_run(tower, tower.embed(ids, override=words), read)
        embedding, outs = tower.project(tower.pool(last)), [taken[block].out for block in read]
    else:
        seen = trace(tower, ids, record=Record("q", "k", "v", "heads", layers=list(read)))
        last, embedding = seen.tokens, seen.embedding
        outs = [seen.value(Site("heads", block)) for block in read]
    cosine = F.cosine_similarity(embedding.to(features.dtype), features, dim=-1)
    grads = torch.autograd.grad(cosine.sum(), outs)
    if method.heads == "model":
        grads = tuple(join_heads(gradient) for gradient in grads)
        taken = {
            block: Attended(
                tower.blocks[block],
                *(join_heads(seen.value(Site(name, block)).detach()) for name in ("q", "k", "v", "heads")),
            )
            for block in read
        }
    return last, cosine.detach(), [(gradient, taken[b]) for gradient, b in zip(grads, read, strict=True)]


def _readable(tower: Any, tokens: Any, reader: Tensor) -> Tensor:
    """(B, L) tokens that the token at `reader` may attend to."""
    batch, length = tokens.x.shape[:2]
    bias = tower.bias(tokens)
    if bias is None:
        return torch.ones(batch, length, dtype=torch.bool, device=tokens.x.device)
    rows = torch.arange(batch, device=reader.device)
    return bias.expand(batch, -1, length, length)[rows, 0, reader] > -1e4
