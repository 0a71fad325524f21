"""The workbench: one local page on which people look instead of reading (`binderclip workbench`).

Where things are:

- `server.py` listens on 127.0.0.1; `guard.py` decides which requests Gradio gets to see; `uploads.py` and `sessions.py`
  keep each browser's files apart; `jobs.py` runs one heavy thing at a time.
- `app.py` builds the page: the model for all tabs, and one tab for each file in `tabs/`.
- `tab.py` is what a tab stands on, `commands.py` the lines that give a result again, `look.py` tables and small copies
  of pictures.

**To add a tab, add one file** to `tabs/`. It has a `TAB`; nothing else has to be told of it:

    import gradio as gr

    from binderclip.workbench.commands import Equivalent, shell_line
    from binderclip.workbench.tab import Bench, Outcome, Run, Tab

    def build(bench: Bench) -> None:
        pictures = bench.pictures()
        labels = gr.Textbox(label="Labels, separated by commas", value="cat, dog")
        controls = bench.controls("Count")
        table = gr.HTML()
        results = bench.results()
        bench.connect(controls, work, [*pictures.inputs, labels], [table], results)

    def work(run: Run, files: list[str] | None, folder: str | None, labels: str) -> Outcome:
        chosen = run.pictures(files, folder)        # checked; a `UsageError` becomes the page's message
        model = run.model()                         # what was chosen for all tabs; kept between runs
        for done, path in enumerate(chosen.paths):
            run.progress(done, len(chosen.paths), "counting pictures")
            run.show(f"<p>{done} so far</p>")       # optional: what there is so far, one value for each output
        (run.folder / "count.txt").write_text(str(len(chosen.paths)))
        lines = Equivalent("...", shell_line("binderclip", "count", chosen.names()))
        return Outcome((f"<p>{len(chosen.paths)}</p>",), files=[run.folder / "count.txt"], again=lines)

    TAB = Tab("Count", "How many pictures there are.", build, order=90)

`work` runs in a thread of its own, one at a time on the whole server; it is stopped from outside (`jobs.JobStopped`),
also between two of its lines, when its user presses Stop or closes the page. It asks the tasks that the verbs
are (`binderclip.tasks`); the method itself is not written again. What is quick (a slider, a click) is an
ordinary Gradio event: `bench.session(request)` says whose files it may touch. Files for the page lie in `run.folder`,
or in a folder of `bench.sessions.new_results`; nothing else can be read by the browser. Text from a user or a file goes
through `html.escape`, or through `look.table`, which does it.
"""
