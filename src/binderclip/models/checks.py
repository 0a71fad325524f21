"""Say what to do where a network is given that is not wrapped as an `ImageTextModel`."""

from __future__ import annotations

from torch import nn

from binderclip.errors import UsageError

LIBRARIES = ("open_clip", "transformers")


def library_of(module: object) -> str:
    """`open_clip` or `transformers`, where the class of a network, or one of its bases, is of that library; else ""."""
    roots = (base.__module__.split(".")[0] for base in type(module).__mro__)
    return next((root for root in roots if root in LIBRARIES), "")


def class_in_words(module: object) -> str:
    """A network in words: `an open_clip CLIP`, `a transformers SiglipModel`, `a module Mine`."""
    library, name = library_of(module), type(module).__name__
    return f"{'an' if library == 'open_clip' else 'a'} {library or 'module'} {name}"


def refuse_image_text_module(model: object, what: str) -> None:
    """Refuse a bare network that encodes pictures and texts, where one from pictures to logits is wanted.

    Args:
        model: what the user gave.
        what: as for `refuse_bare_module`.

    Raises:
        UsageError: it is one.
    """
    if any(callable(getattr(model, encode, None)) for encode in ("encode_image", "get_image_features")):
        refuse_bare_module(model, what)


def refuse_bare_module(model: object, what: str, *, own: bool = False) -> None:
    """Refuse a network as a library or the user wrote it, where an `ImageTextModel` is wanted.

    What is of binderclip's own classes, what has a `preprocess` or `encode_files` as they do, and what is no network (a
    name, a path) is left to the caller.

    Args:
        model: what the user gave, one or several.
        what: the function or class that it was given to, for the message.
        own: let networks of the user's own through, where anything with `encode_image` of pixels in [0, 1] does; those
            of a library take normalised pixels, so their features would be wrong without a word.

    Raises:
        UsageError: it is a bare network.
    """
    if isinstance(model, (list, tuple)):
        for each in model:
            refuse_bare_module(each, what, own=own)
    library = library_of(model)
    if not isinstance(model, nn.Module) or (own and not library):
        return
    if any(hasattr(model, part) for part in ("preprocess", "encode_files")):
        return
    if any(base.__module__.startswith("binderclip.") for base in type(model).__mro__):
        return
    known = {"open_clip": "module, tokenizer=ARCHITECTURE", "transformers": "module, preprocess=PROCESSOR"}
    given = known.get(library, "module, preprocess=..., tokenizer=...")
    raise UsageError(
        f"{what} takes an ImageTextModel, and this is {class_in_words(model)}; wrap it: "
        f"model = binderclip.from_module({given})"
    )
