"""One file a verb; a verb that needs several files is a folder: command, run, wording, report."""
