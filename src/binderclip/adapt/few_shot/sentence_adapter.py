"""A few-shot head that learns which sentences of a class matter, and carries that over to classes it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from binderclip.adapt.heads.base import Terms
from binderclip.adapt.heads.tuned import Training, Tunable, TunedHead, prompt_training
from binderclip.adapt.zero_shot.classifier import ZeroShotClassifier
from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

Kind = Literal["attention", "linear", "linear-residual"]


class SentenceAttention(nn.Module):
    """Raw sentence features of classes -> one unit prototype a class.

    `attention`: one head of self-attention over the sentences of one class, mixed with the sentences themselves and
    normalised, then their mean. `linear` and `linear-residual`: a bottleneck of the mean sentence.

    Args:
        width: d of the features.
        kind: which of the three.
        ratio: share of what is learned.
    """

    def __init__(self, width: int, kind: Kind = "attention", ratio: float = 0.2) -> None:
        super().__init__()
        self.kind, self.ratio, inner = kind, ratio, max(1, width // 4)
        if kind == "attention":
            self.q, self.k, self.v = (nn.Linear(width, inner, bias=False) for _ in range(3))
            self.out, self.norm = nn.Linear(inner, width), nn.LayerNorm(width)
            for layer, gain in ((self.q, 1.0), (self.k, 1.0), (self.v, 0.67), (self.out, 0.67)):
                nn.init.xavier_normal_(layer.weight, gain=gain)
            nn.init.zeros_(self.out.bias)
        else:
            self.down, self.up = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)

    def sentences(self, a: Float[Tensor, "C K d"], mask: Bool[Tensor, "C K"]) -> Float[Tensor, "C K d"]:
        """The changed sentences (`attention` only)."""
        values = F.dropout(self.weights(a, mask), 0.1, self.training) @ self.v(a)
        learned = F.dropout(self.out(values), 0.5, self.training)
        # The factor 2 matters through the norm's epsilon alone; it is the released code's.
        return self.norm(2 * (self.ratio * learned + (1 - self.ratio) * a))

    def weights(self, a: Float[Tensor, "C K d"], mask: Bool[Tensor, "C K"]) -> Float[Tensor, "C K K"]:
        """Attention of each sentence to those of its class (`attention` only)."""
        logits = self.q(a) @ self.k(a).mT / self.q.out_features**0.5
        return logits.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(dim=-1)

    def forward(self, a: Float[Tensor, "C K d"], mask: Bool[Tensor, "C K"]) -> Float[Tensor, "C d"]:
        """Unit prototypes."""
        inside = mask.unsqueeze(-1).to(a.dtype)
        if self.kind == "attention":
            a = self.sentences(a, mask)
        mean = (a * inside).sum(dim=1) / inside.sum(dim=1)
        if self.kind != "attention":
            learned = torch.relu(self.up(torch.relu(self.down(mean))))
            mean = learned if self.kind == "linear" else self.ratio * learned + (1 - self.ratio) * mean
        return F.normalize(mean, dim=-1)


class _SentenceModule(Tunable):
    def __init__(self, block: SentenceAttention, a: Tensor, mask: Tensor, scale: float) -> None:
        super().__init__()
        self.block, self.a, self.mask, self.scale = block, a, mask, scale

    def logits(self, x: Float[Tensor, "B d"], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        return self.scale * x @ self.block(self.a, self.mask).T


@dataclass(kw_only=True, eq=False, repr=False)
class SentenceAttentionAdapter(TunedHead):
    """A small self-attention block over the sentences of each class, trained on a few images (CLIP-A-self).

    It learns which visual sentences tell classes apart and acts on sentences, not on class identities, so that
    `classifier_for` gives a classifier of classes without any image. Only the block is trained.

    Args:
        text_prior: `TextBank` of class -> visual sentences (`read_descriptions`, `write_descriptions`), or a
            `ZeroShotClassifier` on one.
        scale: factor on the cosines; None: the bank's own.
        kind: `attention`, or one of the paper's baselines `linear` and `linear-residual` on the mean sentence.
        ratio: share of what is learned, in [0, 1]; with `attention` 0 leaves the normalised sentences.
        lr: of SGD with momentum 0.9 and weight decay 5e-4; the first epoch at a rate of 1e-5, then a cosine.
        epochs: passes over the pictures.
        batch_size: pictures a step.
        seed: of initialisation, dropout and batches.

    Attributes:
        coef_: (C, d) unit prototypes. block_: the trained numbers in one row, for `classifier_for`.
        attention_entropy_: mean entropy of the attention over that of equal weights; 1 for the other kinds.

    Raises:
        UsageError: when fitted: a text prior that is no bank, an unknown kind, or a ratio outside [0, 1].

    Paper: Enhancing CLIP with GPT-4: Harnessing Visual Descriptions as Prompts (arXiv 2307.11661).
    """

    # `classes` names the rows of an array; this head takes banks alone.
    classes: Sequence[Any] | None = field(default=None, init=False)
    kind: Kind = "attention"
    ratio: float = 0.2
    lr: float = 0.002
    epochs: int = 50
    batch_size: int = 32
    seed: int = 0

    coef_: Tensor = field(init=False)
    block_: Tensor = field(init=False)
    attention_entropy_: float = field(init=False)

    def _module(self, views: Float[Tensor, "N V d"], targets: Int[Tensor, "N"]) -> Tunable:
        bank = getattr(self.text_prior, "bank", self.text_prior)
        if not hasattr(bank, "owner"):
            raise UsageError("text_prior must be a TextBank of class -> sentences: model.text_bank({...})")
        check_choice("kind", self.kind, get_args(Kind))
        check_number("ratio", self.ratio, least=0, most=1)
        a, mask = raw_sentences(bank.align([str(name) for name in self.classes_.tolist()]))
        return _SentenceModule(SentenceAttention(a.shape[-1], self.kind, self.ratio), a, mask, self.scale_)

    def _training(self) -> Training:
        return prompt_training(self.lr, self.epochs, self.batch_size, self.seed)

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, _SentenceModule)
        self.coef_ = module.block(module.a, module.mask).cpu().double()
        self.block_ = torch.cat([p.detach().flatten() for p in module.block.parameters()]).cpu()
        self.attention_entropy_ = 1.0
        if self.kind == "attention" and module.a.shape[1] > 1:
            w = module.block.weights(module.a, module.mask)
            entropy = -torch.xlogy(w, w).sum(dim=-1)[module.mask].mean()
            self.attention_entropy_ = float(entropy / np.log(module.a.shape[1]))

    def _terms(self, x: Float[Tensor, "N d"]) -> Terms:
        return {"text": self.scale_ * x @ self.coef_.to(x).T}

    def classifier_for(self, bank: Any) -> ZeroShotClassifier:
        """The trained block on the sentences of other classes: a classifier that has seen no picture of them.

        Args:
            bank: `TextBank` of class -> sentences, of the same model.

        Raises:
            UsageError: a bank of another width.
        """
        a, mask = raw_sentences(bank)
        if a.shape[-1] != self.n_features_in_:
            raise UsageError(f"the bank has width {a.shape[-1]} and this head {self.n_features_in_}")
        block = SentenceAttention(a.shape[-1], self.kind, self.ratio).eval()
        with torch.no_grad():
            start = 0
            for parameter in block.parameters():
                parameter.copy_(self.block_[start : start + parameter.numel()].view_as(parameter))
                start += parameter.numel()
            rows = block(a, mask).double()
        return ZeroShotClassifier(rows, classes=list(bank.names), scale=self.scale_).fit()


def raw_sentences(bank: Any) -> tuple[Float[Tensor, "C K d"], Bool[Tensor, "C K"]]:
    """The sentences of each class as the text tower gives them, not normalised, in float32, and which there are."""
    unit, mask = bank.padded()
    counts = bank.counts
    order = torch.argsort(bank.owner, stable=True)
    first = torch.cumsum(counts, 0) - counts
    lengths = unit.new_zeros(mask.shape)
    slot = torch.arange(len(order), device=order.device) - first[bank.owner[order]]
    lengths[bank.owner[order], slot] = bank.norms[order]
    return (unit * lengths.unsqueeze(-1)).detach().float().cpu(), mask.cpu()
