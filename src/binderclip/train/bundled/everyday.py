"""How the bundled `everyday` was made: the towers of `small`, the classifier `lite0`, and a table between them.

`write_everyday(".../bundled/everyday")` needs Debian's wordnet-base and the packages of `labelled_photographs`. Nothing
is trained but two linear probes; the settings were chosen on the split "choose" with scenes of "learn" alone, and the
scenes that ship are those of both. The split "report" was measured afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from binderclip.curate import word_forms
from binderclip.data import load_data, to_tensor
from binderclip.documents import compact_json, json_text, parse_json
from binderclip.files import make_folder, write_whole
from binderclip.models import ImageTextModel, load
from binderclip.models.files import folders, registry
from binderclip.models.image_text.concepts import HEAD, ConceptBranch, folded_lite0
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.models.image_text.word_maps import SIDES, PictureConcepts
from binderclip.train.bundled.data.labelled_photographs import (
    LabelledPhotograph,
    load_labelled_photographs,
    load_region_photographs,
)
from binderclip.train.bundled.data.photograph_masks import load_photograph_masks, load_photograph_regions
from binderclip.train.bundled.data.synsets import (
    everyday_words,
    hypernym_chain,
    imagenet_synsets,
    kinds,
    noun_synsets,
    senses,
)
from binderclip.train.bundled.regions import PEOPLE, fit_regions, region_cells, region_vocabulary
from binderclip.train.bundled.teachers import find_part, imagenet_names

__all__ = [
    "EverydaySettings",
    "class_vectors",
    "people_probe",
    "photograph_probe",
    "scenes",
    "shows_people",
    "usual_maxima",
    "with_people",
    "write_everyday",
]

DRAWINGS = 300
"""Of each pack, to tell photographs from."""
WORN = ("person", "clothing", "spectacles")
"""Words of `PEOPLE` mean what these do as well."""
PROBE_SCALE = 30.0
"""Of the cosines of `people_probe`, whose slope is penalised in the unit of the scenes' logits."""
LONGEST = 1024
"""Pixels of the long side that photographs are reduced to first, as for the figures of masks."""


@dataclass(frozen=True)
class EverydaySettings:
    """What was chosen on the split "choose".

    Attributes:
        decay, depth: weights of what a class is a kind of, decay^k for the k-th step, and how many steps count.
        weight: of z beside the unit embedding of the tower.
        sharpness, level: of the scenes' cosines.
        least: photographs that a scene needs.
        hubness: weights of the correction of pictures and of texts; the largest that leave recall at 10 on each pack
            of drawings (validation splits, both ways) within a point of `small`'s.
        scale: factor on the similarities, by the likelihood of the right labels.
        people: part of z that people take where the probe is certain of them; half, since what they wear and hold is
            right as well. It was not chosen on anything.
    """

    decay: float = 0.5
    depth: int = 3
    weight: float = 2.0
    sharpness: float = 30.0
    level: float = 0.1
    least: int = 2
    hubness: tuple[float, float] = (0.1, 0.2)
    scale: float = 20.0
    people: float = 0.5


def class_vectors(
    model: ImageTextModel, wordnet: Path, *, decay: float = 0.5, depth: int = 3
) -> Float[Tensor, "1000 E"]:
    """Where ImageNet's classes lie among texts: unit sums of the names of a class and of what it is a kind of.

    Args:
        model: encodes the names.
        wordnet: folder of its files.
        decay: the k-th step up counts decay^k.
        depth: steps.
    """
    synsets = noun_synsets(wordnet)
    chains = [hypernym_chain(offset, synsets)[: depth + 1] for offset in imagenet_synsets()]
    words = sorted({lemma for chain in chains for synset in chain for lemma in synset.lemmas})
    with torch.no_grad():
        rows = dict(zip(words, model.encode_text(words, normalize=True), strict=True))
    unit = functional.normalize
    places = [
        sum(
            decay**step * unit(torch.stack([rows[lemma] for lemma in synset.lemmas]).mean(0), dim=0)
            for step, synset in enumerate(chain)
        )
        for chain in chains
    ]
    return unit(torch.stack(places), dim=-1)  # type: ignore[arg-type]


def pooled_features(branch: ConceptBranch, pictures: Sequence[object]) -> Float[Tensor, "N 1280"]:
    """Mean of the classifier's last map, as `everyday` sees pictures."""
    pixels = Preprocess(size=(224, 224), mean=(0.0,) * 3, std=(1.0,) * 3)
    with torch.no_grad():
        return torch.cat([branch.features(pixels(picture)).mean((2, 3)) for picture in pictures])  # type: ignore[arg-type]


def scenes(
    photographs: Sequence[LabelledPhotograph],
    features: Float[Tensor, "N 1280"],
    named: Mapping[str, Sequence[int]],
    *,
    least: int = 2,
) -> dict[str, Float[Tensor, "1280"]]:
    """Word -> mean direction of the photographs that it is right for, of words that ImageNet has no class for.

    Args:
        photographs: with their labels.
        features: of theirs, less the mean of all.
        named: words of classes and kinds (`synsets.kinds`).
        least: photographs that a word needs.
    """
    unit, members = functional.normalize(features, dim=-1), dict[str, list[int]]()
    for index, photograph in enumerate(photographs):
        for word in (photograph.label, *photograph.also):
            if not word_forms(word) & named.keys():
                members.setdefault(word, []).append(index)
    return {
        word: functional.normalize(unit[own].mean(0), dim=0)
        for word, own in sorted(members.items())
        if len(own) >= least
    }


