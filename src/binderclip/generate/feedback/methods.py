"""The published forms of generative feedback as points of one design, at a size that trains from scratch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from binderclip.errors import UsageError
from binderclip.generate.feedback.condition import ConditionTap, ImageCondition
from binderclip.generate.feedback.corruption import DiffusionCorruption, RectifiedFlow, TokenMasking
from binderclip.generate.feedback.feedback import GenerativeFeedback
from binderclip.generate.feedback.generators import MaskedTokenModel, PatchDenoiser
from binderclip.generate.feedback.targets import PatchCodebook, PixelTarget
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from binderclip.models import ImageTextModel, TokenIds

__all__ = ["FEEDBACK", "caption_condition", "diva", "genhancer", "genhancer_tokens", "un2clip"]

EMPTY_PROMPT = "a photo of a ."
"""DIVA's: the template of zero-shot classification, filled with nothing."""


def genhancer(
    model: ImageTextModel,
    *,
    side: int = 64,
    patch: int = 4,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    scale: float = 1.0,
    local: int | Literal["all"] = 0,
) -> GenerativeFeedback:
    """GenHancer: a light rectified flow from scratch, told the embedding alone, by two perceptrons.

    First the generator and the perceptrons learn, then low-rank updates of the tower; the perceptrons and the generator
    may go on or rest. In the paper 100,000 steps of 1e-4, then 10,000 of 1e-5 (rank 16, alpha 16, dropout 0.1), AdamW
    with weight decay 0.01, a clip at 1, and latents of Flux's autoencoder instead of pixels.

    Args:
        model: whose embeddings are the condition.
        side: of the generated pictures, in pixels.
        patch, width, depth, heads: of `PatchDenoiser`.
        scale: of `RectifiedFlow`.
        local: of `ConditionTap`; the paper's ablation has patch tokens, the method none.

    Paper: GenHancer: Imperfect Generative Models are Secretly Strong Vision-Centric Enhancers (arXiv 2503.19480).
    """
    refuse_bare_module(model, "genhancer")
    tap = ConditionTap(model.embed_dim, sequence_width=width, pooled_width=width, local=local, bridge="mlp")
    network = PatchDenoiser(
        (3, side, side), patch=patch, width=width, depth=depth, heads=heads, sequence_width=width, pooled_width=width
    )
    return GenerativeFeedback(network, RectifiedFlow(scale), tap, PixelTarget(side))


