"""Public names of the lazy rooms for griffe, which reads files without running them."""

from __future__ import annotations

from typing import Any

import griffe


class LazyExports(griffe.Extension):
    """Gives every package that calls `lazy_exports` the `__all__` that it has when it runs."""

    def on_module_members(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        """Export what is imported under `TYPE_CHECKING`, which griffe knows as not there at run time."""
        if "lazy_exports" in mod.members and mod.is_init_module:
            # A module of the package itself is no member yet.
            runtime = {name for name, member in mod.members.items() if member.is_alias and member.runtime}
            mod.exports = [name for name in mod.imports if name not in runtime]
