"""Which parts of the package a verb loads: what it uses, and no other room."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import binderclip

ROOMS = {path.parent.name for path in Path(binderclip.__file__).parent.glob("*/__init__.py")}

SLOW = {"timm", "open_clip", "transformers", "torchvision", "torch._dynamo", "sympy"}

PROGRAM = """
import contextlib, io, json, sys
from binderclip.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    try:
        main()
    except SystemExit as end:
        code = end.code
print(json.dumps([code or 0, sorted(sys.modules)]))
"""


def modules_of(*words: object) -> set[str]:
    """Every module that is loaded when the verb has done its work."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, words)], capture_output=True, text=True, check=True)
    code, names = json.loads(done.stdout)
    assert code == 0, done.stderr
    return set(names)


def rooms_of(modules: set[str]) -> set[str]:
    return {parts[1] for name in modules if (parts := name.split("."))[0] == "binderclip" and len(parts) > 1} & ROOMS


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "red.png"
    Image.new("RGB", (64, 64), (200, 30, 30)).save(path)
    return path


def test_help_loads_no_room_and_no_library_of_tensors() -> None:
    found = modules_of("--help")
    assert rooms_of(found) <= {"cli", "tasks"}
    assert not [name for name in found if name.startswith("binderclip.cli.verbs.")]
    assert not {"torch", "numpy", "PIL", "timm", "open_clip", "scipy"} & found


def test_papers_are_listed_without_a_library_of_tensors() -> None:
    assert not {"torch", "scipy", "matplotlib", "PIL"} & modules_of("papers", "gradient", "clipping")


def test_looking_a_paper_up_loads_neither_torch_nor_scipy() -> None:
    found = modules_of("papers", "zclip")
    assert "binderclip.studies.harness.page" in found, "the stored verdict was read"
    assert not {"torch", "scipy", "matplotlib", "PIL"} & found
    # The options that verbs share list the bundled models by name.
    assert rooms_of(found) == {"cli", "models", "studies", "tasks"}


def test_classify_loads_the_model_alone(picture: Path) -> None:
    found = modules_of("classify", picture, "--labels", "red,green")
    assert rooms_of(found) == {"cli", "data", "models", "similarity", "tasks"}
    # Layers of other models, and the towers that look inside one, are not asked for.
    assert not [name for name in found if name.startswith(("binderclip.models.layers.", "binderclip.models.towers."))]
    assert not {"scipy", "sklearn", "matplotlib", "pyarrow"} & found
    # The bundled model is of torch alone here: these take longer to import than it takes to answer.
    assert not SLOW & found
    verbs = {
        name.split(".")[3] for name in found if name.startswith(("binderclip.cli.verbs.", "binderclip.tasks.verbs."))
    }
    assert verbs == {"classify", "functions", "parts"}, "of the other verbs their names alone"


def test_verbs_that_only_encode_load_no_library_of_models(picture: Path, tmp_path: Path) -> None:
    few = ("--split", "val", "--limit", 24)
    assert not SLOW & modules_of("evaluate", "small", "--data", "openclipart", *few)
    assert not SLOW & modules_of("geometry", "small", "--data", "openclipart", *few, "--out", tmp_path / "page.html")
    assert not SLOW & modules_of("search", "index", picture.parent, "--index", tmp_path / "index")
    assert not SLOW & modules_of("search", "query", "red", "--index", tmp_path / "index")
    assert not SLOW & modules_of("embed", picture.parent, "--out", tmp_path / "embedded", "--no-captions")


def test_segment_loads_its_own_room_and_the_model(picture: Path, tmp_path: Path) -> None:
    files = ("--map", tmp_path / "map.png", "--overlay", tmp_path / "overlay.png")
    found = modules_of("segment", picture, "--labels", "red,green", *files)
    assert rooms_of(found) == {"cli", "data", "models", "segment", "similarity", "tasks"}
    other = ("segment.metrics", "segment.anomaly", "similarity.trans", "models.image_text.predictor", "models.layers")
    assert not [name for name in found if name.startswith(tuple(f"binderclip.{room}" for room in other))]
    assert sum(name.split(".")[0] == "binderclip" for name in found) < 125


def test_explain_loads_no_other_method(picture: Path, tmp_path: Path) -> None:
    found = modules_of("explain", picture, "--label", "red", "--method", "gradcam", "--out", tmp_path / "out.png")
    # fit is where autocast is; vision has the transforms that masks are made in.
    assert rooms_of(found) <= {"cli", "data", "models", "explain", "fit", "optim", "similarity", "tasks", "vision"}
    assert not [name for name in found if name.startswith("binderclip.explain.faithfulness")]
