"""Ordering images by a quantity that a text names: a regressor on the token features of both towers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import spearmanr
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from binderclip.adapt.few_shot.ranking_net import RankingNet, RankingShape
from binderclip.adapt.heads.settings import check_settings
from binderclip.adapt.heads.token_features import WordTokens, patch_tokens, word_tokens
from binderclip.adapt.heads.tuned import Training, Tunable, train_tunable
from binderclip.errors import UsageError
from binderclip.losses.ranking import PairwiseRankLoss
from binderclip.models.checks import refuse_bare_module
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

Branch = Literal["relational", "single", "none"]


@dataclass(kw_only=True, eq=False, repr=False)
class RankingAdapter(RegressorMixin, BaseEstimator):
    """Predict the quantity that a text asks for ("number of apples"), and order images by it.

    A light network on frozen towers lets the patches of an image read the words of its query and sums them to a score.
    While training, a second branch compares all pairs of a batch and says which has more, which shapes the features.

    Args:
        model: an `ImageTextModel`; its towers stay as they are. A copy of it is not kept: `clone` copies it.
        width: d of the adapter; None: the image tower's.
        heads, fusion, post, queries, text_tokens, dropout: see `RankingShape`; the defaults are the paper's.
        branch: "relational" trains the pair branch; "single" ranks by the differences of the scores; "none" only
            regresses.
        rank, regression, presence: weights of the losses, see `PairwiseRankLoss`.
        lr: AdamW's rate, cosine. Default the paper's 5e-5; an adapter of width 64 takes 1e-3.
        weight_decay: of AdamW.
        warmup: share of the steps, or their number.
        steps: optimizer steps.
        batch_size: images a step; all their pairs are compared.
        seed: of weights and order.

    Attributes:
        network_: the trained `RankingNet`. history_: figures of the training steps. n_trainable_: its parameters.

    Raises:
        UsageError: a setting out of range, or captions and targets that do not go with the images.

    Paper: Ranking-aware adapter for text-driven image ordering with CLIP (arXiv 2412.06760).

    Examples:
        >>> X = patch_tokens(model, paths)  # doctest: +SKIP
        >>> ranker = RankingAdapter(model, lr=1e-3).fit(X, "number of apples", counts)  # doctest: +SKIP
        >>> ranker.predict(X, "number of apples").argsort()  # doctest: +SKIP
    """

    model: ImageTextModel = field(kw_only=False)
    width: int | None = None
    heads: int = 8
    fusion: int = 2
    post: int = 2
    queries: int = 16
    text_tokens: int = 32
    dropout: float = 0.1
    branch: Branch = "relational"
    rank: float = 1.0
    regression: float = 0.2
    presence: float = 0.0
    lr: float = 5e-5
    weight_decay: float = 0.01
    warmup: int | float = 0.05
    steps: int = 1000
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_bare_module(self.model, "RankingAdapter")

    def fit(self, X: Any, captions: str | Sequence[str], y: Any, *, groups: Sequence[Any] | None = None) -> Any:
        """Learn from images, what is asked of each, and the answers.

        Args:
            X: patch tokens (N, P, D) as `patch_tokens` gives them, or images (float (N, 3, H, W) in [0, 1], pictures
                or paths).
            captions: N queries, or one for all. A good share of images that do not show what is asked for (target 0)
                keeps the adapter from counting anything there is.
            y: (N,) targets.
            groups: N names of quantities; pairs are compared within a quantity only ("count" and "size" have no
                common scale). Default: all are one quantity.
        """
        check_settings(self)
        check_choice("branch", self.branch, get_args(Branch))
        patches = self._patches(X)
        words, query = self._words(captions, len(patches))
        targets = torch.as_tensor(np.asarray(y), dtype=torch.float32)
        if targets.shape != (len(patches),) or not bool(targets.isfinite().all()):
            raise UsageError(f"y must be {len(patches)} finite numbers, got shape {tuple(targets.shape)}")
        labels = [0] * len(patches) if groups is None else list(groups)
        if len(labels) != len(patches):
            raise UsageError(f"groups has {len(labels)} names for {len(patches)} images")
        group = torch.from_numpy(np.unique(np.asarray(labels), return_inverse=True)[1].reshape(-1))
        loss = PairwiseRankLoss(
            0.0 if self.branch == "none" else self.rank, regression=self.regression, presence=self.presence
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = RankingNet(self._shape(patches.shape[-1], words.states.shape[-1]))
        network.to(self.model.device)
        module = _Ranked(network, words, query, group, loss)
        optimizer = {"name": "adamw", "weight_decay": self.weight_decay}
        training = Training(
            lr=self.lr, steps=self.steps, batch_size=self.batch_size, optimizer=optimizer, warmup=self.warmup,
            seed=self.seed,
        )  # fmt: skip
        result = train_tunable(module, patches[:, None], targets, training)
        self.network_ = network
        self.n_trainable_ = sum(p.numel() for p in network.parameters())
        self.history_ = {} if result is None else dict(result.history)
        return self

    def predict(self, X: Any, captions: str | Sequence[str]) -> np.ndarray:
        """The quantity in each image (N,); its order is what was trained hardest."""
        with torch.no_grad():
            return torch.cat([self.network_.score(part) for part in self._fused(X, captions)]).double().cpu().numpy()

    def compare(self, X: Any, captions: str | Sequence[str], *, chunk: int = 32) -> Float[np.ndarray, "N N"]:
        """Probability that the image of the row has more than that of the column, from the pair branch.

        Args:
            X, captions: as of `fit`.
            chunk: rows that are compared at once.
        """
        with torch.no_grad():
            fused = torch.cat(list(self._fused(X, captions)))
            rows = [self.network_.compare(part, fused).sigmoid() for part in fused.split(chunk)]
        return torch.cat(rows).double().cpu().numpy()

    def score(self, X: Any, captions: str | Sequence[str], y: Any) -> float:  # type: ignore[override]
        """Spearman's rank correlation of predictions and targets."""
        return float(spearmanr(self.predict(X, captions), np.asarray(y)).statistic)

    def _shape(self, patch_width: int, word_width: int) -> RankingShape:
        return RankingShape(
            patch_width, word_width, self.width or patch_width, self.heads, self.fusion, self.post,
            self.queries if self.branch == "relational" else 0, self.text_tokens, self.dropout,
        )  # fmt: skip

    def _patches(self, X: Any) -> Float[Tensor, "N P D"]:
        tokens = isinstance(X, (Tensor, np.ndarray)) and X.ndim == 3
        patches = torch.as_tensor(X).detach().float() if tokens else patch_tokens(self.model, X)
        width = self.model.image_tower.width
        if patches.shape[-1] != width:
            raise UsageError(f"X has tokens of width {patches.shape[-1]}, the model's are {width}: see patch_tokens")
        return patches

    def _words(self, captions: str | Sequence[str], rows: int) -> tuple[WordTokens, Int[Tensor, "N"]]:
        """Tokens of the distinct captions, and which of them belongs to each row."""
        every = [captions] * rows if isinstance(captions, str) else list(captions)
        if len(every) != rows:
            raise UsageError(f"captions has {len(every)} texts for {rows} images; give one for each, or one for all")
        place = {text: index for index, text in enumerate(dict.fromkeys(every))}
        return word_tokens(self.model, list(place)), torch.tensor([place[text] for text in every])

    def _fused(self, X: Any, captions: str | Sequence[str], batch: int = 64) -> Any:
        check_is_fitted(self, "network_")
        patches = self._patches(X)
        words, query = self._words(captions, len(patches))
        device = next(self.network_.parameters()).device
        for part, rows in zip(patches.split(batch), query.split(batch), strict=True):
            yield self.network_.fuse(part.to(device), words.states[rows].to(device), words.mask[rows].to(device))


class _Ranked(Tunable):
    """The network with the queries of the training images."""

    def __init__(
        self, network: RankingNet, words: WordTokens, query: Tensor, group: Tensor, loss: PairwiseRankLoss
    ) -> None:
        super().__init__()
        self.network, self.loss = network, loss
        self.words, self.query, self.group = words, query, group

    def losses(self, x: Float[Tensor, "B P D"], targets: Tensor, rows: Int[Tensor, "B"]) -> dict[str, Tensor]:
        query, group = self.query[rows.cpu()], self.group[rows.cpu()]
        fused = self.network.fuse(x, self.words.states[query].to(x), self.words.mask[query].to(x.device))
        pairs = self.network.compare(fused) if self.network.relation is not None else None
        comparable = (group[:, None] == group).to(x.device)
        return self.loss(self.network.score(fused), targets, pairs, comparable=comparable).terms
