"""`TinyVLM`: patches of a frozen image tower, a linear map, and a causal decoder that answers short questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.files.checkpoint import configured, guarded
from binderclip.models.files.folders import bundled_of, read_folder, write_folder
from binderclip.models.loading import load
from binderclip.models.towers import open_image_tower
from binderclip.models.towers.tokens import Tokens
from binderclip.models.vision_language.decoder import Decoder, DecoderNet

if TYPE_CHECKING:
    from binderclip.models.image_text.model import ImageTextModel

__all__ = ["CELLS", "PRESENCE", "WHERE", "TinyVLM", "load_vlm", "question_of", "save_vlm"]

KIND = "vision-language"
BUNDLED = "small-vlm"
FIRST = "<first>"
CELLS = tuple(f"{row}-{column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))
"""Answers to where something is: the cells of a 3 x 3 grid, row by row."""
PRESENCE = ("is there a {}", "do you see {}")
WHERE = ("where is the {}", "tell me where {}")
"""Both kinds of question in two wordings each, of four words; the last, which reads the image, is the class."""


def question_of(wording: str, name: str) -> str:
    """A question about a class, such as `question_of(WHERE[0], "cat")`."""
    return wording.format(name)


class TinyVLM(nn.Module):
    """A small vision-language model with what token pruning needs: many image tokens, rotary positions, a causal mask.

    The image tower rests; its tokens entering the last block, as LLaVA takes them, go through a linear map and stand
    between a first word and the question. `decoder` runs them and may be given an `on_block`; the answer is the word
    that follows the question.

    Args:
        encoder: an image-text model whose image tower is used. It is no part of the parameters, the state or `.to`.
        names: classes that it is asked about, one word each.
        width: of the decoder's residual stream. depth: its layers. heads: of its attention.
        ratio: hidden units of a layer over the width.
        theta: base of the rotary wavelengths.
    """

    def __init__(
        self,
        encoder: ImageTextModel,
        names: Sequence[str],
        *,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        ratio: int = 2,
        theta: float = 10_000.0,
    ) -> None:
        refuse_bare_module(encoder, "TinyVLM")
        super().__init__()
        self.settings: dict[str, Any] = {
            "names": list(names), "width": width, "depth": depth, "heads": heads, "ratio": ratio, "theta": theta,
        }  # fmt: skip
        wordings = " ".join((*PRESENCE, *WHERE)).replace("{}", "").split()
        self.names = tuple(names)
        self.words = tuple(dict.fromkeys((FIRST, *wordings, "yes", "no", *CELLS, *names)))
        self._ids = {word: number for number, word in enumerate(self.words)}
        self.tower = open_image_tower(encoder.backbone)  # no module, so no part of the state
        self.preprocess = encoder.preprocess
        rows, columns = self.tower.grid
        self.net = DecoderNet(
            self.tower.width, rows * columns, len(self.words), width=width, depth=depth, heads=heads, ratio=ratio
        )
        self.decoder = Decoder(self.net, theta=theta)

    def ids(self, questions: Sequence[str]) -> Int[Tensor, "B Q"]:
        """Word numbers of questions of equal length.

        Raises:
            UsageError: no question, one with a word that the model does not know, or different lengths.
        """
        rows = [question.split() for question in questions]
        unknown = sorted({word for row in rows for word in row} - set(self._ids))
        if unknown:
            raise UsageError(f"the model does not know {', '.join(unknown[:5])}; it knows {', '.join(self.words)}")
        if not rows or not rows[0] or len({len(row) for row in rows}) > 1:
            raise UsageError(f"questions must be of one length of at least a word, got {[len(row) for row in rows]}")
        return torch.tensor([[self._ids[word] for word in row] for row in rows], device=self.net.words.weight.device)

    @torch.no_grad()
    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N F"]:
        """Patches of the image tower as they enter its last block.

        Args:
            images: in [0, 1], sides multiples of the tower's patch.
        """
        tower = self.tower
        tokens = tower.run(tower.embed(self.preprocess.normalize(images.to(tower.device))), stop=-1)
        return tokens.patches.to(self.net.words.weight)

    def embed(self, features: Float[Tensor, "B N F"], questions: Int[Tensor, "B Q"]) -> Tokens:
        """`[first word | image | question]` as the decoder takes it: a prefix of one, the question as `extra`.

        Args:
            features: of `features`.
            questions: of `ids`.

        Raises:
            UsageError: images of another size than the tower's, or as many questions as images are missing.
        """
        expected = (len(questions), len(self.net.places), self.tower.width)
        if tuple(features.shape) != expected:
            raise UsageError(
                f"one question an image of {self.tower.image_size} px: features of shape {expected}, got "
                f"{tuple(features.shape)}"
            )
        words = self.net.words
        first = words.weight[self._ids[FIRST]].expand(len(features), 1, -1)
        x = torch.cat([first, self.net.connect(features) + self.net.places, words(questions)], 1)
        positions = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
        return Tokens(x, positions, grid=self.tower.grid, prefix=1, extra=questions.shape[1], causal=True)

    def read(self, tokens: Tokens) -> Float[Tensor, "B V"]:
        """Logits of the word that follows, of tokens that left the decoder."""
        return self.decoder.project(self.decoder.pool(tokens))

    def forward(self, images: Float[Tensor, "B 3 H W"], questions: Sequence[str]) -> Float[Tensor, "B V"]:
        """Images in [0, 1] and a question each -> logits of every word as the answer."""
        return self.read(self.decoder.run(self.embed(self.features(images), self.ids(questions))))

    @torch.no_grad()
    def answer(self, images: Float[Tensor, "B 3 H W"], questions: Sequence[str]) -> list[str]:
        """The most probable word after each question."""
        return [self.words[number] for number in self(images, questions).argmax(-1).tolist()]


def save_vlm(model: TinyVLM, folder: str | Path, *, card: dict[str, Any], dtype: str = "float16") -> Path:
    """Write the decoder of a `TinyVLM` into a folder that `load_vlm` takes; the image tower is named, not stored.

    Args:
        model: on the image tower of the bundled `small`.
        folder: is made where it is missing.
        card: recipe, data and figures, as JSON.
        dtype: of the stored weights: "float32", "float16" or "int8".
    """
    config = {"encoder": "small", "network": model.settings}
    return write_folder(folder, kind=KIND, config=config, state=model.net.state_dict(), card=card, dtype=dtype)


def load_vlm(source: str | Path = BUNDLED) -> TinyVLM:
    """Read a folder that `save_vlm` wrote, or the bundled `small-vlm`; in eval mode.

    Raises:
        UsageError: no such name or folder.
        CheckpointError: another kind of model, or damaged weights.
    """
    bundled = bundled_of(KIND)
    folder = bundled.get(str(source), Path(source))
    if not folder.is_dir():
        raise UsageError(f"there is no model or folder {str(source)!r}; bundled: {', '.join(bundled) or 'none'}")
    read = read_folder(folder, KIND)
    encoder = configured(lambda: load(read.config["encoder"]), folder)
    model = configured(lambda: TinyVLM(encoder, **read.config["network"]), folder)
    guarded(lambda: model.net.load_state_dict(read.state), folder, "this version")
    return model.eval()
