"""The workbench: one local page on which people look instead of reading (`binderclip workbench`).

Where things are:

- `server.py` listens on 127.0.0.1; `guard.py` decides which requests Gradio gets to see; `uploads.py` and `sessions.py`
  keep each browser's files apart; `jobs.py` runs one heavy thing at a time.
- `app.py` builds the page: the model for all tabs, the pictures for all tabs (`place.py`), and one tab for each file in
  `tabs/` and `tabs/make/`.
- `tab.py` is what a tab stands on, `pictures.py` where it gets its pictures (`drop.js`: folders too), `status.py` the
  line below its buttons, `commands.py` the lines that give a result again, `look.py` tables and copies of pictures,
  `grid.py` galleries of them. `fields.py` makes a control of a request's field, `forms.py` a whole form;
  `held.py` keeps what is typed into, `trained/` what a
  page trains for its other tabs, `theme/` has the tokens of colour and size that the styles in `static/` name.

**To add a tab, add one file** to `tabs/`. It has a `TAB`; nothing else has to be told of it:

    import gradio as gr

    from binderclip.tasks import attack
    from binderclip.workbench.commands import Equivalent
    from binderclip.workbench.fields import control
    from binderclip.workbench.look import table
    from binderclip.workbench.tab import Bench, Outcome, Run, Tab

    def build(bench: Bench) -> None:
        pictures = bench.pictures()
        labels = control(attack.request, "labels", value="cat, dog")
        controls = bench.controls("Attack")
        shown = gr.HTML()
        results = bench.results()
        bench.connect(controls, work, [*pictures.inputs, labels], [shown], results)

    def work(run: Run, files: list[str] | None, folder: str | None, labels: str) -> Outcome:
        chosen = run.pictures(files, folder)        # checked; a `UsageError` becomes the page's message
        request = attack.request(
            model=run.model_name, images=chosen.arguments, labels=labels.split(", "), out=str(run.folder / "attack")
        )
        result = attack.run(request)                # its events move the bar; models are kept between runs
        again = Equivalent.of(request.replaced(images=chosen.names(), out="attack"))
        columns, rows = result.table()
        return Outcome((table(columns, rows, result.title),), files=result.files(), again=again)

    TAB = Tab("Attack", "How little has to change.", build, order=90, group="See why")

`work` runs in a thread of its own, one at a time on the whole server; it is stopped from outside (`jobs.JobStopped`),
also between two of its lines, when its user presses Stop or closes the page. It asks the tasks that the verbs
are (`binderclip.tasks`); the method itself is not written again. What is quick (a slider, a click) is an
ordinary Gradio event: `bench.session(request)` says whose files it may touch. Files for the page lie in `run.folder`,
or in a folder of `bench.sessions.new_results`; nothing else can be read by the browser. Text from a user or a file goes
through `html.escape`, or through `look.table`, which does it.
"""
