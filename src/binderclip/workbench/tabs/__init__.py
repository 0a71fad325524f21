"""The tabs of the page: each file here and in `make` declares one as `TAB`; `TABS` finds them, by group and order."""

from __future__ import annotations

import importlib
import pkgutil

from binderclip.workbench.tab import GROUPS, Tab


def _found() -> tuple[Tab, ...]:
    modules = [importlib.import_module(info.name) for info in pkgutil.walk_packages(__path__, f"{__name__}.")]
    tabs = [tab for module in modules if isinstance(tab := getattr(module, "TAB", None), Tab)]
    return tuple(sorted(tabs, key=lambda tab: (GROUPS.index(tab.group), tab.order, tab.title)))


TABS = _found()
