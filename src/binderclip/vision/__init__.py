"""Images as signals: transforms with exact inverses, edges, aliasing; what a fixed gaze sees; solids from slices.

A transform turns pictures (..., H, W) of any size into coefficients and back, without a loss and differentiably, so
that masks, penalties and noise can live where edges and textures are sparse.
"""

from __future__ import annotations

from binderclip.vision.aliasing import (
    DeAliasingFilter,
    FrequencyMixing,
    aliasing_map,
    aliasing_score,
    equivalent_sampling_rate,
)
from binderclip.vision.blur_pool import BlurPool
from binderclip.vision.edges.boundary_attention import BoundaryAttention
from binderclip.vision.edges.boundary_loss import BoundaryLoss
from binderclip.vision.edges.boundary_maps import BoundaryMaps, render_boundaries
from binderclip.vision.edges.derivatives import sobel
from binderclip.vision.edges.detectors import (
    EdgeNetwork,
    canny_levels,
    load_edge_network,
    save_edge_network,
    sobel_map,
)
from binderclip.vision.edges.dexined import DexiNed, load_dexined
from binderclip.vision.edges.junctions import JunctionField
from binderclip.vision.edges.patches import fold_patches, unfold_patches
from binderclip.vision.edges.thinning import thin_edges
from binderclip.vision.error_segments import ErrorSegments, gradient_aware_segments
from binderclip.vision.fields.interpolated import interpolated_surface
from binderclip.vision.fields.mesh import TriangleMesh, level_surface
from binderclip.vision.fields.neural import SliceField, gradient_hinge
from binderclip.vision.fields.sections import fill_segments, mesh_section, picture_slice, resample_contour
from binderclip.vision.fields.shading import shaded_view
from binderclip.vision.fields.slices import FieldSamples, PlanarSlice, slice_samples
from binderclip.vision.flow_fields import area_change, compose_flows, resize_flow, warp
from binderclip.vision.foveation.blur import FoveatedBlur, match_strength, matched_uniform_blur, ssim_map
from binderclip.vision.foveation.codec import BlockCodec, FeatureCodec
from binderclip.vision.foveation.regions import PoolingRegions, RegionStatistics, texture_strength
from binderclip.vision.foveation.texture import FoveatedTexture, adain, coral
from binderclip.vision.morphology import dilate, erode
from binderclip.vision.representation import PixelTransform, Representation
from binderclip.vision.shearlets import ShearletTransform
from binderclip.vision.sparse.coding import SparseCodes, SparseCoding
from binderclip.vision.sparse.fields import ReceptiveFields, receptive_field_stats, sample_patches, whiten
from binderclip.vision.sparse.penalties import penalty_value, prox
from binderclip.vision.splats.camera import SplatCamera
from binderclip.vision.splats.scene import GaussianScene, SplatRender, TileWeights
from binderclip.vision.srm import SRMFilter, srm_filters
from binderclip.vision.triangles import Fragments, rasterize
from binderclip.vision.wavelets import WaveletTransform, daubechies

__all__ = [
    "BlockCodec",
    "BlurPool",
    "BoundaryAttention",
    "BoundaryLoss",
    "BoundaryMaps",
    "DeAliasingFilter",
    "DexiNed",
    "EdgeNetwork",
    "ErrorSegments",
    "FeatureCodec",
    "FieldSamples",
    "FoveatedBlur",
    "FoveatedTexture",
    "Fragments",
    "FrequencyMixing",
    "GaussianScene",
    "JunctionField",
    "PixelTransform",
    "PlanarSlice",
    "PoolingRegions",
    "ReceptiveFields",
    "RegionStatistics",
    "Representation",
    "SRMFilter",
    "ShearletTransform",
    "SliceField",
    "SparseCodes",
    "SparseCoding",
    "SplatCamera",
    "SplatRender",
    "TileWeights",
    "TriangleMesh",
    "WaveletTransform",
    "adain",
    "aliasing_map",
    "aliasing_score",
    "area_change",
    "canny_levels",
    "compose_flows",
    "coral",
    "daubechies",
    "dilate",
    "equivalent_sampling_rate",
    "erode",
    "fill_segments",
    "fold_patches",
    "gradient_aware_segments",
    "gradient_hinge",
    "interpolated_surface",
    "level_surface",
    "load_dexined",
    "load_edge_network",
    "match_strength",
    "matched_uniform_blur",
    "mesh_section",
    "penalty_value",
    "picture_slice",
    "prox",
    "rasterize",
    "receptive_field_stats",
    "render_boundaries",
    "resample_contour",
    "resize_flow",
    "sample_patches",
    "save_edge_network",
    "shaded_view",
    "slice_samples",
    "sobel",
    "sobel_map",
    "srm_filters",
    "ssim_map",
    "texture_strength",
    "thin_edges",
    "unfold_patches",
    "warp",
    "whiten",
]
