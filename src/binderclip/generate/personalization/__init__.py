"""Teaching a denoiser a new word by a few pictures: `concept` is what was learnt, `training` learns it."""
