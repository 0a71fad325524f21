"""A classifier of photographs beside an image tower: its classes are points of the text space and pull pictures there.

Convex combination of semantic embeddings (ConSE): z = sum_c p(c) v(c), where p is the softmax of the classifier and
v(c) the place of class c in the space of the texts. z is not normalised: where the classifier is unsure it is short,
and the image tower decides. `ConceptBackbone` adds z to the tower's unit embedding, so that pictures stay vectors of
the same space, and indexes, heads and text banks work on them unchanged.

Paper: Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings, ICLR 2014 (arXiv 1312.5650).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.bundled.encoder import HEAD, LITE0, Lite, SameConv2d
from binderclip.models.image_text.regions import RegionClassifier
from binderclip.models.text.word_forms import plain_forms
from binderclip.similarity.hubness import CSLS

__all__ = ["ConceptBackbone", "ConceptBranch", "PeopleProbe", "folded_lite0"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
LITE_MEAN, LITE_STD = 127 / 255, 128 / 255
"""The weights of EfficientNet-Lite take (255 p - 127) / 128 for pixels p in [0, 1]."""
STRIDE = 32


class PeopleProbe(nn.Module):
    """Whether pictures show people, whom ImageNet has three classes of: what they wear is named instead.

    Of z, the part q `portion` becomes the place of people among texts, q the probability of people: a portrait in a hat
    shows both. There is one place for all people, so that women and men are pulled alike.

    Args:
        weight: (1280,) of a logistic probe on unit features less the centre. bias: its offset.
        vector: (E,) unit place of people among texts.
        portion: of z, in [0, 1], that people take where they are certain.
    """

    weight: Tensor
    bias: Tensor
    vector: Tensor

    def __init__(
        self, weight: Float[Tensor, "D"], bias: Float[Tensor, "1"], vector: Float[Tensor, "E"], *, portion: float
    ) -> None:
        super().__init__()
        self.portion = float(portion)
        self.register_buffer("weight", weight.float())
        self.register_buffer("bias", bias.float())
        self.register_buffer("vector", functional.normalize(vector.float(), dim=-1))

    def forward(self, centred: Float[Tensor, "*n D"]) -> Float[Tensor, "*n 1"]:
        """The probability of people, from unit features less the centre."""
        return (centred @ self.weight.to(centred.dtype) + self.bias.to(centred.dtype)).sigmoid().unsqueeze(-1)

    def mix(self, z: Float[Tensor, "*n E"], centred: Float[Tensor, "*n D"]) -> Float[Tensor, "*n E"]:
        """z with the place of people in it."""
        part = self.portion * self(centred).to(z.dtype)  # (*n, 1)
        return torch.lerp(z, self.vector.to(z.dtype).expand_as(z), part)


class ConceptBranch(nn.Module):
    """Pictures -> probabilities of concepts -> a point of the text space.

    The concepts are the classes of an EfficientNet-Lite0 trained on ImageNet, and scenes that ImageNet has no class
    for, known by the mean features of a few labelled photographs; one softmax runs over both.

    Args:
        names: of the K concepts, the classifier's classes first.
        vectors: (K, E) unit vectors, the places of the concepts in the text space.
        prototypes: (S, 1280) mean directions of the scenes' features less `centre`, K = C + S with C classes.
        centre: (1280,) mean feature of photographs.
        usual: (K,) the median over photographs of the largest probability of each concept at any place.
        usual_places: (U, E) unit places in the text space of places of photographs.
        sharpness: of the scenes' cosines: their logit is `sharpness` (cos - `level`).
        level: the cosine at which a scene's logit is 0.
        senses: words in small letters -> the concepts that they name, or that are kinds of what they name; a word that
            is not in it is known by its place among texts alone.
        regions: tells what has no outline of its own, such as sky; None for nothing of the kind.
        people: tells whole pictures of people; None where the concepts alone say so.

    Raises:
        UsageError: counts that do not fit each other.
    """

    vectors: Tensor
    prototypes: Tensor
    centre: Tensor
    usual: Tensor
    usual_places: Tensor

    def __init__(
        self,
        names: Sequence[str],
        vectors: Float[Tensor, "K E"],
        prototypes: Float[Tensor, "S D"],
        centre: Float[Tensor, "D"],
        usual: Float[Tensor, "K"],
        usual_places: Float[Tensor, "U E"],
        *,
        sharpness: float,
        level: float,
        senses: Mapping[str, Sequence[int]] | None = None,
        regions: RegionClassifier | None = None,
        people: PeopleProbe | None = None,
    ) -> None:
        super().__init__()
        if not len(names) == len(vectors) == len(usual) > len(prototypes):
            raise UsageError(
                f"{len(names)} names, {len(vectors)} vectors, {len(usual)} usual probabilities and {len(prototypes)} "
                "prototypes do not fit"
            )
        self.names, self.sharpness, self.level = list(names), float(sharpness), float(level)
        self.senses = {word: [int(index) for index in own] for word, own in (senses or {}).items()}
        if any(not 0 <= index < len(names) for own in self.senses.values() for index in own):
            raise UsageError(f"senses name concepts beyond the {len(names)}")
        self.regions = regions
        self.people = people
        self.trunk = Lite(LITE0, STRIDE)
        for module in self.trunk.modules():
            if isinstance(module, SameConv2d):
                module.in_kernel = True
        self.classifier = nn.Linear(HEAD, len(names) - len(prototypes))
        # A drawing has little to do with ImageNet, and the tower knows drawings: a linear probe tells them apart.
        self.photograph = nn.Linear(HEAD, 1)
        self.register_buffer("vectors", functional.normalize(vectors.float(), dim=-1))
        self.register_buffer("prototypes", functional.normalize(prototypes.float(), dim=-1))
        self.register_buffer("centre", centre.float())
        # They change no embedding, so that they must not change the fingerprint of a model, which is over its state.
        self.register_buffer("usual", usual.float(), persistent=False)
        self.register_buffer("usual_places", functional.normalize(usual_places.float(), dim=-1), persistent=False)

    def extra_repr(self) -> str:
        return f"concepts={len(self.names)}, scenes={len(self.prototypes)}, width={self.vectors.shape[1]}"

    def tensors(self) -> dict[str, Tensor]:
        """All that a file of concepts holds beside the settings."""
        known = {**self.state_dict(), "usual": self.usual, "usual_places": self.usual_places}
        if self.regions is not None:
            known |= {"regions.weight": self.regions.weight, "regions.bias": self.regions.bias}
        return known

    def features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D h w"]:
        """The last map of pictures in [0, 1], one place for 32 pixels."""
        return self.trunk(((images - LITE_MEAN) / LITE_STD).to(self.photograph.weight.dtype))

    def logits(self, features: Float[Tensor, "*n D"]) -> Float[Tensor, "*n K"]:
        """Of pooled features, or of those of single places: of the classes, then of the scenes; float32 or better."""
        classes = self.classifier(features)  # (*n, C)
        classes = classes.float() if classes.dtype in (torch.float16, torch.bfloat16) else classes
        if not len(self.prototypes):
            return classes
        centred = self._centred(features.to(classes.dtype))
        cosines = centred @ self.prototypes.to(classes.dtype).T  # (*n, S)
        return torch.cat([classes, self.sharpness * (cosines - self.level)], -1)

    def probabilities(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K"]:
        """Of the concepts, for whole pictures in [0, 1]; the classifier was trained at 224 pixels."""
        return self.logits(self.features(images).mean((2, 3))).softmax(-1)

    def pull(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """z of whole pictures in [0, 1] times the probability that each is a photograph."""
        return self._pull(self.features(images))

    def pull_normalized(self, pixels: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """`pull` of pixels that CLIP's mean and std have normalised: one pass over them instead of three."""
        mean, std = _clip_statistics(pixels)
        scaled = torch.addcmul((mean - LITE_MEAN) / LITE_STD, pixels, std / LITE_STD)
        return self._pull(self.trunk(scaled.to(self.photograph.weight.dtype)))

    def _pull(self, features: Float[Tensor, "B D h w"]) -> Float[Tensor, "B E"]:
        pooled = features.mean((2, 3))  # (B, D)
        z = self.embed(self.logits(pooled).softmax(-1))
        if self.people is not None:
            z = self.people.mix(z, self._centred(pooled.to(z.dtype)))
        return self.photograph(pooled).sigmoid().to(z.dtype) * z

    def _centred(self, features: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
        return functional.normalize(features - self.centre.to(features.dtype), dim=-1)

    def logit_map(self, images: Float[Tensor, "B 3 H W"], side: int = 512) -> Float[Tensor, "B K h w"]:
        """The classifier applied at each place of `feature_map`, whose arguments it takes."""
        return self.logits(self.feature_map(images, side).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def feature_map(self, images: Float[Tensor, "B 3 H W"], side: int = 512) -> Float[Tensor, "B D h w"]:
        """The last map of pictures resized to a long side.

        Args:
            images: in [0, 1], any size.
            side: the long side in pixels that they are resized to first; both sides become multiples of 32.

        Raises:
            UsageError: a side below 32.
        """
        if side < STRIDE:
            raise UsageError(f"side={side}: at least {STRIDE}, one place of the map")
        longest = max(images.shape[-2:])
        height, width = (max(1, round(side * n / longest / STRIDE)) * STRIDE for n in images.shape[-2:])
        if images.shape[-2:] != (height, width):
            images = _resized(images, (height, width))
        return self.features(images)

    def embed(self, probabilities: Float[Tensor, "*n K"]) -> Float[Tensor, "*n E"]:
        """z = sum_c p(c) v(c): shorter than one, the less sure the shorter."""
        return probabilities @ self.vectors.to(probabilities.dtype)

    def meant(self, word: str) -> list[int]:
        """The concepts that a word names, or that are kinds of what it names; an article and plurals do not matter.

        A "mouse" is an animal and a "tree" no frog whose name has the word in it. Empty for a word that is not in
        `senses`.
        """
        return sorted({index for form in plain_forms(word) for index in self.senses.get(form, ())})

    def nearest(self, texts: Float[Tensor, "Q E"], count: int = 10) -> Int[Tensor, "Q n"]:
        """The concepts nearest to texts, by the cosine of their places."""
        cosines = functional.normalize(texts.float(), dim=-1) @ self.vectors.float().T
        return cosines.topk(min(count, len(self.names)), dim=-1).indices


class ConceptBackbone(nn.Module):
    """A backbone of open_clip's face whose pictures are unit(tower) + weight g z, of a `ConceptBranch`.

    g is the probability that a picture is a photograph. What looks inside (attention, tokens, traces, dense maps of the
    tower) sees the tower alone.

    Args:
        base: the model with `encode_image`, `encode_text`, `visual` and `text`.
        concepts: the classifier beside it.
        weight: of z.
        logit_scale: log of the factor on the similarities of the sum; the base's own belongs to the tower alone.
        hubness: weights of the correction of `similarity`, of pictures and of texts.
        sides: (of the pictures that come in, of those that the base takes) in pixels; another size keeps the ratio.
    """

    def __init__(
        self,
        base: nn.Module,
        concepts: ConceptBranch,
        *,
        weight: float,
        logit_scale: float,
        hubness: tuple[float, float],
        sides: tuple[int, int],
    ) -> None:
        super().__init__()
        self.base: Any = base  # another library's, which types cannot follow
        self.concepts = concepts
        self.weight, self.sides = float(weight), (int(sides[0]), int(sides[1]))
        self.hubness = (float(hubness[0]), float(hubness[1]))
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale)))

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.base.visual

    @property
    def text(self) -> nn.Module:
        """The text tower."""
        return self.base.text

    def similarity(self) -> CSLS:
        """Cosines less what a picture or text has in common with all classes of the classifier."""
        classes = self.concepts.vectors[: self.concepts.classifier.out_features]
        return CSLS(classes.detach(), image_weight=self.hubness[0], text_weight=self.hubness[1])

    def settings(self) -> dict[str, Any]:
        """What the file of the concepts says beside its tensors."""
        from binderclip.models.layers.int8.attention import int8_record

        return {
            "names": self.concepts.names,
            "sharpness": self.concepts.sharpness,
            "level": self.concepts.level,
            "senses": self.concepts.senses,
            "regions": None
            if self.concepts.regions is None
            else {
                "names": self.concepts.regions.names,
                "words": self.concepts.regions.table(),
            },
            "people": None if self.concepts.people is None else {"portion": self.concepts.people.portion},
            "int8": int8_record(self.concepts) or None,
            "weight": self.weight,
            "logit_scale": float(self.logit_scale.detach()),
            "hubness": list(self.hubness),
            "sides": list(self.sides),
        }

    def encode_image(self, image: Float[Tensor, "B 3 H W"], normalize: bool = False) -> Float[Tensor, "B E"]:
        """Features of pixels that CLIP's mean and std have normalised; unit(tower) + weight g z unless `normalize`."""
        mean, std = _clip_statistics(image)
        # The tower was trained on smaller pictures; sides stay multiples of its patch of 16.
        fitted = [max(1, round(n * self.sides[1] / self.sides[0] / 16)) * 16 for n in image.shape[-2:]]
        # A resize is linear and its weights add up to one, so that normalised pixels may be resized as they are.
        small = _resized(image, (fitted[0], fitted[1]), (-mean / std, (1 - mean) / std))
        tower = self.base.encode_image(small, normalize=False)
        tower = functional.normalize(tower.float() if tower.dtype != torch.float64 else tower, dim=-1)
        features = tower + self.weight * self.concepts.pull_normalized(image).to(tower.dtype)
        return functional.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Int[Tensor, "Q L"], normalize: bool = False) -> Float[Tensor, "Q E"]:
        """Features of token ids, those of the base."""
        return self.base.encode_text(text, normalize=normalize)


