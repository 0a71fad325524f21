"""Each of the papers' segmenters from end to end, on pictures where the method it grew out of gives another answer.

p140 (GenSAM), p151 (INT), p149 (SLIP) and p114 (Zip); models, maps and masks are known.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.segment.parts.resolution import Whole
from binderclip.segment.promptable import OracleSegmenter
from binderclip.segment.task import (
    TASK_METHODS,
    BestScore,
    ClosestToMean,
    FixedWords,
    FragmentBoxes,
    FromPoints,
    FromWordBoxes,
    Hypothesis,
    LastRound,
    Loop,
    MostSimilar,
    SimilarityWeighted,
    UnionOfMasks,
    VocabularyGate,
    WordBoxes,
    WordMaps,
    gensam,
    instance_mining,
    methods,
    region_retrieval,
    zip_instances,
)
from binderclip.segment.task.erasing import filled_from_border
from binderclip.segment.task.words import SYNONYMS, patches

COLOURS = ("red", "green", "blue")


class ColourModel:
    """Pictures are the mean colour of what is not black in them, texts are the colours that they name."""

    image_size = 16

    def __init__(self):
        self.shown = []

    def encode_image(self, pictures):
        self.shown.append([picture.size for picture in pictures])
        found = []
        for picture in pictures:
            pixels = np.asarray(picture, dtype=np.float32).reshape(-1, 3)
            lit = pixels[pixels.max(1) > 0]
            found.append(lit.mean(0) - lit.mean() if len(lit) else np.zeros(3))
        return torch.tensor(np.stack(found)) + 1e-3

    def text_bank(self, texts):
        rows = torch.tensor([[float(colour in text) for colour in COLOURS] for text in texts]) - 0.3
        return type("Bank", (), {"prototypes": lambda self: rows, "scale": 20.0})()


@pytest.fixture
def maps(monkeypatch):
    """Takes the place of CLIP Surgery: `maps(function)`, and what it was asked for; `maps.made` is how it was built."""
    asked, made = [], []

    def surgery(cls, model, attends="k", *, resolution=None):
        made.append((attends, resolution))
        return put.localiser

    def put(function):
        def localiser(image, words):
            asked.append((np.asarray(image).copy(), tuple(words)))
            return torch.stack([function(image, word) for word in words])

        put.localiser = localiser
        return asked

    put.made = made
    monkeypatch.setattr(WordMaps, "surgery", classmethod(surgery))
    return put


def test_mistakes_are_named_before_a_picture_is_seen(oracle, maps):
    maps(lambda image, word: torch.zeros(4, 4))
    for make in (gensam, instance_mining, zip_instances):
        with pytest.raises(UsageError, match="no word"):
            make(ColourModel(), oracle, [" "])
    for make in (gensam, instance_mining):
        with pytest.raises(UsageError, match="rounds"):
            make(ColourModel(), oracle, COLOURS, rounds=0)


def test_all_of_them_are_here():
    assert set(TASK_METHODS.values()) == {gensam, instance_mining, region_retrieval, zip_instances}


def test_each_is_built_as_its_paper_says(oracle, maps, monkeypatch):
    """Steps and numbers of the papers, written down beside the makers; any that is swapped or changed is found."""
    maps(lambda image, word: torch.zeros(4, 4))
    model = ColourModel()
    built = gensam(model, oracle, COLOURS)
    assert maps.made.pop() == ("k", None)  # keys attend to keys, on the model's own square
    assert built.proposer.synonyms == SYNONYMS
    assert len(built.proposer.synonyms) == 3
    assert (built.candidates, built.chooser, built.selector) == (FromPoints(), BestScore(), ClosestToMean(2))
    assert built.loop == Loop(rounds=6, reweight="heatmap", share=0.3, box_grow=0.1, tolerance=None)
    assert (built.leading, built.boxes) == (None, None)

    built = instance_mining(model, oracle, COLOURS)
    assert maps.made.pop() == ("k", None)
    assert built.proposer.cumulate
    assert built.proposer.floor == 1e-3
    assert not instance_mining(model, oracle, COLOURS, cumulate=False).proposer.cumulate
    maps.made.clear()
    assert built.proposer.erase is filled_from_border
    assert (built.candidates, built.selector) == (FromWordBoxes(), ClosestToMean(1))
    assert isinstance(built.chooser, SimilarityWeighted)
    assert built.chooser.scale == 100.0
    assert built.loop == Loop(rounds=5, reweight="mask", share=0.3, box_grow=None, tolerance=None)
    assert built.leading == 1
    assert isinstance(built.boxes, WordBoxes)
    assert built.proposer.locate == built.boxes.first

    built = region_retrieval(model, oracle)
    assert maps.made == []
    assert built.localiser is None
    assert isinstance(built.proposer, FixedWords)
    every = built.candidates
    assert (every.points_per_side, every.pred_iou_thresh, every.overlap, every.drop_largest) == (16, 0.9, 0.8, True)
    assert isinstance(built.chooser, MostSimilar)
    assert (built.chooser.ground, built.chooser.size) == ("black", (16, 16))
    assert (built.selector, built.loop.rounds, built.loop.reweight) == (LastRound(), 1, "none")

    monkeypatch.setattr(methods, "middle_features", lambda model, layer=None: lambda image: layer)
    built = zip_instances(model, oracle, COLOURS)
    assert maps.made.pop() == ("v", Whole(512 / 224))  # values, the shorter side at 512 pixels for a model of 224
    assert isinstance(built.proposer, VocabularyGate)
    assert built.proposer.threshold == 0.05
    fragments = built.candidates
    assert (fragments.k, fragments.threshold, fragments.gain, fragments.looseness) == (10, 0.7, 0.3, 3.0)
    assert (fragments.features(None), fragments.overlap, fragments.unit) == (None, 0.5, True)  # None: the middle block
    assert (built.chooser, built.selector) == (UnionOfMasks(), LastRound())
    assert (built.loop.rounds, built.loop.reweight) == (1, "none")


def test_gensam_takes_off_what_the_ground_explains(blobs, picture, oracle, maps):
    """The word's map is hottest on the car, which the word for the ground names: the word alone would mask the car."""
    heat = {"red": blobs[0] * 0.8 + blobs[2] * 1.0, "a wall": blobs[2] * 1.0}
    asked = maps(lambda image, word: heat.get(word, torch.zeros(40, 60)).float())
    segmenter = gensam(ColourModel(), oracle, COLOURS, backgrounds=("a wall", "a red thing"), rounds=3)
    pixels = np.asarray(picture).copy()
    pixels[blobs.any(0).numpy()] = (220, 30, 30)  # red fits best, and so does "in a red thing"
    plain = Image.fromarray(pixels)
    wrong = segmenter(plain, "the hidden thing")
    assert wrong.words == ("red",)
    assert wrong.around == ("a red thing",)
    assert torch.equal(wrong.mask, blobs[2])  # whose map is empty: nothing is taken off
    segmenter = gensam(ColourModel(), oracle, COLOURS, backgrounds=("a wall",), rounds=3)
    asked.clear()
    found = segmenter(plain, "the hidden thing")
    assert torch.equal(found.mask, blobs[0])
    assert [words for _, words in asked] == [("red",) * 3 + ("a wall",) * 3] * 3
    # rounds see a darker and darker ground: three tenths of the picture times the heat, seven of what was seen
    ground = [int(image[39, 59, 0]) for image, _ in asked]
    assert ground[0] == 200
    weight = float(found.rounds[0].heat[39, 59])
    assert ground[1] == pytest.approx(200 * (0.3 * weight + 0.7), abs=1)
    assert oracle.encoded == 2
    assert len(found.rounds) == 3


