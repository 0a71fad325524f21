"""Image-text sets, the bundled picture packs, augmentation, scenes with exact masks, caches, moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.data.augment.augment import Augment
    from binderclip.data.augment.copy_paste import CopyPaste, LargeScaleJitter
    from binderclip.data.augment.cutout import Cutout
    from binderclip.data.augment.fill import FILLS, Fill, gaussian_blur
    from binderclip.data.cache.features import (
        CacheEntry,
        CacheInfo,
        FeatureCache,
        cache_info,
        cache_root,
        clear_cache,
        content_hash,
    )
    from binderclip.data.distort.distortions import DISTORTIONS, distort, distort_levels
    from binderclip.data.images import MAX_PIXELS, ImageSource, composite, list_images, open_image, to_tensor
    from binderclip.data.labelled.inspection_folder import Inspected, InspectionFolder, read_mask
    from binderclip.data.labelled.instances import InstanceSample
    from binderclip.data.labelled.label_maps import LabelFolder, Labelled, LabelledScenes, label_maps
    from binderclip.data.made.blocks import BlockDataset
    from binderclip.data.made.planted_defects import Planted, plant_defects
    from binderclip.data.made.temporal_order import TemporalOrder, temporal_order
    from binderclip.data.moments import Moments
    from binderclip.data.scenes.batch import Scenes
    from binderclip.data.scenes.stream import SceneStream, scenes
    from binderclip.data.scenes.vocabulary import Vocabulary, vocabulary
    from binderclip.data.sets.batches import batches, epoch_order
    from binderclip.data.sets.columnar import load_tables
    from binderclip.data.sets.dataset import ImageTextDataset, join
    from binderclip.data.sets.evalset import EvalSet, few_shot_split
    from binderclip.data.sets.folder import load_folder
    from binderclip.data.sets.loading import held_out_split, list_data, load_data
    from binderclip.data.sets.named import SETS, digits, fashion_mnist, photographs, textile
    from binderclip.data.sets.packs import PACKS, load_packs, pack_hash
    from binderclip.data.sets.sample import Batch, Collate, Sample, Skipped, collate, fit_square
    from binderclip.data.sets.shards import ShardDataset
    from binderclip.data.sets.shards_write import write_shards
    from binderclip.data.sets.tasks import class_incremental_tasks
    from binderclip.data.windows import WindowGrid, fold, unfold

__all__ = [
    "DISTORTIONS",
    "FILLS",
    "MAX_PIXELS",
    "PACKS",
    "SETS",
    "Augment",
    "Batch",
    "BlockDataset",
    "CacheEntry",
    "CacheInfo",
    "Collate",
    "CopyPaste",
    "Cutout",
    "EvalSet",
    "FeatureCache",
    "Fill",
    "ImageSource",
    "ImageTextDataset",
    "Inspected",
    "InspectionFolder",
    "InstanceSample",
    "LabelFolder",
    "Labelled",
    "LabelledScenes",
    "LargeScaleJitter",
    "Moments",
    "Planted",
    "Sample",
    "SceneStream",
    "Scenes",
    "ShardDataset",
    "Skipped",
    "TemporalOrder",
    "Vocabulary",
    "WindowGrid",
    "batches",
    "cache_info",
    "cache_root",
    "class_incremental_tasks",
    "clear_cache",
    "collate",
    "composite",
    "content_hash",
    "digits",
    "distort",
    "distort_levels",
    "epoch_order",
    "fashion_mnist",
    "few_shot_split",
    "fit_square",
    "fold",
    "gaussian_blur",
    "held_out_split",
    "join",
    "label_maps",
    "list_data",
    "list_images",
    "load_data",
    "load_folder",
    "load_packs",
    "load_tables",
    "open_image",
    "pack_hash",
    "photographs",
    "plant_defects",
    "read_mask",
    "scenes",
    "temporal_order",
    "textile",
    "to_tensor",
    "unfold",
    "vocabulary",
    "write_shards",
]

lazy_exports(__name__)
