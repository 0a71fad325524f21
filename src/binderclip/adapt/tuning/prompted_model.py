"""A frozen image-text model that sees every picture through learned prompts: pixels, and tokens beside the patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.predictor import ZeroShotPredictor
from binderclip.models.towers.tokens import append_tokens

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel, TextBank

__all__ = ["PromptedModel", "TokenPrompt"]


class TokenPrompt(nn.Module):
    """Learned tokens, the same for all pictures, that stand behind the patch tokens and have no position.

    Args:
        count: how many; the paper's range is 10 to 100.
        width: of the tower's tokens.
        seed: of their standard normal start.

    Raises:
        UsageError: no token.

    Paper: Understanding Zero-Shot Adversarial Robustness for Large-Scale Models (arXiv 2212.07016).
    """

    def __init__(self, count: int, width: int, *, seed: int = 0) -> None:
        super().__init__()
        if count < 1:
            raise UsageError(f"a token prompt needs at least one token, not {count}")
        self.tokens = nn.Parameter(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)))

    def forward(self) -> Float[Tensor, "1 R D"]:
        """The tokens, for `append_tokens`."""
        return self.tokens[None]


class PromptedModel(nn.Module):
    """An image-text model, its pictures changed by a prompt on pixels, one of tokens, or both.

    Tokens join the patches before the tower's first norm (`norm_pre`); they attend and are attended to, but are not
    pooled. The model itself is neither copied nor changed; with no prompt it is the model at another input size.

    Args:
        model: the `ImageTextModel`.
        pixels: a module from pictures (B, 3, S, S) in [0, 1] to prompted ones, such as `PixelPrompt(S, ...)`.
        tokens: a `TokenPrompt` of the tower's width, or how many to make.
        size: input side S in pixels; default the model's own. Pictures are resized to it.

    Raises:
        UsageError: tokens of another width than the tower's.

    Examples:
        >>> prompt = PixelPrompt(128, init="normal", space="normalised")            # doctest: +SKIP
        >>> predictor = PromptedModel(model, prompt, tokens=10).predictor(["a cat", "a dog"])  # doctest: +SKIP

    Paper: Understanding Zero-Shot Adversarial Robustness for Large-Scale Models (arXiv 2212.07016).
    """

    def __init__(
        self,
        model: ImageTextModel,
        pixels: nn.Module | None = None,
        tokens: TokenPrompt | int | None = None,
        *,
        size: int | None = None,
    ) -> None:
        refuse_bare_module(model, "PromptedModel")
        super().__init__()
        self.model, self.pixels = model, pixels
        self.tokens = TokenPrompt(tokens, model.image_tower.width) if isinstance(tokens, int) else tokens
        if self.tokens is not None and self.tokens.tokens.shape[1] != model.image_tower.width:
            raise UsageError(
                f"the tokens have a width of {self.tokens.tokens.shape[1]}, the tower's {model.image_tower.width}"
            )
        self.preprocess = model.preprocess.at(size)
        self.to(model.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def prompts(self) -> Iterator[nn.Parameter]:
        """What can be learned without changing the model."""
        for prompt in (self.pixels, self.tokens):
            if prompt is not None:
                yield from prompt.parameters()

    def encode_image(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Raw features of the prompted pictures, differentiable.

        Args:
            images: in [0, 1], of any size.
        """
        shown = self.preprocess.fit(images.to(self.device))
        if self.pixels is not None:
            shown = self.pixels(shown)
        normal = self.preprocess.normalize(shown)
        if self.tokens is None and tuple(normal.shape[-2:]) == tuple(self.model.preprocess.size):
            return self.model.encode_pixels(normal)
        tower = self.model.image_tower
        tokens = tower.embed(normal, norm=False)
        if self.tokens is not None:
            tokens = append_tokens(tokens, self.tokens())
        tokens = tokens.with_x(tower.norm_pre(tokens.x))
        return tower.project(tower.pool(tower.run(tokens))).float()

    def encode_text(self, texts: Sequence[str], *, normalize: bool = False) -> Float[Tensor, "Q E"]:
        """Text features of the model; prompts change pictures only."""
        features = self.model.encode_text(texts)
        return F.normalize(features, dim=-1) if normalize else features

    def predictor(
        self,
        labels: Sequence[str] | Mapping[str, Sequence[str]] | TextBank,
        *,
        templates: str | Sequence[str] | None = None,
        **options: Any,
    ) -> ZeroShotPredictor:
        """A zero-shot classifier of prompted pictures; see `ImageTextModel.predictor`."""
        from binderclip.models import TextBank

        bank = labels if isinstance(labels, TextBank) else self.model.text_bank(labels, templates)
        return ZeroShotPredictor(self, bank, **options)
