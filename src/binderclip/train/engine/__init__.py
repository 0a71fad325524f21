"""The run itself: stages, checkpoints, surgery, monitoring, plots, evaluation."""
