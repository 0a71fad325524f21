"""binderclip.data: image-text sets, the bundled picture packs, augmentation, scenes with exact masks, caches, moments.

Every name is imported when it is first used, so `import binderclip.data` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

# module -> its public names; `from binderclip.data import <name>` imports only that module.
_EXPORTS: dict[str, tuple[str, ...]] = {
    "augment.augment": ("Augment",),
    "sets.batches": ("batches", "epoch_order"),
    "made.blocks": ("BlockDataset",),
    "cache.features": (
        "CacheEntry",
        "CacheInfo",
        "FeatureCache",
        "cache_info",
        "cache_root",
        "clear_cache",
        "content_hash",
    ),
    "scenes.colored": ("colored_scenes",),
    "augment.copy_paste": ("CopyPaste", "LargeScaleJitter"),
    "sets.counterfactual": ("CounterfactualGroups",),
    "sets.columnar": ("load_tables",),
    "made.cue_grid": ("CueGrid", "CueSet"),
    "augment.cutout": ("Cutout",),
    "sets.dataset": ("ImageTextDataset", "join"),
    "distort.depth": ("CORRUPTIONS_3D", "corrupt3d"),
    "frequency": ("DCTPatches", "dct_grades", "dct_patches"),
    "distort.distortions": ("DISTORTIONS", "distort", "distort_levels"),
    "sets.evalset": ("EvalSet", "few_shot_split"),
    "made.examples": ("write_examples",),
    "augment.fill": ("FILLS", "Fill", "gaussian_blur"),
    "sets.folder": ("load_folder",),
    "made.hallucinations": ("HallucinatedCaptions", "ObjectStatistics", "hallucinated_captions"),
    "images": (
        "IMAGE_FORMATS",
        "ImageSource",
        "MAX_PIXELS",
        "composite",
        "list_images",
        "open_header",
        "open_image",
        "to_tensor",
    ),
    "labelled.inspection_folder": ("Inspected", "InspectionFolder", "read_mask"),
    "labelled.instances": ("InstanceSample",),
    "labelled.label_maps": ("LabelFolder", "Labelled", "LabelledScenes", "label_maps"),
    "sets.loading": ("held_out_split", "list_data", "load_data"),
    "moments": ("Moments",),
    "labelled.pseudo_labels": ("PseudoLabeler", "decode_labels", "encode_labels", "surface_normals"),
    "augment.patch_replacement": ("RandomPatchReplacement",),
    "augment.text": ("TextAugment",),
    "distort.processing": ("PROCESSING", "Degradation"),
    "labelled.real_fake": ("RealFakeSet", "real_fake_folder"),
    "sets.packs": ("PACKS", "load_packs", "pack_hash"),
    "made.planted_defects": ("Planted", "plant_defects"),
    "sets.sample": ("Batch", "Collate", "Sample", "Skipped", "collate", "fit_square"),
    "scenes.multi_object": ("multi_object_scenes", "object_slots"),
    "scenes.stream": ("SceneStream", "scenes"),
    "scenes.batch": ("Scenes",),
    "scenes.regions": ("RGBAPairs", "rgba_pairs"),
    "scenes.vocabulary": ("Vocabulary", "vocabulary"),
    "sets.reweigh": ("balanced_rows", "reweigh"),
    "sets.named": ("SETS", "digits", "fashion_mnist", "photographs", "textile"),
    "sets.shards": ("ShardDataset",),
    "sets.shards_write": ("write_shards",),
    "sets.tasks": ("class_incremental_tasks",),
    "made.temporal_order": ("TemporalOrder", "temporal_order"),
    "made.tubes": ("TubePicture", "tube_pictures"),
    "windows": ("WindowGrid", "fold", "unfold"),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)


class _Package(ModuleType):
    """The import system sets a sub-package as an attribute here; where a function has its name, the function wins."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


sys.modules[__name__].__class__ = _Package
