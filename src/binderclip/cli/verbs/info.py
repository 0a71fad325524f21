"""`binderclip info`: what is installed, where it can run, which models are at hand."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from binderclip.cli.shared.options import Json
from binderclip.cli.shared.output import console, print_json, print_table
from binderclip.tasks.report.figures import figure_rows

PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "timm", "transformers", "safetensors", "numpy", "scikit-learn",
    "lancedb", "webdataset", "tensorboard",
)  # fmt: skip


def _versions() -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    installed: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = None
    return installed


def _devices() -> list[str]:
    import torch

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def info(
    every: Annotated[
        bool, typer.Option("--all", help="Also the versions of packages and the models' figures.")
    ] = False,
    json: Json = False,
) -> None:
    """Print where models can run and which are bundled; with --all versions and figures."""
    import platform

    from binderclip import __version__
    from binderclip.generate import BUNDLED_CLEANERS
    from binderclip.generate.translate.network_files import network_card
    from binderclip.models import bundled_cards
    from binderclip.models.files.folders import bundled_of, folder_card
    from binderclip.models.files.registry import BUNDLED

    versions, devices, models = _versions(), _devices(), bundled_cards()
    models |= {
        name: folder_card(path)
        for kind in ("vision", "classifier", "promptable", "vq-autoencoder", "diffusion", "people")
        for name, path in bundled_of(kind).items()
    }
    models |= {name: network_card(BUNDLED / name) for name in BUNDLED_CLEANERS.values()}
    if json:
        print_json(
            {
                "binderclip": __version__,
                "python": platform.python_version(),
                "packages": versions,
                "devices": devices,
                "models": models,
            }
        )
        return
    if not every:
        _short(__version__, devices, models)
        return
    versioned: list[tuple[str, str]] = [("binderclip", __version__), ("Python", platform.python_version())]
    versioned += [(name, installed or "not installed (optional)") for name, installed in versions.items()]
    print_table("Versions", ("package", "version"), versioned)
    print_table("Devices", ("device",), [[device] for device in devices])
    print_table(
        "Bundled models",
        ("model", "parameters", "MB", "what"),
        [
            (name, f"{card['parameters'] / 1e6:.1f} M", card["megabytes"], card["summary"])
            for name, card in models.items()
        ],
    )
    for name, card in models.items():
        if rows := figure_rows(card.get("figures", {})):
            print_table(f"{name}: {card.get('unit', 'figures')}", ("data", "measure", "value"), rows)


def _short(version: str, devices: list[str], models: dict[str, Any]) -> None:
    """What fits on a screen."""
    import platform

    import torch

    console.print(f"binderclip {version}, Python {platform.python_version()}, torch {torch.__version__}")
    console.print(f"runs on: {', '.join(devices)}")
    rows = [
        (name, f"{card['parameters'] / 1e6:.1f} M", card["megabytes"], card["summary"].split(": ")[0].split("; ")[0])
        for name, card in models.items()
    ]
    print_table("bundled models", ("model", "parameters", "MB", "what"), rows)
    console.print("binderclip info --all: packages, and what each model reaches", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(info)
