"""The concepts of a model folder: `concepts.safetensors`, beside the towers or beside those of a neighbour.

The table `binderclip` of the folder's configuration says where things are: `{"concepts": true}` where the file holds
the classifier's weights too, as `save` writes it, or `{"concepts": true, "towers": "small", "classifier": "lite0"}`,
which takes them from two neighbours so that nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files import folders, registry
from binderclip.models.files.checkpoint import check_weights_file, guarded
from binderclip.models.files.compact import INT8_CODES, dequantise
from binderclip.models.image_text.concepts import ConceptBackbone, ConceptBranch, PeopleProbe, folded_lite0
from binderclip.models.image_text.regions import RegionClassifier
from binderclip.settings import brief
from binderclip.similarity.hubness import CSLS

__all__ = ["with_concepts"]


def with_concepts(base: nn.Module, folder: Path, settings: Mapping[str, Any]) -> tuple[ConceptBackbone, CSLS]:
    """The towers with their concepts, and the similarity that corrects hubs.

    Args:
        base: the towers, with their weights.
        folder: the model folder.
        settings: its configuration's `binderclip` table.

    Raises:
        CheckpointError: a file that is missing, damaged or does not fit.
    """
    path = check_weights_file(folder / registry.CONCEPTS)
    tensors, about = guarded(lambda: _read(path), path, f"the concepts in {folder}")
    if about.get("weights", "float") not in ("float", "int4"):
        raise CheckpointError(f"{path}: weights stored as {brief(about['weights'])} cannot be read; float or int4 can")
    if about.get("weights") == "int4":
        tensors = dequantise(tensors)
    if "usual" not in tensors:
        raise CheckpointError(
            f"{path} was saved by binderclip 0.3.0, without what photographs usually show: save the model again"
        )
    if "classifier" in settings:
        other = folder.parent / str(settings["classifier"])
        weights = check_weights_file(other / folders.WEIGHTS)
        tensors |= folded_lite0(guarded(lambda: load_file(weights), weights, f"the classifier in {other}"))

    def build() -> ConceptBackbone:
        branch = ConceptBranch(
            about["names"],
            tensors["vectors"],
            tensors["prototypes"],
            tensors["centre"],
            tensors["usual"],
            tensors["usual_places"],
            sharpness=about["sharpness"],
            level=about["level"],
            senses=about.get("senses"),  # older files have none
            regions=_regions(about["regions"], tensors) if about.get("regions") else None,
            people=_people(about["people"], tensors) if about.get("people") else None,
        )
        apart = ("usual", "regions.")  # of no influence on embeddings, and so no part of the state
        if about.get("int8"):
            from binderclip.models.layers.int8.attention import set_int8  # few models have such layers

            set_int8(branch, about["int8"], where="int8")
        state = {
            name: value if name.endswith(INT8_CODES) else value.float()
            for name, value in tensors.items()
            if not name.startswith(apart)
        }
        branch.load_state_dict(state, strict=True)
        return ConceptBackbone(
            base,
            branch,
            weight=about["weight"],
            logit_scale=about["logit_scale"],
            hubness=(about["hubness"][0], about["hubness"][1]),
            sides=(about["sides"][0], about["sides"][1]),
        )

    try:
        backbone = build()
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, UsageError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} does not hold the concepts of this model: {reason}") from error
    return backbone, backbone.similarity()


def _regions(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> RegionClassifier:
    words = {word: (region, whole) for word, (region, whole) in about["words"].items()}
    return RegionClassifier(about["names"], tensors["regions.weight"], tensors["regions.bias"], words)


def _people(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PeopleProbe:
    weight, bias, vector = (tensors[f"people.{name}"] for name in ("weight", "bias", "vector"))
    return PeopleProbe(weight, bias, vector, portion=about["portion"])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        about = parse_json((file.metadata() or {}).get("binderclip", "null"))
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    if not isinstance(about, dict):
        raise CheckpointError(f"{path} is not a file of concepts: it has no settings")
    return tensors, about
