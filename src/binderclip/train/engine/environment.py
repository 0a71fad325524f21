"""What a run was made with: versions, revision, device."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

__all__ = ["describe_environment", "git_revision"]

_PACKAGES = ("torch", "torchvision", "open_clip_torch", "timm", "tokenizers", "safetensors", "numpy", "pillow")


def git_revision(folder: Path | None = None) -> str | None:
    """Revision of the repository that holds `folder` (default: binderclip itself), `+` behind it where files differ.

    None where that is not a git checkout, as for an installed package.
    """
    folder = folder or Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed package inside somebody else's repository must not report that one's revision.
    if git("ls-files", "--error-unmatch", __file__) is None:
        return None
    revision = git("rev-parse", "HEAD")
    return f"{revision}+" if revision and git("status", "--porcelain", "-uno") else revision


def describe_environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Versions, revision and hardware, for `environment.json`."""
    from binderclip import __version__

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "binderclip": __version__,
        "revision": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }
