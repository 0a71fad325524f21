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
    "augment": ("Augment",),
    "batches": ("batches", "epoch_order"),
    "blocks": ("BlockDataset",),
    "cache": ("CacheEntry", "CacheInfo", "FeatureCache", "cache_info", "cache_root", "clear_cache", "content_hash"),
    "copy_paste": ("CopyPaste", "LargeScaleJitter"),
    "columnar": ("load_tables",),
    "cutout": ("Cutout",),
    "dataset": ("ImageTextDataset", "join"),
    "distort": ("DISTORTIONS", "distort", "distort_levels"),
    "evalset": ("EvalSet", "few_shot_split"),
    "fill": ("FILLS", "Fill", "gaussian_blur"),
    "folder": ("load_folder",),
    "images": ("ImageSource", "MAX_PIXELS", "composite", "list_images", "open_image", "to_tensor"),
    "inspection_folder": ("Inspected", "InspectionFolder", "read_mask"),
    "instances": ("InstanceSample",),
    "label_maps": ("LabelFolder", "Labelled", "LabelledScenes", "label_maps"),
    "loading": ("held_out_split", "list_data", "load_data"),
    "moments": ("Moments",),
    "packs": ("PACKS", "load_packs", "pack_hash"),
    "planted_defects": ("Planted", "plant_defects"),
    "sample": ("Batch", "Collate", "Sample", "Skipped", "collate", "fit_square"),
    "scenes": ("SceneStream", "scenes"),
    "scenes_batch": ("Scenes",),
    "scenes_vocabulary": ("Vocabulary", "vocabulary"),
    "sets": ("SETS", "digits", "fashion_mnist", "photographs", "textile"),
    "shards": ("ShardDataset",),
    "shards_write": ("write_shards",),
    "tasks": ("class_incremental_tasks",),
    "temporal_order": ("TemporalOrder", "temporal_order"),
    "windows": ("Windows", "fold", "unfold"),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)


class _Package(ModuleType):
    """The import system sets a submodule as an attribute here; where a function has its name, the function wins."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            value = getattr(value, name)
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
