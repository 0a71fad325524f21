"""Words that `personalize` has taught a diffusion model: in the folders of the workbench, and those of the page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from binderclip.models.files.folders import folder_config
from binderclip.workbench.tab import Bench, Run
from binderclip.workbench.trained.trained_files import TrainedNetworks

LABEL, NONE = "Learned word", ("(none)", "")
"""What lists of words are called, and their first entry."""


@dataclass(frozen=True)
class LearnedWords(TrainedNetworks):
    """Folders that `PersonalConcept.save` writes."""

    def list_of(self, bench: Bench) -> Any:
        """Where one is chosen for a text; a word that Personalise learns is in it from then on."""
        choices = [NONE, *self.choices(bench)]
        info = "learned in Personalise with the same diffusion model; the text may hold it"
        words = gr.Dropdown(choices, value="", label=LABEL, info=info)
        bench.word_lists.append(words)
        return words

    def choices(self, bench: Bench, run: Run | None = None) -> list[tuple[str, str]]:
        """The words, with what each is one of and the folder's name, and paths."""
        paths = self._all(bench, run)
        configs = [folder_config(path) for path in paths]
        return [
            (f"{config.get('word')} {config.get('class_name')} ({path.name})", str(path))
            for path, config in zip(paths, configs, strict=True)
        ]

    def called(self, run: Run, path: str | Path) -> str:
        """What a line calls a folder: by its path, or the word without its brackets, as the verb does."""
        own = isinstance(path, Path) and run.folder.parent in path.parents
        return str(folder_config(path).get("word")).strip("<>") if own else str(path)


WORDS = LearnedWords("a learned word", kinds=("personal-concept",))
