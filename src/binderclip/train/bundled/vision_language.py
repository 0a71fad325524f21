"""Weights `small-vlm`: the decoder of `TinyVLM`, trained to say whether and where something is in drawn scenes.

`train_bundled_vlm(".../bundled/small-vlm")` makes the scenes, takes their features of `small` once, trains, measures on
drawings that were held out, and writes weights and card; about three minutes on one core.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from binderclip.compress import FastVTokenPruning, kept_inside_boxes
from binderclip.data.sets.packs import pack_hash
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15, vocabulary
from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.models.towers.tokens import Tokens
from binderclip.models.vision_language.tiny import CELLS, PRESENCE, WHERE, TinyVLM, question_of, save_vlm

__all__ = ["SceneQuestions", "accuracies", "asked", "questions_on", "train_bundled_vlm"]

PACKS = ("openclipart", "noto-emoji", "icons", "openmoji")
BACKGROUNDS = ("plain", "gradient", "noise", "texture")
OBJECTS, AREA = (2, 4), (0.03, 0.12)
SIDE, SCENES, TEST_SCENES, CHUNK = 128, 4000, 400, 200
EPOCHS, BATCH, GROUPS, LR, WEIGHT_DECAY = 2, 32, 8, 2e-3, 0.02
KEY_SCALE, VALUE_SCALE = 2.0, 0.1
NETWORK = {"width": 64, "depth": 6, "heads": 2, "ratio": 2}


@dataclass(frozen=True)
class SceneQuestions:
    """Scenes as features, and where the objects are.

    Attributes:
        features: of `TinyVLM.features`.
        cells: cell of each class in the 3 x 3 grid, -1 where the scene does not have it.
        boxes: of each class, xyxy as fractions of the side; zeros where the scene does not have it.
        patches: class of most pixels of each patch, -1 for the background.
    """

    features: Float[Tensor, "N P F"]
    cells: Int[Tensor, "N C"]
    boxes: Float[Tensor, "N C 4"]
    patches: Int[Tensor, "N P"]


def asked(model: TinyVLM, seed: int, count: int, split: str) -> SceneQuestions:
    """So many scenes of a split's drawings, from `seed`."""
    parts = []
    for first in range(0, count, CHUNK):
        made = scenes(
            seed, min(CHUNK, count - first), SIDE, vocabulary=vocabulary("scenes15", split=split),
            objects=OBJECTS, area=AREA, occlusion=0.1, background=list(BACKGROUNDS), first=first,
        )  # fmt: skip
        boxes = torch.zeros(len(made), len(model.names), 4)
        row, slot = (made.labels >= 0).nonzero(as_tuple=True)
        boxes[row, made.labels[row, slot] - 1] = made.boxes[row, slot] / SIDE  # label 0 is the background
        column, line = (boxes[..., 0::2].mean(-1) * 3).long(), (boxes[..., 1::2].mean(-1) * 3).long()
        cells = torch.where(boxes[..., 2] > 0, line.clamp(max=2) * 3 + column.clamp(max=2), -1)
        features = model.features(made.images)
        side = SIDE // round(features.shape[1] ** 0.5)
        patches = functional.unfold(made.semantic[:, None].float(), side, stride=side).mode(1).values.long() - 1
        parts.append((features, cells, boxes, patches))
    return SceneQuestions(*(torch.cat(column) for column in zip(*parts, strict=True)))