def _clip_statistics(pixels: Tensor) -> tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]]:
    """CLIP's mean and standard deviation of the channels, for pixels in [0, 1]."""
    return pixels.new_tensor(CLIP_MEAN).view(3, 1, 1), pixels.new_tensor(CLIP_STD).view(3, 1, 1)


def _resized(
    images: Float[Tensor, "B 3 H W"],
    size: tuple[int, int],
    bounds: tuple[Float[Tensor, "3 1 1"], Float[Tensor, "3 1 1"]] | None = None,
) -> Float[Tensor, "B 3 h w"]:
    """As `Preprocess.fit` resizes: bicubic, antialiased, its overshoot beyond `bounds`, [0, 1] by default, cut off."""
    # A processor has no antialiased resizing in half precision.
    wide = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    resized = functional.interpolate(wide, size=size, mode="bicubic", antialias=True).to(images.dtype)
    return resized.clamp(0, 1) if bounds is None else resized.clamp(*bounds)


def folded_lite0(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of timm's `tf_efficientnet_lite0` as those of a `ConceptBranch`'s trunk and classifier.

    Each convolution takes up the batch normalisation behind it (exact in evaluation mode): with s = gamma / sqrt(var +
    eps), weights times s and bias beta - s mean.

    Args:
        state: under timm's names, as `load_vision("lite0")` holds them.

    Raises:
        CheckpointError: a tensor is missing.
    """
    folded: dict[str, Tensor] = {}
    try:
        for name in [key for key in state if key.endswith(".weight") and state[key].ndim == 4]:
            conv = name.removesuffix(".weight")
            scale = state[_norm_of(conv, state) + ".weight"].float()
            norm = _norm_of(conv, state)
            scale = scale * (state[norm + ".running_var"].float() + 1e-3).rsqrt()  # TensorFlow's epsilon
            target = conv.replace("conv_stem", "stem").replace("conv_head", "head").replace("blocks.", "stages.")
            folded[f"trunk.{target}.weight"] = state[name].float() * scale.view(-1, 1, 1, 1)
            folded[f"trunk.{target}.bias"] = (
                state[norm + ".bias"].float() - scale * state[norm + ".running_mean"].float()
            )
        for part in ("weight", "bias"):
            folded[f"classifier.{part}"] = state[f"classifier.{part}"].float()
    except KeyError as error:
        raise CheckpointError(f"the classifier has no tensor {error.args[0]!r}") from error
    return folded


def _norm_of(conv: str, state: Mapping[str, Tensor]) -> str:
    """The batch normalisation behind a convolution: in a block they are numbered in the order of execution."""
    parent, _, own = conv.rpartition(".")
    if not parent:
        return {"conv_stem": "bn1", "conv_head": "bn2"}[own]
    order = ("conv_pw", "conv_dw", "conv_pwl") if f"{parent}.conv_pwl.weight" in state else ("conv_dw", "conv_pw")
    return f"{parent}.bn{order.index(own) + 1}"
