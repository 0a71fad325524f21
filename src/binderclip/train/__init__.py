"""Training by recipe: `train.run("recipe.toml", out="runs/a")` leaves a run directory with everything in it."""

from binderclip.train import contrastive as _contrastive
from binderclip.train import stages_dino as _stages_dino
from binderclip.train import stages_kinds as _stages_kinds
from binderclip.train import stages_private as _stages_private
from binderclip.train import stages_promptable as _stages_promptable
from binderclip.train import stages_second as _stages_second
from binderclip.train import stages_tower as _stages_tower
from binderclip.train import stages_vision as _stages_vision
from binderclip.train.architecture import build_model
from binderclip.train.batches import Batch, Batches, Order
from binderclip.train.context import StageContext, StageOutcome
from binderclip.train.contrastive import ContrastiveStep, build_loss
from binderclip.train.distributed import World
from binderclip.train.engine import RunResult, run
from binderclip.train.evaluator import Evaluator
from binderclip.train.pictures import Pictures, Pixels
from binderclip.train.plots import plot_run
from binderclip.train.recipe import DataSpec, Evaluation, Group, Recipe, Stage, list_recipes, load_recipe
from binderclip.train.registry import MODELS, SOURCES, STAGES, TERMS, register

__all__ = [
    "MODELS",
    "SOURCES",
    "STAGES",
    "TERMS",
    "Batch",
    "Batches",
    "ContrastiveStep",
    "DataSpec",
    "Evaluation",
    "Evaluator",
    "Group",
    "Order",
    "Pictures",
    "Pixels",
    "Recipe",
    "RunResult",
    "Stage",
    "StageContext",
    "StageOutcome",
    "World",
    "build_loss",
    "build_model",
    "list_recipes",
    "load_recipe",
    "plot_run",
    "register",
    "run",
]
del _contrastive, _stages_dino, _stages_kinds, _stages_private, _stages_promptable, _stages_second, _stages_tower
del _stages_vision