def test_int_finds_the_name_that_erasing_proves(maps, monkeypatch):
    """Most patches say green, where nothing is: erasing changes nothing there, and the red thing is the answer."""
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, 2:17, 3:28], masks[1, 30:, 40:] = True, True
    pixels = np.full((40, 60, 3), (90, 110, 90), dtype=np.uint8)
    pixels[masks[0].numpy()] = (220, 20, 20)
    picture = Image.fromarray(pixels)

    def heat(image, word):
        own = np.asarray(image, dtype=np.float32)
        if word == "red":
            return torch.tensor(own[..., 0] - own[..., 1:].max(-1)).clamp(min=0)
        corner = torch.zeros(own.shape[:2])
        corner[-4:, -4:] = 1.0
        return corner

    maps(heat)
    most = methods.VocabularyScorer(ColourModel(), COLOURS)
    parts = [picture.crop(place) for place in patches(picture.size)]
    named = [COLOURS[i] for i in most.probabilities(parts, COLOURS).argmax(1).tolist()]
    assert named.count("green") > named.count("red")
    segmenter = instance_mining(ColourModel(), OracleSegmenter(masks), COLOURS, rounds=3)
    found = segmenter(picture, "the hidden thing")
    assert found.words == ("red",)
    assert torch.equal(found.mask, masks[0])
    # the name that the most patches say leads to the other mask
    monkeypatch.setattr(methods.PatchHypotheses, "propose", lambda *a, **k: [Hypothesis("green")])
    assert torch.equal(segmenter(picture, "the hidden thing").mask, masks[1])