def genhancer_tokens(
    model: ImageTextModel,
    images: Float[Tensor, "B 3 H W"],
    *,
    side: int = 64,
    patch: int = 4,
    codes: int = 64,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    ratio: tuple[float, float] = (0.5, 0.9),
    seed: int = 0,
) -> GenerativeFeedback:
    """GenHancer's discrete form: ids of masked patches are predicted from the others and the embedding.

    Args:
        model: whose embeddings are the condition.
        images: in [0, 1], whose patches make the codebook, in the place of a trained one.
        side, patch, codes, seed: of `PatchCodebook.fit`.
        width, depth, heads: of `MaskedTokenModel`.
        ratio: of `TokenMasking`.

    Paper: GenHancer (arXiv 2503.19480).
    """
    refuse_bare_module(model, "genhancer_tokens")
    codebook = PatchCodebook.fit(images, codes, patch=patch, side=side, seed=seed)
    tap = ConditionTap(model.embed_dim, sequence_width=width, pooled_width=width, bridge="mlp")
    network = MaskedTokenModel(
        codes, (side // patch) ** 2, width=width, depth=depth, heads=heads, sequence_width=width, pooled_width=width
    )
    return GenerativeFeedback(network, TokenMasking(codes, ratio), tap, codebook)


def diva(
    model: ImageTextModel,
    *,
    side: int = 64,
    patch: int = 4,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    local: int | Literal["all"] | None = None,
    pool: int = 1,
    draws: int = 2,
) -> GenerativeFeedback:
    """DIVA: a generator of captions is told the tower's class and patch tokens instead, by one linear layer.

    The generator learns from captions first (`prompted` with `caption_condition`; in the paper it is Stable Diffusion
    2.1 on latents), then rests while tower and linear layer learn, in the paper by 4,600 steps of SGD with 1e-4,
    momentum 0.9, a cosine and batches of 640. The tokens are added to those of the prompt 'a photo of a .'.

    Args:
        model: whose features are the condition, and whose text tower the generator's.
        side: of the generated pictures, in pixels.
        patch, width, depth, heads: of `PatchDenoiser`.
        local, pool: of `ConditionTap`. Default as many drawn patches as fill the text tower's context (OpenAI's L/14:
            76); MetaCLIP and DFN have "all", SigLIP "all" with `pool` 6 (at 384 pixels 10), DFN at 378 pixels half.
        draws: of `GenerativeFeedback`.

    Paper: Diffusion Feedback Helps CLIP See Better (arXiv 2407.20171).
    """
    refuse_bare_module(model, "diva")
    prompt = caption_condition(model, [EMPTY_PROMPT]).sequence
    assert prompt is not None
    if local is None:
        local = prompt.shape[1] - 1
    text_width = prompt.shape[2]
    tap = ConditionTap(model.embed_dim, sequence_width=text_width, local=local, pool=pool, prompt=prompt[0])
    corruption = DiffusionCorruption()
    network = PatchDenoiser(
        (3, side, side), patch=patch, width=width, depth=depth, heads=heads, sequence_width=text_width,
        last_time=len(corruption.schedule),
    )  # fmt: skip
    return GenerativeFeedback(network, corruption, tap, PixelTarget(side), draws=draws, told_by="captions")


def un2clip(
    model: ImageTextModel,
    *,
    side: int = 64,
    patch: int = 4,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    prediction: Literal["epsilon", "v_prediction"] = "epsilon",
) -> GenerativeFeedback:
    """un2CLIP: a generator of embeddings (unCLIP's decoder) is inverted: it rests, and the encoder learns.

    The embedding joins the embedding of the time as it is: no layer of the second stage could turn it away from the
    text. In the paper Stable unCLIP 2.1 on latents; where a tower has no such generator, a first stage trains one.

    Args:
        model: whose embeddings are the condition.
        side: of the generated pictures, in pixels.
        patch, width, depth, heads: of `PatchDenoiser`.
        prediction: `target` of `DiffusionCorruption`.

    Paper: un2CLIP: Improving CLIP's Visual Detail Capturing Ability via Inverting unCLIP (arXiv 2505.24517).
    """
    refuse_bare_module(model, "un2clip")
    tap = ConditionTap(model.embed_dim, pooled_width=model.embed_dim, bridge=None)
    corruption = DiffusionCorruption(target=prediction)
    network = PatchDenoiser(
        (3, side, side), patch=patch, width=width, depth=depth, heads=heads, pooled_width=model.embed_dim,
        last_time=len(corruption.schedule),
    )  # fmt: skip
    return GenerativeFeedback(network, corruption, tap, PixelTarget(side))


FEEDBACK: dict[str, Callable[..., GenerativeFeedback]] = {"diva": diva, "genhancer": genhancer, "un2clip": un2clip}
"""By the names that recipes have: `(model, **settings) -> GenerativeFeedback`."""


@torch.no_grad()
def caption_condition(model: ImageTextModel, captions: TokenIds | Sequence[str]) -> ImageCondition:
    """The states of all words of captions, after the text tower's last norm, as a sequence of its whole context.

    Args:
        model: whose text tower is asked, without gradients.
        captions: texts, or what `model.tokenize` makes of them, at the tower's context length.
    """
    refuse_bare_module(model, "caption_condition")
    if not len(captions):
        raise UsageError("captions is empty: give at least one")
    tokens = captions if hasattr(captions, "ids") else model.tokenize(list(captions))
    tower = model.text_tower
    return ImageCondition(sequence=tower.states(tower.run(tower.embed(tokens))))
