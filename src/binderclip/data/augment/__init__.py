"""Training views of a picture: crops and colours, cut-outs, copy-paste, and how removed pixels are filled."""