def with_people(senses: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Senses in which a word for a person means what people wear as well: ImageNet has three classes of people.

    On the photographs of "learn" and "choose", five of which show people well, that tells these from the others with an
    AUROC of .99 for "person" (.97 without) and .99 for "woman" (.87).

    Args:
        senses: word -> concepts.
    """
    worn = {index for word in WORN for index in senses.get(word, ())}
    return {word: list(own) for word, own in senses.items()} | {
        word: sorted(worn.union(senses.get(word, ()))) for word in PEOPLE
    }


@torch.no_grad()
def usual_maxima(
    branch: ConceptBranch, photographs: Sequence[LabelledPhotograph], *, count: int = 64, seed: int = 0
) -> tuple[Float[Tensor, "K"], Float[Tensor, "n E"]]:
    """What photographs usually show: the median of each concept's largest probability, and some of their places.

    Args:
        branch: with its scenes.
        photographs: seen as masks see them, at the middle side.
        count: places in the text space, drawn from four of each photograph.
        seed: of the draw.
    """
    maxima, places = [], []
    for photograph in photographs:
        picture = photograph.open()
        picture.thumbnail((LONGEST, LONGEST))
        logits = PictureConcepts(branch, to_tensor(picture)[None]).logits(sorted(SIDES)[len(SIDES) // 2])
        probabilities = logits.flatten(1).softmax(0)  # (K, n)
        maxima.append(probabilities.amax(1))
        four = torch.linspace(0, probabilities.shape[1] - 1, 4).long()
        places.append(functional.normalize(probabilities[:, four].T @ branch.vectors.float(), dim=-1))
    drawn = torch.randperm(4 * len(places), generator=torch.Generator().manual_seed(seed))[:count]
    return torch.stack(maxima).median(0).values, torch.cat(places)[drawn]


def photograph_probe(
    photographs: Float[Tensor, "N 1280"], drawings: Float[Tensor, "M 1280"]
) -> tuple[Float[Tensor, "1280"], float]:
    """Weights and offset of a linear probe for photographs among drawings, both sides weighing alike."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    x = torch.cat([photographs, drawings]).numpy()
    probe = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000)
    probe.fit(x, np.repeat([1, 0], [len(photographs), len(drawings)]))
    return torch.from_numpy(probe.coef_[0]).float(), float(probe.intercept_[0])


def shows_people(photograph: LabelledPhotograph) -> bool | None:
    """Whether a photograph is of people; None where they are beside its subject, or it is a cut-out."""
    if not {photograph.label, *photograph.also}.isdisjoint(PEOPLE):
        return True if photograph.kind == "photograph" else None
    return False if set(photograph.shows).isdisjoint(PEOPLE) else None