def questions_on(
    model: TinyVLM, cells: Int[Tensor, "B C"], groups: int, generator: torch.Generator
) -> tuple[Int[Tensor, "B G Q"], Int[Tensor, "B G"], Int[Tensor, "B G"]]:
    """`groups` questions on every scene, a quarter about something absent: words, answers, and the class asked about.

    The first half asks where something is, the second whether it is there.
    """
    classes = cells.shape[1]
    table = model.ids([question_of(wording, name) for wording in (*WHERE, *PRESENCE) for name in model.names])
    yes, no = model.ids(["yes", "no"])[:, 0].tolist()
    places = model.ids(list(CELLS))[:, 0]
    there = (cells >= 0).float()
    half, quarter = groups // 2, groups - groups // 2 - groups // 4
    chosen = torch.cat([
        torch.multinomial(there, half + groups // 4, replacement=True, generator=generator),
        torch.multinomial(1 - there, quarter, replacement=True, generator=generator),
    ], 1)  # fmt: skip
    wording = torch.randint(0, 2, chosen.shape, generator=generator)
    wording[:, half:] += 2
    cell = cells.gather(1, chosen)
    answers = torch.where(cell >= 0, yes, no)
    answers[:, :half] = places[cell[:, :half]]
    return table[wording * classes + chosen], answers, chosen


def grouped_logits(
    model: TinyVLM, features: Float[Tensor, "B P F"], questions: Int[Tensor, "B G Q"]
) -> Float[Tensor, "B G V"]:
    """Logits after each of several questions on one image: the image is read once, questions do not see each other."""
    _, groups, length = questions.shape
    one = model.embed(features, questions[:, 0])
    before = one.x.shape[1] - length
    x = torch.cat([one.x[:, :before], model.net.words(questions.flatten(1))], 1)
    place = torch.cat([torch.arange(before), before + torch.arange(length).repeat(groups)])
    group = torch.cat([torch.full((before,), -1), torch.arange(groups).repeat_interleave(length)])
    apart = (group[:, None] != group) & (group >= 0)  # a query sees the image and its own question
    bias = torch.zeros(apart.shape).masked_fill(apart, float("-inf"))[None, None]
    tokens = Tokens(x, place[None], grid=one.grid, prefix=1, extra=groups * length, causal=True)
    out = model.decoder.run(tokens, attn_bias=bias).x[:, before:].unflatten(1, (groups, length))[:, :, -1]
    return model.decoder.project(model.decoder.norm(out))


def class_components(classes: int, pairs: int) -> list[int]:
    """Component of a head in which each class is compared: both of the slowest pairs, of which there are half as many.

    Pair i turns components i and i + `pairs`, the last one slowest. The first half of the classes takes the first
    components and the second half the second ones of the same pairs, so that the turn costs both alike.

    Raises:
        UsageError: more classes than pairs, of which some would be compared where the turn is fast.
    """
    if classes > pairs:
        raise UsageError(f"{classes} classes do not fit into the slower half of {pairs} pairs")
    slow = (classes + 1) // 2
    return [pairs * (number // slow) + pairs - 1 - number % slow for number in range(classes)]


@torch.no_grad()
def aligned_(model: TinyVLM, data: SceneQuestions, ridge: float = 10.0) -> None:
    """Set the start in closed form: a word attends to the patches that show it, and brings their cell along.

    The linear map says of a patch what it shows, as LLaVA's first stage aligns its connector, and its place has the
    word of its cell. Queries and keys compare the two where the rotary turn is slow (`class_components`), values come
    back as they are (as in mimetic initialisation, Trockman and Kolter, arXiv 2305.09828), and the answers read the
    cells.
    """
    net, side = model.net, round(data.patches.shape[1] ** 0.5)
    place = torch.arange(side * side)
    cell = (place // side * 3 // side) * 3 + place % side * 3 // side
    # at right angles, of length 4: words, and directions that say "this patch shows a cat", which no word has
    basis = nn.init.orthogonal_(torch.empty(len(model.words) + len(model.names), net.width), gain=4.0)
    net.words.weight.copy_(basis[: len(model.words)])
    seen = basis[len(model.words) :]
    named, located = (net.words.weight[model.ids(list(words))[:, 0]] for words in (model.names, CELLS))
    net.places.add_(located[cell])
    y = torch.where((data.patches >= 0)[..., None], seen[data.patches.clamp(min=0)], torch.zeros(())).flatten(0, 1)
    normalise, linear = net.connect
    x = functional.pad(normalise(data.features).flatten(0, 1), (0, 1), value=1.0)
    solved = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1]), x.T @ y)
    linear.get_parameter("weight").copy_(solved[:-1].T)
    linear.get_parameter("bias").copy_(solved[-1])
    net.answer.weight.mul_(0.1)
    net.answer.weight[model.ids(list(CELLS))[:, 0]] += located / 4
    half = net.width // net.heads // 2
    rows = class_components(len(named), half)
    for layer in net.layers:
        query, key = torch.randn(2, net.width, net.width) * 0.02
        for head in range(net.heads):
            index = [2 * half * head + row for row in rows]
            query[index], key[index] = KEY_SCALE * named / 4, KEY_SCALE * seen / 4
        value = torch.linalg.qr(torch.randn(net.width, net.width)).Q
        layer.get_parameter("qkv.weight").copy_(torch.cat([query, key, value]))
        layer.get_parameter("out.weight").copy_(VALUE_SCALE * value.T)


def train_vlm(model: TinyVLM, data: SceneQuestions, *, epochs: int = EPOCHS, seed: int = 0, log: Any = None) -> None:
    """AdamW on the answers, warm-up and cosine, questions drawn anew at every step."""
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(data.cells) // BATCH)
    optimizer = torch.optim.AdamW(model.net.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.08)
    model.train()
    for step in range(steps):
        if step % (len(data.cells) // BATCH) == 0:
            order = torch.randperm(len(data.cells), generator=generator)
        rows = order[step % (len(data.cells) // BATCH) * BATCH :][:BATCH]
        questions, answers, _ = questions_on(model, data.cells[rows], GROUPS, generator)
        logits = grouped_logits(model, data.features[rows], questions)
        loss = functional.cross_entropy(logits.flatten(0, 1), answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if log and step % 40 == 0:
            log(step, steps, float(loss), (logits.argmax(-1) == answers).float().mean(0).tolist())
    model.eval()


@torch.no_grad()
def accuracies(model: TinyVLM, data: SceneQuestions, seed: int = 0) -> dict[str, float]:
    """Share of right answers of each kind of question."""
    questions, answers, _ = questions_on(model, data.cells, GROUPS, torch.Generator().manual_seed(seed))
    logits = [grouped_logits(model, data.features[p], questions[p]) for p in torch.arange(len(answers)).split(100)]
    right = (torch.cat(logits).argmax(-1) == answers).float()
    return {"where": float(right[:, : GROUPS // 2].mean()), "presence": float(right[:, GROUPS // 2 :].mean())}


@torch.no_grad()
def kept_in_box(model: TinyVLM, data: SceneQuestions, *, keep_rate: float = 0.3) -> dict[str, dict[str, float]]:
    """Percent of what one early stage keeps that lies on the object asked about, by half of the classes.

    One question for each object that is there. The rotary turn should cost both halves alike: the recipe starts with
    a comparison of classes, and that must not decide which of them the turn hides.
    """
    scene, chosen = (data.cells >= 0).nonzero(as_tuple=True)
    questions = model.ids([question_of(WHERE[0], name) for name in model.names])[chosen]
    tokens = model.embed(data.features[scene], questions)
    assert tokens.grid is not None
    later = chosen >= (len(model.names) + 1) // 2
    out: dict[str, dict[str, float]] = {"first half": {}, "second half": {}}
    for rope, turn in ((True, "with rotary"), (False, "without rotary")):
        kept = FastVTokenPruning(1, keep_rate=keep_rate, rope=rope).run(model.decoder, tokens).kept[1]
        inside = kept_inside_boxes(kept, data.boxes[scene, chosen], tokens.grid)
        for number, half in enumerate(out.values()):
            half[turn] = round(100 * float(inside[later == bool(number)].mean()), 1)
    return out


def train_bundled_vlm(target: str | Path, *, log: Any = None) -> Path:
    """Train, measure and write the folder."""
    started = process_time()
    torch.manual_seed(0)
    model = TinyVLM(load("small"), tuple(SCENES15), **NETWORK)
    data, test = asked(model, 1, SCENES, "train"), asked(model, 2, TEST_SCENES, "val")
    aligned_(model, data)
    train_vlm(model, data, log=log)
    model.net.load_state_dict({name: value.half().float() for name, value in model.net.state_dict().items()})
    figures = {kind: round(100 * value, 1) for kind, value in accuracies(model, test).items()}
    card = {
        "name": Path(target).name,
        "summary": "says whether and where one of fifteen things is in a drawn scene of 128 px; for token pruning",
        "recipe": "binderclip.train.bundled.vision_language.train_bundled_vlm",
        "how": f"{SCENES} scenes of {OBJECTS[0]} to {OBJECTS[1]} objects, features of small before its last block, "
        f"{EPOCHS} epochs, {GROUPS} questions a scene, one CPU core; weights in 16 bits.",
        "seconds": round(process_time() - started),
        "trained_on": {"scenes": SCENES, "data_hash": {name: pack_hash(name) for name in PACKS}},
        "unit": f"percent of answers right, {TEST_SCENES} scenes of held-out drawings; chance: where 21 (the "
        "commonest cell), presence 50",
        "figures": figures,
        "kept_in_box": {
            "unit": "percent of the 0.3 of tokens kept by attention before the second layer that lie on the object "
            "asked about, the same scenes, by half of the classes (the first eight, the other seven)",
            **kept_in_box(model, test),
        },
    }  # fmt: skip
    return save_vlm(model, target, card=card)
