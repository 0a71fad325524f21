"""What all tests share: the same random numbers in any order and on any worker."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import random
import re
import shutil
import signal
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch

# What the command prints is as wide as in a pipe, whatever terminal the tests were started from: readline, which
# pytest loads, hands its size on to the workers of xdist.
for size in ("COLUMNS", "LINES"):
    os.environ.pop(size, None)

# The same examples in every run; on a loaded machine the first one, which imports, takes longer than any deadline.
hypothesis.settings.register_profile("binderclip", deadline=None, derandomize=True)
hypothesis.settings.load_profile("binderclip")

_PYTEST_RAISES = pytest.raises
SLOW = Path(__file__).with_name("slow.txt")
MOST_CPU = 3.0
"""Seconds of processor time that a test may take without standing in `slow.txt`."""
MOST_IMPORTS = 50
"""A test that imports more modules pays for others, which come later."""


def slow_tests() -> tuple[set[str], set[str]]:
    """Node ids of `slow.txt`: files and functions that are slow, and the tests that are run all the same."""
    lines = [line for line in SLOW.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    kept = {line.removeprefix("+ ") for line in lines if line.startswith("+ ")}
    return {line for line in lines if not line.startswith("+ ")}, kept


def pytest_addoption(parser: pytest.Parser) -> None:
    """Run in two parts, the second without what passed in the first: `--passed-to FILE`, then `--leave-out FILE`."""
    parser.addoption("--passed-to", type=Path, help="write the names of the tests that passed")
    parser.addoption("--leave-out", type=Path, help="run none of the tests that such a file names")


def left_out(config: pytest.Config, items: list[pytest.Item]) -> list[pytest.Item]:
    """Tests that the file of `--leave-out` names. What was skipped when it was written is run."""
    if (listed := config.getoption("leave_out")) is None:
        return []
    passed = set(json.loads(listed.read_text(encoding="utf-8")))
    return [item for item in items if item.nodeid in passed]


def write_passed(config: pytest.Config, reports: list[Any]) -> None:
    """Write the file of `--passed-to`; what has a skipped part did not pass."""
    if (path := config.getoption("passed_to")) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sorted({report.nodeid for report in reports})), encoding="utf-8")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what `slow.txt` names, and begin with the files that have most of it: one at the end keeps a core idle."""
    if elsewhere := set(left_out(config, items)):
        config.hook.pytest_deselected(items=list(elsewhere))
        items[:] = [item for item in items if item not in elsewhere]
    slow, kept = slow_tests()
    long: Counter[str] = Counter()
    for item in items:
        path, _, name = item.nodeid.partition("::")
        if {path, f"{path}::{name.partition('[')[0]}"} & slow or item.nodeid in kept:
            long[path] += 1
            if item.nodeid not in kept:
                item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: -long[item.nodeid.partition("::")[0]])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note tests that are slow and not marked, by processor time, which a loaded machine does not lengthen."""
    modules, began = len(sys.modules), time.process_time()
    yield
    spent = time.process_time() - began
    if spent > MOST_CPU and len(sys.modules) - modules < MOST_IMPORTS and item.get_closest_marker("slow") is None:
        item.user_properties.append(("unmarked", f"{spent:.1f}"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the tests that `slow.txt` should have, which is no failure: another processor may be slower."""
    write_passed(config, terminalreporter.stats.get("passed", []))
    kept = slow_tests()[1]
    unmarked = [
        (dict(report.user_properties)["unmarked"], report.nodeid)
        for report in terminalreporter.stats.get("passed", [])
        if "unmarked" in dict(report.user_properties) and report.nodeid not in kept
    ]
    for seconds, name in sorted(set(unmarked), key=lambda pair: -float(pair[0])):
        terminalreporter.write_line(f"not in slow.txt: {seconds} s {name}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed before the fixtures of a test are made, those of a whole module too."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@contextmanager
def _raises(expected: Any, **options: Any) -> Iterator[Any]:
    """`pytest.raises`, skipping the test where the annotation refuses its wrong input before the library does."""
    try:
        with _PYTEST_RAISES(expected, **options) as info:
            yield info
        if _refused(info.value) and expected is not jaxtyping.TypeCheckError:
            pytest.skip("its wrong input does not get past the annotation")
    except (jaxtyping.TypeCheckError, AssertionError) as error:
        if _refused(error):
            pytest.skip("its wrong input does not get past the annotation")
        raise


def _refused(error: BaseException | None) -> bool:
    """Whether an annotation refused something, or its refusal was put into an error of the library's own."""
    from binderclip.errors import errors_behind  # not before --jaxtyping-packages is heard

    return any(isinstance(each, jaxtyping.TypeCheckError) for each in errors_behind(error))


def pytest_configure(config: pytest.Config) -> None:
    """Let Ctrl-C reach what tests start, also where the tests run in the background and ignore it themselves.

    Under `--jaxtyping-packages`, run what `if TYPE_CHECKING:` hides, so that annotations can be looked up.

    It is run when all modules are there: the imports that stand in these blocks go round in circles.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    checked = config.getoption("jaxtyping_packages", None)
    if not checked or config.getoption("numprocesses", None):
        return
    if hasattr(config, "workerinput"):  # jaxtyping's own plugin reads the command line, which a worker has not
        jaxtyping.install_import_hook(*checked.split(",", 1))
    pytest.raises = _raises  # type: ignore[assignment]
    import binderclip

    names = [module.name for module in pkgutil.walk_packages(binderclip.__path__, "binderclip.")]
    for module in [importlib.import_module(name) for name in names if not name.endswith("__main__")]:
        tree = ast.parse(Path(str(module.__file__)).read_text())
        for node in tree.body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                exec(compile(ast.Module(node.body, []), str(module.__file__), "exec"), vars(module))


@pytest.fixture
def unchecked_annotations(pytestconfig: pytest.Config) -> None:
    """Skip under `--jaxtyping-packages`: dynamo does not trace what checks the annotations."""
    if pytestconfig.getoption("jaxtyping_packages", None):
        pytest.skip("dynamo does not trace what checks the annotations")


BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a window, that finds no address but this machine's; one for all tests of a process.

    Where there is none the tests are skipped with the reason, or fail where BINDERCLIP_BROWSER is "required".
    """
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    said = ""
    if program is None:
        said = f"no browser: none of {', '.join(BROWSERS)} is installed (`make test` installs one where it can)"
    else:
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            said = "Playwright is not installed: pip install playwright"
    if said and os.environ.get("BINDERCLIP_BROWSER") == "required":
        pytest.fail(said, pytrace=False)
    if said:
        pytest.skip(said)
    with sync_playwright() as playwright:
        options = [
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        running = playwright.chromium.launch(executable_path=program, args=options)
        yield running
        running.close()


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Blocks of the image tower -> folder of a CLIP of 16 dimensions at 32 px with random weights, made once."""
    from binderclip.models import build

    made: dict[int, Path] = {}

    def saved(layers: int) -> Path:
        if layers not in made:
            torch.manual_seed(0)
            vision = {"image_size": 32, "layers": layers, "width": 32, "head_width": 16, "patch_size": 8}
            text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
            model = build({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}, name="tiny")
            made[layers] = model.save(tmp_path_factory.mktemp("models") / "tiny")
        return made[layers]

    return saved


@pytest.fixture(scope="session")
def tiny_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Stable Diffusion pipeline of 16 px with tiny random parts, which reads prompts of letters."""
    pytest.importorskip("diffusers")
    from .generate.conftest import tiny_pipeline

    folder = tmp_path_factory.mktemp("diffusion")
    tiny_pipeline(folder / "made").save_pretrained(folder / "tiny-pipeline")
    return folder / "tiny-pipeline"


@pytest.fixture(scope="session")
def tiny_inpainter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the inpainting form's nine channels."""
    pytest.importorskip("diffusers")
    from .generate.conftest import tiny_pipeline

    folder = tmp_path_factory.mktemp("inpainter")
    tiny_pipeline(folder / "made", "StableDiffusionInpaintPipeline", 9).save_pretrained(folder / "tiny-inpainter")
    return folder / "tiny-inpainter"


@pytest.fixture(scope="session")
def tiny_controlnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random ControlNet for `tiny_diffusion`."""
    pytest.importorskip("diffusers")
    from .generate.conftest import tiny_controlnet

    folder = tmp_path_factory.mktemp("controlnet") / "tiny-controlnet"
    tiny_controlnet().save_pretrained(folder)
    return folder


@pytest.fixture
def planned_paper(monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a paper that is planned, without a study, as each is before it is built; here the last one."""
    from binderclip import papers
    from binderclip.studies.harness import run

    *others, last = papers._index()
    entry = replace(last, status="planned", study="", tests=(), checked=())
    monkeypatch.setattr(papers, "_index", lambda: (*others, entry))
    modules = {identifier: module for identifier, module in run.available().items() if identifier != last.id}
    monkeypatch.setattr(run, "available", lambda: modules)
    return entry.id


@pytest.fixture(scope="session")
def dark_strands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of weights that take what is nearly black, below 0.15 in the mean, for a fence."""
    from binderclip.generate import FenceCleaner, save_cleaner

    cleaner = FenceCleaner(widths=(3,), dilation=0, window=64)
    with torch.no_grad():
        for layer in cleaner.occluder.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.zero_()
                if layer is not cleaner.occluder.last:
                    layer.weight[range(3), range(3), 1, 1] = 1.0
                layer.bias.zero_()  # type: ignore[union-attr]
        cleaner.occluder.last.weight.fill_(-100 / 3)
        cleaner.occluder.last.bias.fill_(15.0)  # type: ignore[union-attr]
    about = {"name": "dark-strands", "limits": ["Knows what is nearly black."]}
    return save_cleaner(cleaner, tmp_path_factory.mktemp("cleaners") / "dark-strands", about)


@pytest.fixture
def guide_block(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, str], str]:
    """(page, part) -> the one Python block of a page of `docs/` in which that part stands; in an empty folder.

    By what it says and not by its place, which changes with every new block; what it writes stays out of the checkout.
    """
    monkeypatch.chdir(tmp_path)

    def found(page: str, part: str) -> str:
        text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
        (block,) = (each for each in re.findall(r"```python.*?\n(.*?)```", text, flags=re.S) if part in each)
        return block

    return found


@dataclass(frozen=True)
class Done:
    """What a command said and how it left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The JSON document that all of stdout is, of a command that succeeded."""
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Done]:
    """The function behind `binderclip` in this process, in an empty folder; a traceback fails the test by itself."""
    from binderclip import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BINDERCLIP_CACHE", str(tmp_path / "cache"))

    def call(*words: object) -> Done:
        monkeypatch.setattr("sys.argv", ["binderclip", *map(str, words)])
        capsys.readouterr()
        with _PYTEST_RAISES(SystemExit) as left:  # what an annotation of the command line refuses is no skip
            cli.main()
        said = capsys.readouterr()
        return Done(int(left.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="session")
def write_stripes() -> Callable[..., Path]:
    """Writes MVTec AD's layout: striped pictures to learn from, as many whole as damaged ones to inspect, their masks.

    `write_stripes(root, learned, inspected, names)`: `names` are what their files' names begin with.
    """
    from PIL import Image

    from binderclip.data import plant_defects

    def save(path: Path, image: torch.Tensor) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy()).save(path)

    def write(root: Path, learned: int, inspected: int, names: tuple[str, str, str] = ("", "", "")) -> Path:
        wave = torch.sin(torch.arange(96) / 3.0)
        noise = torch.rand(learned + 2 * inspected, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        images = (0.5 + 0.2 * wave + 0.1 * (noise - 0.5)).clamp(0, 1)
        planted = plant_defects(images[learned + inspected :], 1)
        for i in range(learned):
            save(root / f"train/good/{names[0]}{i}.png", images[i])
        for i in range(inspected):
            save(root / f"test/good/{names[1]}{i}.png", images[learned + i])
            save(root / f"test/spot/{names[2]}{i}.png", planted.images[i])
            save(root / f"ground_truth/spot/{names[2]}{i}_mask.png", planted.masks[i].float().expand(3, -1, -1))
        return root

    return write


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 drawings of three classes; half of them were taken at "night", dark and blurred; "camera" is by chance."""
    folder = tmp_path_factory.mktemp("planted")
    import csv

    from PIL import ImageEnhance, ImageFilter

    from binderclip.data import load_data

    data, rng = load_data("noto-emoji", split="train"), np.random.default_rng(0)
    rows = [("file", "caption", "label", "light", "camera")]
    for group, label in {"Food & Drink": "food", "Animals & Nature": "animal", "Flags": "flag"}.items():
        for number, row in enumerate(np.flatnonzero(np.array(data.column("group")) == group)[:30].tolist()):
            light, name = "night" if number % 2 else "day", f"{label}-{number:02}.png"
            picture = data[row].image.convert("RGB").resize((64, 64))
            if light == "night":
                picture = ImageEnhance.Brightness(picture.filter(ImageFilter.GaussianBlur(8))).enhance(0.15)
            picture.save(folder / name)
            rows.append((name, f"a {label}", label, light, str(rng.choice(["left", "right"]))))
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of an S3 server on this machine, one for all tests of a worker."""
    moto = pytest.importorskip("moto.server")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty bucket, with the environment that leads to its server."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "anybody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST")).read()
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="web")
    return "s3://web"