def people_probe(
    people: Float[Tensor, "N 1280"], others: Float[Tensor, "M 1280"]
) -> tuple[Float[Tensor, "1280"], float]:
    """Weights and offset of a probe for people among photographs: a logistic curve over the cosine with their mean.

    Ten pictures cannot carry 1,280 weights; the curve has two, and each picture of people is compared with the mean of
    the other ones, as a new picture will be.

    Args:
        people: unit features less the centre of photographs of people, two or more.
        others: those of photographs without.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    mean = functional.normalize(people.sum(0), dim=0)
    left_out = functional.normalize(people.sum(0) - people, dim=1)  # (N, 1280)
    cosines = torch.cat([(people * left_out).sum(1), others @ mean])  # (N + M,)
    # The scale makes the penalty on the slope small.
    curve = LogisticRegression(C=PROBE_SCALE**2, class_weight="balanced", max_iter=1000)
    curve.fit(cosines[:, None].double().numpy(), np.repeat([1, 0], [len(people), len(others)]))
    return float(curve.coef_[0, 0]) * mean, float(curve.intercept_[0])


def write_everyday(
    folder: str | Path,
    parts: Mapping[str, str] | None = None,
    *,
    root: str | Path | Mapping[str, str | Path] = "/",
    settings: EverydaySettings | None = None,
    splits: Sequence[str] = ("learn", "choose"),
) -> Path:
    """Write the folder that `load("everyday")` opens; `small` and `lite0` lie beside it and are not copied.

    Args:
        folder: the new folder; its name is the model's.
        parts: paths of the pretrained parts; `wordnet` is read here.
        root: where the packages of the photographs are (`load_labelled_photographs`).
        settings: others than the chosen ones.
        splits: whose photographs give scenes and the probe.

    Raises:
        MissingDependency: WordNet is not on this machine; says what to install. DataError: photographs are not.
    """
    chosen, folder = settings or EverydaySettings(), Path(folder)
    model, wordnet = load("small"), find_part("wordnet", parts)
    vectors = class_vectors(model, wordnet, decay=chosen.decay, depth=chosen.depth)
    synsets, order = noun_synsets(wordnet), senses(wordnet)
    named = kinds(imagenet_synsets(), synsets, order)
    branch = ConceptBranch(
        [names[0] for names in imagenet_names()], vectors, torch.zeros(0, HEAD), torch.zeros(HEAD),
        torch.zeros(len(vectors)), vectors[:0], sharpness=1, level=0,
    ).eval()  # fmt: skip
    branch.load_state_dict(folded_lite0(load_file(registry.BUNDLED / "lite0" / folders.WEIGHTS)), strict=False)
    photographs = [each for split in splits for each in load_labelled_photographs(split, root=root)]  # type: ignore[arg-type]
    features = pooled_features(branch, [each.open() for each in photographs])
    centre = features.mean(0)
    places = scenes(photographs, features - centre, named, least=chosen.least)
    drawings = []
    for pack in ("openclipart", "noto-emoji", "icons"):
        data = load_data(pack, split="train")
        drawings += [data[i].image for i in range(0, len(data), max(1, len(data) // DRAWINGS))]
    weight, offset = photograph_probe(features, pooled_features(branch, drawings))
    with torch.no_grad():
        words = model.encode_text(list(places), normalize=True)
        human = functional.normalize(model.encode_text(list(PEOPLE), normalize=True).mean(0), dim=0)
    # Which photographs were at hand must not make people men: their words have one place.
    words[[word in PEOPLE for word in places]] = human
    more = [each for split in splits for each in load_region_photographs(split, root=root)]  # type: ignore[arg-type]
    seen = torch.cat([features, pooled_features(branch, [each.open() for each in more])])
    of_people = [shows_people(each) for each in [*photographs, *more]]
    people = people_probe(
        *(functional.normalize(seen[[each is what for each in of_people]] - centre, dim=1) for what in (True, False))
    )
    branch.vectors, branch.centre = torch.cat([vectors, words]), centre
    branch.prototypes, branch.sharpness, branch.level = (
        torch.stack(list(places.values())),
        chosen.sharpness,
        chosen.level,
    )
    usual, usual_places = usual_maxima(branch, photographs)
    outlines, things = (
        [each for split in splits for each in load_outlines(split, root=root)]  # type: ignore[arg-type]
        for load_outlines in (load_photograph_regions, load_photograph_masks)
    )
    regions = fit_regions(*region_cells(branch, outlines, things), region_vocabulary(synsets, order))
    tensors = {
        "vectors": branch.vectors.half(),
        "prototypes": branch.prototypes.half(),
        "centre": centre.half(),
        "usual": usual.half(),
        "usual_places": usual_places.half(),
        "regions.weight": regions.weight.half(),
        "regions.bias": regions.bias.half(),
        "people.weight": people[0].half(),
        "people.bias": torch.tensor([people[1]]).half(),
        "people.vector": human.half(),
        "photograph.weight": weight[None].half(),
        "photograph.bias": torch.tensor([offset]).half(),
    }
    about = {
        "names": [*branch.names, *places],
        "sharpness": chosen.sharpness,
        "level": chosen.level,
        # Words of classes and of what they are kinds of, or by hand; scenes have no class and are their own.
        "senses": with_people(
            named
            | everyday_words(imagenet_names())
            | {word: [len(branch.names) + place] for place, word in enumerate(places)}
        ),
        "regions": {"names": regions.names, "words": regions.table()},
        "people": {"portion": chosen.people},
        "weight": chosen.weight,
        "logit_scale": torch.tensor(chosen.scale).log().item(),
        "hubness": list(chosen.hubness),
        "sides": [224, 128],
    }
    make_folder(folder)
    config = parse_json((registry.BUNDLED / "small" / registry.CONFIG).read_text(encoding="utf-8"))
    config["binderclip"] = {"concepts": True, "towers": "small", "classifier": "lite0"}
    write_whole(folder / registry.CONFIG, json_text(config) + "\n")
    card = {
        "name": folder.name,
        "summary": "photographs and drawings: small, with lite0's 1,000 classes as points of its text space; 224 px",
        "how": "Convex combination of semantic embeddings: a picture is unit(small) + weight g sum_c p(c) v(c), with p "
        "of lite0 and of scenes that photographs name, v the names of a class and of its WordNet hypernyms, g the "
        "probability that the picture is a photograph; of z half becomes the place of people where a probe sees them. "
        "Nothing was trained but the two probes and, for masks of what has no outline of its own, a linear classifier "
        "of places, by regions outlined by hand.",
        "settings": asdict(chosen),
        "photographs": {
            "splits": list(splits),
            "count": len(photographs),
            "people": of_people.count(True),
            "drawings": len(drawings),
        },
        "scenes": list(places),
    }
    write_whole(folder / "card.json", json_text(card) + "\n")
    metadata = {"format": "pt", "binderclip": compact_json(about)}
    write_whole(folder / registry.CONCEPTS, lambda draft: save_file(tensors, draft, metadata))
    return folder
