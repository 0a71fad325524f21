"""The papers as field values of `TaskGenericSegmenter`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from binderclip.models.checks import refuse_bare_module
from binderclip.segment.parts.resolution import Whole
from binderclip.segment.promptable import PromptableSegmenter
from binderclip.segment.task.candidates import EveryMask, FromPoints, FromWordBoxes
from binderclip.segment.task.choosing import BestScore, ClosestToMean, LastRound, MostSimilar, SimilarityWeighted
from binderclip.segment.task.erasing import filled_from_border
from binderclip.segment.task.fragments import FragmentBoxes, UnionOfMasks, middle_features
from binderclip.segment.task.localise import WordBoxes, WordMaps
from binderclip.segment.task.task_segmenter import Loop, TaskGenericSegmenter
from binderclip.segment.task.words import (
    BACKGROUNDS,
    SYNONYMS,
    Chains,
    FixedWords,
    PatchHypotheses,
    VocabularyGate,
    VocabularyScorer,
    vocabulary_chain,
)

__all__ = ["TASK_METHODS", "gensam", "instance_mining", "region_retrieval", "zip_instances"]

ACTIVATION_SIDE = 512 / 224
"""Shorter side at which Zip's activations are made, over the model's own: 512 pixels for a ViT-B/16 of 224."""


def gensam(
    model: Any,
    segmenter: PromptableSegmenter,
    vocabulary: Sequence[str],
    *,
    ask: Callable[[Image.Image, str], tuple[str, str]] | None = None,
    synonyms: Sequence[str] = SYNONYMS,
    backgrounds: Sequence[str] = BACKGROUNDS,
    rounds: int = 6,
) -> TaskGenericSegmenter:
    """GenSAM: three chains of words, consensus of heatmaps, points, six rounds on a picture that heat re-weights.

    Args:
        model: an `ImageTextModel` with a transformer image tower.
        segmenter: any promptable one.
        vocabulary: words that the task may mean.
        ask: (picture, synonym) -> words, such as a `QuestionChain`; None lets the model choose from the vocabulary.
        synonyms: words that take each other's place in the task, see `Chains`.
        backgrounds: words for surroundings.
        rounds: at most.

    Raises:
        UsageError: no word in the vocabulary, or fewer than one round.
        NotSupported: a model whose image tower has no attention, or cannot be opened.

    Paper: Relax Image-Specific Prompt Requirement in SAM (AAAI 2024, arXiv 2312.07374).
    """
    refuse_bare_module(model, "gensam")
    chain = ask or vocabulary_chain(VocabularyScorer(model, vocabulary, backgrounds))
    return TaskGenericSegmenter(
        segmenter, Chains(chain, tuple(synonyms)), WordMaps.surgery(model, "k"), FromPoints(), BestScore(),
        ClosestToMean(2), Loop(rounds, "heatmap", 0.3, 0.1),
    )  # fmt: skip


def instance_mining(
    model: Any,
    segmenter: PromptableSegmenter,
    vocabulary: Sequence[str],
    *,
    backgrounds: Sequence[str] = BACKGROUNDS,
    erase: Callable[[Image.Image, tuple[int, int, int, int], str, str], Image.Image] = filled_from_border,
    cumulate: bool = True,
    rounds: int = 5,
) -> TaskGenericSegmenter:
    """INT: names by patches, mined by erasing, boxes and points, masks weighted by how like the name they are.

    Args:
        model: an `ImageTextModel`; its probabilities stand in for those of a vision-language model, its maps for a
            detector.
        segmenter: any promptable one.
        vocabulary: words that the task may mean.
        backgrounds: words for surroundings.
        erase: (picture, box, what to paint, what not) -> the picture without what is in the box; an inpainting model in
            the paper.
        cumulate: whether contrasts are multiplied over rounds.
        rounds: at most.

    Raises:
        UsageError: no word in the vocabulary, or fewer than one round.
        NotSupported: a model whose image tower has no attention, or cannot be opened.

    Paper: INT: Instance-Specific Negative Mining for Task-Generic Promptable Segmentation (arXiv 2501.18753).
    """
    refuse_bare_module(model, "instance_mining")
    maps = WordMaps.surgery(model, "k")
    boxes = WordBoxes(maps)
    proposer = PatchHypotheses(VocabularyScorer(model, vocabulary, backgrounds), boxes.first, erase, cumulate)
    return TaskGenericSegmenter(
        segmenter, proposer, maps, FromWordBoxes(), SimilarityWeighted(model), ClosestToMean(1),
        Loop(rounds, "mask", 0.3, None), leading=1, boxes=boxes,
    )  # fmt: skip


def region_retrieval(model: Any, segmenter: PromptableSegmenter, **settings: Any) -> TaskGenericSegmenter:
    """SLIP: of all masks of a picture the one whose cut-out on black is most like the words of the task.

    Args:
        model: an `ImageTextModel`, fine-tuned on the niche that is asked for in the paper.
        segmenter: any promptable one; masks below a predicted IoU of 0.9 are left out, which is SAM's scale.
            `pred_iou_thresh=None` takes the segmenter's own.
        settings: of `EveryMask`.

    Raises:
        UsageError: (at the call) an empty task, or a setting out of its range.

    Paper: Zero Shot Context-Based Object Segmentation using SLIP (SAM+CLIP) (arXiv 2405.07284).
    """
    refuse_bare_module(model, "region_retrieval")
    side = model.image_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    return TaskGenericSegmenter(
        segmenter, FixedWords(), None, EveryMask(**settings), MostSimilar(model, size=size), LastRound(),
        Loop(1, "none"),
    )  # fmt: skip


def zip_instances(
    model: Any,
    segmenter: PromptableSegmenter,
    vocabulary: Sequence[str],
    *,
    layer: int | None = None,
    k: int = 10,
    gate: float = 0.05,
    unit: bool = True,
) -> TaskGenericSegmenter:
    """Zip: instances of a vocabulary's words, parted by clusters of a middle layer; `rounds[0].candidates` are they.

    Args:
        model: an `ImageTextModel` with a transformer image tower.
        segmenter: any promptable one.
        vocabulary: classes; a task that names some of them, or their kind, asks for these alone.
        layer: block whose tokens are clustered; None for the middle one.
        k: clusters.
        gate: probability of a class, in the picture or a ninth of it, above which its instances are looked for.
        unit: False clusters features as they are, as the released code does; see `FragmentBoxes`.

    Raises:
        UsageError: no word in the vocabulary.
        NotSupported: a model whose image tower has no attention, or cannot be opened.

    Paper: The devil is in the object boundary (ICLR 2024, arXiv 2404.11957).
    """
    refuse_bare_module(model, "zip_instances")
    scorer = VocabularyScorer(model, vocabulary)
    return TaskGenericSegmenter(
        segmenter, VocabularyGate(scorer, gate), WordMaps.surgery(model, "v", resolution=Whole(ACTIVATION_SIDE)),
        FragmentBoxes(middle_features(model, layer), scorer, k, unit=unit), UnionOfMasks(), LastRound(),
        Loop(1, "none"),
    )  # fmt: skip


TASK_METHODS: dict[str, Callable[..., TaskGenericSegmenter]] = {
    "gensam": gensam,
    "int": instance_mining,
    "slip": region_retrieval,
    "zip": zip_instances,
}
"""Name -> maker; all but `slip` take a vocabulary as their third argument."""
