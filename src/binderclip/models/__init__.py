"""Models: one face for every contrastive image-text backbone, and the parts that look inside it.

`import binderclip.models.bundled.architectures` registers binderclip's own architectures with timm, and so with
open_clip, for code that opens our folders without `load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.models.files.registry import bundled_cards as bundled_cards
    from binderclip.models.files.registry import list_models as list_models
    from binderclip.models.fine_tuned import load_alpha_clip as load_alpha_clip
    from binderclip.models.fine_tuned import load_image_tower as load_image_tower
    from binderclip.models.fine_tuned import load_prompt_context as load_prompt_context
    from binderclip.models.image_text.alpha import AlphaCLIP as AlphaCLIP
    from binderclip.models.image_text.alpha import add_alpha_channel as add_alpha_channel
    from binderclip.models.image_text.alpha import box_alpha as box_alpha
    from binderclip.models.image_text.alpha import point_alpha as point_alpha
    from binderclip.models.image_text.classification import Classification as Classification
    from binderclip.models.image_text.encode import EncodedImages as EncodedImages
    from binderclip.models.image_text.image_classifier import ImageClassifier as ImageClassifier
    from binderclip.models.image_text.model import ImageTextModel as ImageTextModel
    from binderclip.models.image_text.model import ImageTextOutput as ImageTextOutput
    from binderclip.models.image_text.multitask import MultiTaskCLIP as MultiTaskCLIP
    from binderclip.models.image_text.onnx_export import OnnxTowers as OnnxTowers
    from binderclip.models.image_text.onnx_export import export_onnx as export_onnx
    from binderclip.models.image_text.open_clip import build as build
    from binderclip.models.image_text.predictor import ModuleClassifier as ModuleClassifier
    from binderclip.models.image_text.predictor import Predictor as Predictor
    from binderclip.models.image_text.predictor import ZeroShotPredictor as ZeroShotPredictor
    from binderclip.models.image_text.predictor import classifier as classifier
    from binderclip.models.image_text.preprocess import Preprocess as Preprocess
    from binderclip.models.image_text.vision import VisionModel as VisionModel
    from binderclip.models.image_text.vision import load_vision as load_vision
    from binderclip.models.in_memory import from_module as from_module
    from binderclip.models.latent_clip import LatentCLIP as LatentCLIP
    from binderclip.models.latent_clip import autoencoder_identity as autoencoder_identity
    from binderclip.models.layers.deefuser import DeeFuser as DeeFuser
    from binderclip.models.layers.experts import MoEMLP as MoEMLP
    from binderclip.models.layers.experts import active_parameters as active_parameters
    from binderclip.models.layers.experts import upcycle as upcycle
    from binderclip.models.layers.fast_gradients import fast_gradients as fast_gradients
    from binderclip.models.layers.lipschitz import AddBias as AddBias
    from binderclip.models.layers.lipschitz import BoundedInput as BoundedInput
    from binderclip.models.layers.lipschitz import Centring as Centring
    from binderclip.models.layers.lipschitz import ClipLogitGradient as ClipLogitGradient
    from binderclip.models.layers.lipschitz import GroupSort2 as GroupSort2
    from binderclip.models.layers.lipschitz import L2NormPool2d as L2NormPool2d
    from binderclip.models.layers.lipschitz import LipschitzLayer as LipschitzLayer
    from binderclip.models.layers.lipschitz import LipschitzResidual as LipschitzResidual
    from binderclip.models.layers.lipschitz import lipschitz_rule as lipschitz_rule
    from binderclip.models.layers.lora import LoRA as LoRA
    from binderclip.models.layers.lora import lora_ as lora_
    from binderclip.models.layers.next_scale import NextScaleCost as NextScaleCost
    from binderclip.models.layers.next_scale import NextScaleGenerator as NextScaleGenerator
    from binderclip.models.layers.next_scale import next_scale_cost as next_scale_cost
    from binderclip.models.layers.nfnet import ACTIVATION_GAINS as ACTIVATION_GAINS
    from binderclip.models.layers.nfnet import NFBlock as NFBlock
    from binderclip.models.layers.nfnet import NFResNet as NFResNet
    from binderclip.models.layers.nfnet import ScaledActivation as ScaledActivation
    from binderclip.models.layers.nfnet import ScaledStdConv2d as ScaledStdConv2d
    from binderclip.models.layers.nfnet import expected_stds as expected_stds
    from binderclip.models.layers.polynomial_attention import block_causal_attention as block_causal_attention
    from binderclip.models.layers.polynomial_attention import monomial_features as monomial_features
    from binderclip.models.layers.polynomial_attention import polynomial_attention as polynomial_attention
    from binderclip.models.layers.polynomial_attention import polynomial_rank as polynomial_rank
    from binderclip.models.layers.relational import RelationalAttention as RelationalAttention
    from binderclip.models.layers.semantic_grouping import SemanticGrouping as SemanticGrouping
    from binderclip.models.layers.spectral import SpectralConv2d as SpectralConv2d
    from binderclip.models.layers.spectral import SpectralLinear as SpectralLinear
    from binderclip.models.loading import load as load
    from binderclip.models.loading import load_encoder as load_encoder
    from binderclip.models.text.prompts import PromptContext as PromptContext
    from binderclip.models.text.templates import TEMPLATES as TEMPLATES
    from binderclip.models.text.templates import resolve_templates as resolve_templates
    from binderclip.models.text.textbank import TextBank as TextBank
    from binderclip.models.text.tokenize import TokenIds as TokenIds
    from binderclip.models.towers import Block as Block
    from binderclip.models.towers import Record as Record
    from binderclip.models.towers import Recorder as Recorder
    from binderclip.models.towers import Site as Site
    from binderclip.models.towers import TextTower as TextTower
    from binderclip.models.towers import Tower as Tower
    from binderclip.models.towers import open_image_tower as open_image_tower
    from binderclip.models.towers import open_text_tower as open_text_tower
    from binderclip.models.towers.contributions import Contributions as Contributions
    from binderclip.models.towers.correlation import correlation as correlation
    from binderclip.models.towers.tokens import Tokens as Tokens
    from binderclip.models.towers.tokens import append_tokens as append_tokens
    from binderclip.models.towers.tokens import cls_bias as cls_bias
    from binderclip.models.towers.tokens import gather as gather
    from binderclip.models.towers.tokens import gather_patches as gather_patches
    from binderclip.models.towers.trace import Capture as Capture
    from binderclip.models.towers.trace import Trace as Trace
    from binderclip.models.towers.trace import capture as capture
    from binderclip.models.towers.trace import trace as trace
    from binderclip.models.vision_language.llava import LlavaDecoder as LlavaDecoder
    from binderclip.models.vision_language.tiny import TinyVLM as TinyVLM
    from binderclip.models.vision_language.tiny import load_vlm as load_vlm

lazy_exports(__name__)
