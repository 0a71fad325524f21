"""Training by recipe: `train.run("recipe.toml", out="runs/a")` leaves a run directory with everything in it."""

from binderclip.train.bundled import dino as _dino
from binderclip.train.bundled import kinds as _kinds
from binderclip.train.bundled import promptable as _promptable
from binderclip.train.bundled import second as _second
from binderclip.train.bundled import tower as _tower
from binderclip.train.bundled import vision as _vision
from binderclip.train.distributed import World
from binderclip.train.engine.context import StageContext, StageOutcome
from binderclip.train.engine.engine import RunResult, run
from binderclip.train.engine.evaluator import Evaluator
from binderclip.train.engine.plots import plot_run
from binderclip.train.feed.batches import Batches, Order, TrainingBatch
from binderclip.train.feed.pictures import Pictures, Pixels
from binderclip.train.recipe.architecture import build_model
from binderclip.train.recipe.cost import Cost, StageCost
from binderclip.train.recipe.recipe import DataSpec, EvaluationSpec, Group, Recipe, Stage, list_recipes, load_recipe
from binderclip.train.recipe.registry import MODELS, SOURCES, STAGES, TERMS, register
from binderclip.train.stages import attentive as _attentive
from binderclip.train.stages import average as _average
from binderclip.train.stages import contrastive as _contrastive
from binderclip.train.stages import private as _private
from binderclip.train.stages import sam_clip as _sam_clip
from binderclip.train.stages import segclip as _segclip
from binderclip.train.stages import segmentation as _segmentation
from binderclip.train.stages.contrastive import ContrastiveStep, build_loss
from binderclip.train.tokens.image import (
    TOKENS,
    BlockPatches,
    GridPatches,
    RandomPatches,
    Resize,
    TokenReduction,
)
from binderclip.train.tokens.positions import sincos_2d
from binderclip.train.tokens.text import TextReduction

__all__ = [
    "MODELS",
    "SOURCES",
    "STAGES",
    "TERMS",
    "TOKENS",
    "Batches",
    "BlockPatches",
    "ContrastiveStep",
    "Cost",
    "DataSpec",
    "EvaluationSpec",
    "Evaluator",
    "GridPatches",
    "Group",
    "Order",
    "Pictures",
    "Pixels",
    "RandomPatches",
    "Recipe",
    "Resize",
    "RunResult",
    "Stage",
    "StageContext",
    "StageCost",
    "StageOutcome",
    "TextReduction",
    "TokenReduction",
    "TrainingBatch",
    "World",
    "build_loss",
    "build_model",
    "list_recipes",
    "load_recipe",
    "plot_run",
    "register",
    "run",
    "sincos_2d",
]
del (
    _attentive,
    _average,
    _contrastive,
    _dino,
    _kinds,
    _private,
    _promptable,
    _sam_clip,
    _second,
    _segclip,
    _segmentation,
    _tower,
)
del _vision