def test_slip_takes_the_cutout_that_is_like_the_word(blobs, picture, oracle):
    model = ColourModel()
    segmenter = region_retrieval(model, oracle)
    for row, word in enumerate(("red", "green")):
        assert torch.equal(segmenter(picture, word).mask, blobs[row])
    surest = replace(segmenter, chooser=BestScore())
    assert torch.equal(surest(picture, "red").mask, surest(picture, "green").mask)
    assert {size for sizes in model.shown for size in sizes} == {(16, 16)}  # squashed, whatever the box
    assert segmenter.candidates.pred_iou_thresh == 0.9
    assert torch.equal(region_retrieval(model, oracle, drop_largest=False)(picture, "blue").mask, blobs[2])


def test_zip_parts_two_of_a_kind_that_touch(maps, monkeypatch):
    """The activation of red is one region over two instances; blue is not in the picture and is never looked for."""
    masks = torch.zeros(3, 48, 64, dtype=torch.bool)
    masks[0, 4:20, 4:24], masks[1, 4:20, 24:44], masks[2, 28:44, 30:58] = True, True, True
    pixels = np.full((48, 64, 3), (110, 80, 80), dtype=np.uint8)
    pixels[(masks[0] | masks[1]).numpy()], pixels[masks[2].numpy()] = (200, 20, 20), (20, 200, 20)
    both = (masks[0] | masks[1]).float()
    asked = maps(lambda image, word: {"red": both, "green": masks[2].float()}[word])
    cells = torch.stack([masks[0], masks[1], masks[2], ~masks.any(0)]).float()
    cells[1, :, 24] = 0  # a seam
    cells[3, :, 24] = 1
    monkeypatch.setattr(methods, "middle_features", lambda model, layer=None: lambda image: cells)
    segmenter = zip_instances(ColourModel(), OracleSegmenter(masks), COLOURS, k=4)
    found = segmenter(Image.fromarray(pixels), "every thing")
    kept = found.rounds[0].candidates
    assert asked[0][1] == ("red", "green")
    assert set(found.words) == {"red", "green"}
    assert sorted(kept.names) == ["green", "red", "red"]
    assert {m.numpy().tobytes() for m in kept.logits > 0} == {m.numpy().tobytes() for m in masks}
    assert torch.equal(found.mask, masks.any(0))
    assert torch.equal(segmenter(Image.fromarray(pixels), "every green").mask, masks[2])
    # nothing passes a gate that is too high: no word, no mask
    shut = zip_instances(ColourModel(), OracleSegmenter(masks), COLOURS, k=4, gate=1.0)(Image.fromarray(pixels), "x")
    assert shut.words == ()
    assert not shut.mask.any()
    # with one cluster the two are one
    merged = zip_instances(ColourModel(), OracleSegmenter(masks), COLOURS, k=1)
    assert isinstance(merged.candidates, FragmentBoxes)
    assert len(merged(Image.fromarray(pixels), "every red").rounds[0].candidates) < 2


@pytest.mark.parametrize("name", TASK_METHODS)
def test_each_runs_on_a_model_of_random_weights(clip_model, name):
    """Surgery, middle blocks and cut-outs of a real tower; the answer is a known mask, several or none."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    mask = torch.zeros(2, 48, 64, dtype=torch.bool)
    mask[0, 10:40, 10:50], mask[1, :6, :6] = True, True
    vocabulary = () if name == "slip" else (["cat", "dog", "car"],)
    segmenter = TASK_METHODS[name](clip_model, OracleSegmenter(mask), *vocabulary)
    found = segmenter(noise, "the hidden animal")
    assert found.mask.shape == (48, 64)
    assert len(found.rounds) == segmenter.loop.rounds
    assert set(found.words) <= {"cat", "dog", "car", "the hidden animal"}
    known = {m.numpy().tobytes() for m in (*mask, mask[0] & False, mask.any(0))}
    assert found.mask.numpy().tobytes() in known
    with pytest.raises(UsageError, match="empty"):
        segmenter(noise, " ")
