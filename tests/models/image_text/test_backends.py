"""How the libraries behind an `ImageTextModel` are called."""

from __future__ import annotations

import open_clip
import pytest
import torch

from binderclip.models.image_text.backends import backend_of
from binderclip.models.text.tokenize import TokenIds

VISION = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
END = 49


def tokens(length: int = 77) -> TokenIds:
    """Sentences of 4, 9 and 2 words, padded with zeros."""
    ids = torch.zeros(3, length, dtype=torch.long)
    words = torch.randint(1, END, (3, length), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor([4, 9, 2])
    for row, end in enumerate(ends):
        ids[row, :end] = words[row, :end]
        ids[row, end] = END
    return TokenIds(ids, torch.arange(length) <= ends[:, None], ends)


def text_model(custom: bool, **text) -> torch.nn.Module:
    torch.manual_seed(0)
    config = {"context_length": 77, "vocab_size": 50, "width": 32, "heads": 4, "layers": 2, **text}
    build = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model = build(24, vision_cfg=VISION, text_cfg=config).eval()
    with torch.no_grad():  # the initial logits are too small for attention to matter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.parametrize(
    ("custom", "text"),
    [
        (False, {}),
        (False, {"proj_bias": True, "pool_type": "eos", "eos_id": END}),
        (True, {"proj_bias": True}),
        (True, {"no_causal_mask": True}),
        (True, {"pool_type": "last"}),
    ],
)
def test_padding_that_nothing_reads_is_left_out(custom, text) -> None:
    model, given = text_model(custom, **text), tokens()
    if text.get("pool_type") == "last":
        given = TokenIds(given.ids, given.mask, torch.full((3,), 76))
    lengths: list[int] = []
    (model.text if custom else model).transformer.register_forward_hook(
        lambda _m, args, _o: lengths.append(args[0].shape[1])
    )
    wanted = model.encode_text(given.ids)
    with torch.no_grad():
        found = backend_of("open_clip").text(model, given)
    assert torch.allclose(found, wanted, atol=1e-5)
    reads_padding = text.get("no_causal_mask") or text.get("pool_type") == "last"
    assert lengths == [77, 77 if reads_padding else 10]


def test_gradients_training_and_short_contexts_keep_the_librarys_own_forward() -> None:
    model = text_model(False)
    assert torch.equal(backend_of("open_clip").text(model, tokens()), model.encode_text(tokens().ids))
    short = text_model(False, context_length=16)
    with torch.no_grad():
        assert torch.equal(backend_of("open_clip").text(short, tokens(16)), short.encode_text(tokens(16).ids))
