"""The page: a model for all tabs, and the tabs."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from binderclip.models.files.registry import DEFAULT
from binderclip.workbench.guard import Application, Guard
from binderclip.workbench.jobs import JobQueue
from binderclip.workbench.models import ModelShelf
from binderclip.workbench.opening.page import opening_of
from binderclip.workbench.place import PicturePlace
from binderclip.workbench.sessions import Sessions
from binderclip.workbench.tab import Bench, Tab
from binderclip.workbench.tags.store import TagStore
from binderclip.workbench.theme import theme

STATIC = Path(__file__).with_name("static")
STYLES = [STATIC / f"{name}.css" for name in ("page", "tabs", "grid", "labels", "map", "duplicates", "tags", "click")]
SCRIPTS = [
    STATIC / f"{name}.js"
    for name in ("page", "tabs", "grid", "viewer", "labels", "tables", "drop", "map", "duplicates", "tags", "click")
]
"""Each is a function that is called once when the page is there, with what `files.js` gives."""
HEADER = """<h1>binderclip <span>workbench</span></h1>
<button type="button" class="tasks-button" aria-expanded="false" aria-label="Choose a task"><span></span></button>
<p class="lead">Choose pictures, then a task, then press its button. Nothing leaves this machine.</p>
<label class="colours"><span>Colours</span><select class="colours" aria-label="Colours">
<option value="system">System</option><option value="light">Light</option><option value="dark">Dark</option>
</select></label>"""


def build_page(
    tabs: Sequence[Tab],
    *,
    jobs: JobQueue,
    clicks: JobQueue,
    sessions: Sessions,
    models: ModelShelf,
    model: str = DEFAULT,
    folders: Sequence[Path] = (),
) -> gr.Blocks:
    """The page as Gradio blocks.

    Args:
        tabs: in their order.
        jobs, clicks, sessions, models: of the server.
        model: chosen at first.
        folders: that pictures may be read from.
    """
    from binderclip.models import list_models

    names = list(list_models())
    with gr.Blocks(title="binderclip workbench", analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_classes="page-head", equal_height=False):
            gr.HTML(HEADER, elem_classes="title", padding=False)
            chosen = gr.Dropdown(
                names if model in names else [model, *names],
                value=model,
                label="Model for all tabs",
                info="everyday suits photographs; or from the list, hf:REPO_OR_FOLDER, a run folder",
                allow_custom_value=True,
                elem_classes="model",
            )
        bench = Bench(model=chosen, jobs=jobs, clicks=clicks, sessions=sessions, models=models, folders=folders)
        place = PicturePlace(bench)
        offered = [tab for tab in tabs if tab.offered(bench)]
        gr.HTML(f"<style>{_group_names(offered)}</style>", visible="hidden", padding=False)
        with gr.Tabs(elem_classes="tasks", overflow_behavior="wrap"):
            for tab in offered:
                with gr.Tab(tab.title, id=tab.title.lower()):
                    gr.HTML(f'<p class="about">{html.escape(tab.about)}</p>')
                    tab.build(bench)
        bench.offer_made()
        place.connect(page)
        # Makes the page keep a connection open as long as it is; its end is seen in `guard.py`.
        page.unload(lambda: None)
    return page


def mount(
    page: gr.Blocks, *, sessions: Sessions, queues: Sequence[JobQueue], port: int, key: str, tags: TagStore,
    folder: Path | None = None,
) -> Application:  # fmt: skip
    """The page as an ASGI application behind its guard; it opens with the pictures of `folder`."""
    import fastapi

    page.queue(default_concurrency_limit=None, max_size=200, api_open=False)
    application = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        server_name="127.0.0.1",
        server_port=port,
        footer_links=[],
        run_history=False,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        show_error=True,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        allowed_paths=[],
        theme=theme(),
        css_paths=STYLES,
        js=scripts(),
    )
    return Guard(
        application, sessions=sessions, queues=queues, port=port, key=key, tags=tags,
        opening=lambda: opening_of(folder),
    )  # fmt: skip


def scripts() -> str:
    """All scripts of the page as one function; none of them sees what another declares."""
    files, *functions = (path.read_text(encoding="utf-8").strip() for path in (STATIC / "files.js", *SCRIPTS))
    calls = "".join(f"({function})(files);\n" for function in functions)
    return f"() => {{\nconst files = ({files})();\n{calls}}}"


def _group_names(tabs: Sequence[Tab]) -> str:
    """A style that writes the name of each group above its first tab; what is read aloud are the tabs alone."""
    first: dict[str, Tab] = {}
    for tab in tabs:
        first.setdefault(tab.group, tab)
    names = "".join(
        f'.tasks [data-tab-id="{tab.title.lower()}"]::before {{ content: "{group}" / ""; }}\n'
        for group, tab in first.items()
    )
    opening = ", ".join(f'.tasks [role="tab"][data-tab-id="{tab.title.lower()}"]' for tab in first.values())
    return f"{names}{opening} {{ margin-top: var(--b-space-6); }}"
