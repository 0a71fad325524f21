"""Image-text sets, the bundled picture packs, augmentation, scenes with exact masks, caches, moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.data.augment.augment import Augment
    from binderclip.data.augment.copy_paste import CopyPaste, LargeScaleJitter
    from binderclip.data.augment.cutout import Cutout
    from binderclip.data.augment.fill import FILLS, Fill, gaussian_blur
    from binderclip.data.augment.patch_replacement import RandomPatchReplacement
    from binderclip.data.augment.text import TextAugment
    from binderclip.data.cache.features import (
        CacheEntry,
        CacheInfo,
        FeatureCache,
        cache_info,
        cache_root,
        clear_cache,
        content_hash,
    )
    from binderclip.data.distortions.depth import CORRUPTIONS_3D, corrupt3d
    from binderclip.data.distortions.library import DISTORTIONS, LIBRARIES, distort, distort_levels
    from binderclip.data.distortions.processing import PROCESSING, Degradation
    from binderclip.data.frequency import DCTPatches, dct_grades, dct_patches
    from binderclip.data.images import (
        IMAGE_FORMATS,
        MAX_PIXELS,
        ImageSource,
        composite,
        list_images,
        open_header,
        open_image,
        to_tensor,
    )
    from binderclip.data.labelled.inspection_folder import Inspected, InspectionFolder, read_mask
    from binderclip.data.labelled.instances import InstanceSample
    from binderclip.data.labelled.label_maps import LabelFolder, Labelled, LabelledScenes, label_maps
    from binderclip.data.labelled.pseudo_labels import PseudoLabeler, decode_labels, encode_labels, surface_normals
    from binderclip.data.labelled.real_fake import RealFakeSet, real_fake_folder
    from binderclip.data.made.blocks import BlockDataset
    from binderclip.data.made.cue_grid import CueGrid, CueSet
    from binderclip.data.made.examples import write_examples
    from binderclip.data.made.hallucinations import HallucinatedCaptions, ObjectStatistics, hallucinated_captions
    from binderclip.data.made.planted_defects import Planted, plant_defects
    from binderclip.data.made.temporal_order import TemporalOrder, temporal_order
    from binderclip.data.made.tubes import TubePicture, tube_pictures
    from binderclip.data.moments import Moments
    from binderclip.data.parallel.plan import ClusterPlan, Machines, Phase, PlannedPass
    from binderclip.data.parallel.rates import MeasuredRates, Rate, measured_rates, read_rates
    from binderclip.data.parallel.ray_runner import RayRunner
    from binderclip.data.parallel.runner import LocalRunner, ShardRunner
    from binderclip.data.sets.batches import batches, epoch_order
    from binderclip.data.sets.columnar import load_tables
    from binderclip.data.sets.counterfactual import CounterfactualGroups
    from binderclip.data.sets.dataset import ImageTextDataset, join
    from binderclip.data.sets.evalset import EvalSet, few_shot_split
    from binderclip.data.sets.folder import load_folder
    from binderclip.data.sets.loading import held_out_split, list_data, load_data
    from binderclip.data.sets.named import SETS, digits, fashion_mnist, photographs, textile
    from binderclip.data.sets.packs import PACKS, load_packs, pack_hash
    from binderclip.data.sets.reweigh import balanced_rows, reweigh
    from binderclip.data.sets.sample import Batch, Collate, Sample, Skipped, collate, fit_square
    from binderclip.data.sets.shards import ShardDataset
    from binderclip.data.sets.shards_write import write_shards
    from binderclip.data.sets.tasks import class_incremental_tasks
    from binderclip.data.spectrum import matched_spectrum, radial_spectrum
    from binderclip.data.synthetic_scenes.batch import Scenes
    from binderclip.data.synthetic_scenes.colored import colored_scenes
    from binderclip.data.synthetic_scenes.multi_object import multi_object_scenes, object_slots
    from binderclip.data.synthetic_scenes.regions import RGBAPairs, rgba_pairs
    from binderclip.data.synthetic_scenes.stream import SceneStream, scenes
    from binderclip.data.synthetic_scenes.vocabulary import Vocabulary, vocabulary
    from binderclip.data.windows import WindowGrid, fold, unfold

__all__ = [
    "CORRUPTIONS_3D",
    "DISTORTIONS",
    "FILLS",
    "IMAGE_FORMATS",
    "LIBRARIES",
    "MAX_PIXELS",
    "PACKS",
    "PROCESSING",
    "SETS",
    "Augment",
    "Batch",
    "BlockDataset",
    "CacheEntry",
    "CacheInfo",
    "ClusterPlan",
    "Collate",
    "CopyPaste",
    "CounterfactualGroups",
    "CueGrid",
    "CueSet",
    "Cutout",
    "DCTPatches",
    "Degradation",
    "EvalSet",
    "FeatureCache",
    "Fill",
    "HallucinatedCaptions",
    "ImageSource",
    "ImageTextDataset",
    "Inspected",
    "InspectionFolder",
    "InstanceSample",
    "LabelFolder",
    "Labelled",
    "LabelledScenes",
    "LargeScaleJitter",
    "LocalRunner",
    "Machines",
    "MeasuredRates",
    "Moments",
    "ObjectStatistics",
    "Phase",
    "PlannedPass",
    "Planted",
    "PseudoLabeler",
    "RGBAPairs",
    "RandomPatchReplacement",
    "Rate",
    "RayRunner",
    "RealFakeSet",
    "Sample",
    "SceneStream",
    "Scenes",
    "ShardDataset",
    "ShardRunner",
    "Skipped",
    "TemporalOrder",
    "TextAugment",
    "TubePicture",
    "Vocabulary",
    "WindowGrid",
    "balanced_rows",
    "batches",
    "cache_info",
    "cache_root",
    "class_incremental_tasks",
    "clear_cache",
    "collate",
    "colored_scenes",
    "composite",
    "content_hash",
    "corrupt3d",
    "dct_grades",
    "dct_patches",
    "decode_labels",
    "digits",
    "distort",
    "distort_levels",
    "encode_labels",
    "epoch_order",
    "fashion_mnist",
    "few_shot_split",
    "fit_square",
    "fold",
    "gaussian_blur",
    "hallucinated_captions",
    "held_out_split",
    "join",
    "label_maps",
    "list_data",
    "list_images",
    "load_data",
    "load_folder",
    "load_packs",
    "load_tables",
    "matched_spectrum",
    "measured_rates",
    "multi_object_scenes",
    "object_slots",
    "open_header",
    "open_image",
    "pack_hash",
    "photographs",
    "plant_defects",
    "radial_spectrum",
    "read_mask",
    "read_rates",
    "real_fake_folder",
    "reweigh",
    "rgba_pairs",
    "scenes",
    "surface_normals",
    "temporal_order",
    "textile",
    "to_tensor",
    "tube_pictures",
    "unfold",
    "vocabulary",
    "write_examples",
    "write_shards",
]

lazy_exports(__name__)
