"""Training by recipe: `train.run("recipe.toml", out="runs/a")` leaves a run directory with everything in it."""

import importlib
import pkgutil

from binderclip.train import bundled, stages
from binderclip.train.distributed import World
from binderclip.train.engine.context import StageContext, StageOutcome
from binderclip.train.engine.engine import RunResult, run
from binderclip.train.engine.evaluator import Evaluator
from binderclip.train.engine.plots import plot_run
from binderclip.train.feed.batches import Batches, Order, TrainingBatch
from binderclip.train.feed.pictures import Pictures, Pixels
from binderclip.train.grid.study import GridRun, ScalingStudy, load_grid
from binderclip.train.grid.table import StudyCell, StudyRun, StudyTable
from binderclip.train.recipe.architecture import build_model
from binderclip.train.recipe.cost import Cost, StageCost
from binderclip.train.recipe.open_clip_command import OpenClipCommand, open_clip_commands
from binderclip.train.recipe.passes import OwnCount, SampleCost, TowerPasses, Uncounted
from binderclip.train.recipe.plan import plan_training
from binderclip.train.recipe.recipe import DataSpec, EvaluationSpec, Group, Recipe, Stage, list_recipes, load_recipe
from binderclip.train.recipe.registry import BARE, EXPERTS, MODELS, PASSES, SOURCES, STAGES, TERMS, demands, register
from binderclip.train.stages.contrastive import ContrastiveStep, build_loss
from binderclip.train.tokens.attentive import AttentivePatches, EnclosingCrops
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
    "BARE",
    "EXPERTS",
    "MODELS",
    "PASSES",
    "SOURCES",
    "STAGES",
    "TERMS",
    "TOKENS",
    "AttentivePatches",
    "Batches",
    "BlockPatches",
    "ContrastiveStep",
    "Cost",
    "DataSpec",
    "EnclosingCrops",
    "EvaluationSpec",
    "Evaluator",
    "GridPatches",
    "GridRun",
    "Group",
    "OpenClipCommand",
    "Order",
    "OwnCount",
    "Pictures",
    "Pixels",
    "RandomPatches",
    "Recipe",
    "Resize",
    "RunResult",
    "SampleCost",
    "ScalingStudy",
    "Stage",
    "StageContext",
    "StageCost",
    "StageOutcome",
    "StudyCell",
    "StudyRun",
    "StudyTable",
    "TextReduction",
    "TokenReduction",
    "TowerPasses",
    "TrainingBatch",
    "Uncounted",
    "World",
    "build_loss",
    "build_model",
    "demands",
    "list_recipes",
    "load_grid",
    "load_recipe",
    "open_clip_commands",
    "plan_training",
    "plot_run",
    "register",
    "run",
    "sincos_2d",
]

# What recipes name registers itself: a stage is one file in `stages/`, those of the bundled models are in `bundled/`.
for _place in (stages, bundled):
    for _found in pkgutil.iter_modules(_place.__path__, f"{_place.__name__}."):
        importlib.import_module(_found.name)
del importlib, pkgutil, _found, _place
