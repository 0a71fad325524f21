"""Which verbs there are, in which panel of `binderclip --help`, and what each does in a line."""

from __future__ import annotations

PANELS: dict[str, dict[str, str]] = {
    "See": {
        "classify": "which of your labels fits each image",
        "search": "find images by words, or by an example",
        "segment": "a label for every pixel",
        "segment-task": "what one sentence means in every picture",
        "segment-example": "what a picture with its mask shows, in other pictures",
        "segment-head": "a label for every pixel, by a trained head",
        "segment-presets": "what each preset of segment is for",
        "click": "cut out what you point at",
        "masks": "cut out everything there is",
        "trace": "a vessel, root or road as a line",
        "edges": "where in a picture one thing ends and another begins",
        "locate": "which of your boxes or masks a text means",
        "atlas": "a map of a folder: what is alike, in named clusters",
        "duplicates": "pictures that are there twice, and which one to keep",
        "anomaly": "which pictures are damaged, and where",
        "explain": "where in a picture the evidence for a label is",
        "workbench": "all of it on a local web page: drop pictures, look",
    },
    "Adapt": {
        "adapt": "the best classifier for your own labelled pictures",
        "descriptions": "sentences about your labels, shipped or written",
    },
    "Train": {
        "curate": "which pairs of a pool to train on",
        "embed": "embeddings of a pool's pictures and captions, as Parquet",
        "train": "train a model by a recipe, on your pictures or ours",
        "compress": "a smaller model, and what it costs in quality",
        "spikes": "where a run's gradient spiked, and by what",
    },
    "Check": {
        "evaluate": "retrieval and zero-shot accuracy of a model",
        "segment-evaluate": "presets of segment on true label maps",
        "quality": "which pictures are blurred, dark or noisy, worst first",
        "detect": "which pictures are generated, by a bundled or own detector",
        "geometry": "where pictures and texts lie, and the gap between them",
        "landscape": "the loss around a model: plane, line, numbers",
        "interpolate": "the best model between two, and layers that break it",
        "attack": "can it be fooled by changes that nobody sees?",
        "probe": "groups of pictures that a model is worse for",
        "heads": "what every attention head says, in words",
        "papers": "the index of the 182 papers",
        "reproduce": "measure a paper's claim again",
    },
    "Make": {
        "draw": "a picture of a text, by strokes that a model guides",
        "vectorize": "pictures as few paths with gradient fills: SVG",
        "edit": "a picture changed from one text to another",
        "generate": "pictures of your texts, or out of your own pictures",
        "enhance": "more even light in backlit pictures",
        "erase": "take what you point at out of a picture",
        "inpaint": "paint what a text says into a mask",
        "personalize": "teach a diffusion model a word for what you show it",
        "foveate": "pictures as an eye sees them that rests on a point",
        "reconstruct": "a solid out of its slices, as a mesh",
        "clean": "pictures without their fences or reflections",
        "translate": "pictures of one folder in the look of another",
    },
    "More": {
        "demo": "the page of `make demo`",
        "info": "what is installed, and the bundled models",
        "cache": "the cache of image and text features",
    },
}
"""Panel -> verb -> line, in the order of the help; a verb is a task, or in `cli/verbs` by its name."""

VERBS = tuple(verb for panel in PANELS.values() for verb in panel)

FIRST = """\
binderclip: pictures and words on your own machine. Type one of these first:

  binderclip classify photos/ --labels "a cat,a dog,a car"     what each picture shows
  binderclip segment photo.jpg --labels "cat,sofa"             a label for every pixel
  binderclip search index photos/                              then: binderclip search query "a dog" -i photos/
  binderclip adapt pets/                                       the best classifier; pets/ has one folder a class
  binderclip workbench                                         a local web page: drop pictures, look
  binderclip demo                                              all of it on one page

binderclip --help lists the verbs, binderclip VERB --help shows one with examples.
"""
"""What `binderclip` alone says."""
