"""The parts of a Segmenter: attention rewiring, layer fusion, external affinity, windows and views, the text side."""
