"""Questions on held-out scenes, answered by the bundled vision-language model while its image tokens are pruned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.compress import BalancedStage, PrunedRun, PruningStage, TokenContext, TokenPruner, select_top_tokens
from binderclip.models import load_vlm
from binderclip.train.bundled.vision_language import asked, questions_on

if TYPE_CHECKING:
    from binderclip.models import TinyVLM
    from binderclip.models.towers.tokens import Tokens

GROUPS = 8
"""Questions on each scene: half ask where, a quarter about something that is there, a quarter about what is not."""
KINDS = ("where", "presence")


@dataclass(frozen=True)
class AskedScenes:
    """One question a row.

    Attributes:
        tokens: that enter the decoder.
        answers: right word of each question.
        kind: 0 where, 1 presence.
        boxes: of what is asked about, xyxy as fractions of the side; zeros where it is not there.
    """

    tokens: Tokens
    answers: Int[Tensor, "M"]
    kind: Int[Tensor, "M"]
    boxes: Float[Tensor, "M 4"]


@lru_cache(maxsize=1)
def vlm() -> TinyVLM:
    """The bundled model."""
    return load_vlm().requires_grad_(False)


@lru_cache(maxsize=32)
def asked_scenes(seed: int, count: int) -> AskedScenes:
    """So many scenes of held-out drawings, `GROUPS` questions on each."""
    model = vlm()
    data = asked(model, 1000 + seed, count, "val")
    questions, answers, chosen = questions_on(model, data.cells, GROUPS, torch.Generator().manual_seed(seed))
    features = data.features.repeat_interleave(GROUPS, 0)
    boxes = data.boxes.gather(1, chosen[..., None].expand(-1, -1, 4))
    kind = (torch.arange(GROUPS) >= GROUPS // 2).long().repeat(count)
    return AskedScenes(model.embed(features, questions.flatten(0, 1)), answers.flatten(), kind, boxes.flatten(0, 1))


def right_answers(run: PrunedRun | Tokens, scenes: AskedScenes) -> dict[str, float]:
    """Accuracy of each kind of question, of tokens that left the decoder."""
    tokens = run.tokens if isinstance(run, PrunedRun) else run
    right = (vlm().read(tokens).argmax(-1) == scenes.answers).float()
    return {name: float(right[scenes.kind == number].mean()) for number, name in enumerate(KINDS)}


def random_pruning(layers: Sequence[int], keep: Sequence[float], seed: int, drop: int | None = None) -> TokenPruner:
    """So much of the whole grid kept at each layer, at random."""
    generator = torch.Generator().manual_seed(seed)

    def select(context: TokenContext, part: float) -> Bool[Tensor, "B n"]:
        scores = torch.rand(context.hidden.shape[:2], generator=generator)
        return select_top_tokens(scores, max(1, int(part * context.total + 1e-6)), among=context.present)

    plan = [PruningStage(layer, partial(select, part=part)) for layer, part in zip(layers, keep, strict=True)]
    return TokenPruner(
        plan + ([] if drop is None else [PruningStage(drop, lambda context: torch.zeros_like(context.present))])
    )


def one_signal(stages: Sequence[BalancedStage], signal: str) -> tuple[BalancedStage, ...]:
    """The same budgets by "attended" or "diverse" tokens alone."""
    return tuple(
        BalancedStage(stage.keep, 0.0, float(signal == "diverse"), float(signal == "attended"), 1.0)
        for stage in stages
    )  # fmt: skip
