"""The page's one theme: colours by day and by night, type scale, spacing and corners; styles name these tokens only.

Two accents: the first stands on what acts (the main button, the open tab, focus, progress), the second on what asks for
a look (ticked pictures, what was left out). All else is grey, so that no colour competes with a picture.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr


class Colour(NamedTuple):
    """A colour token.

    Args:
        light, dark: by day and by night, as `#rrggbb`. ink_on: tokens that text of this colour stands on.
    """

    light: str
    dark: str
    ink_on: tuple[str, ...] = ()


GROUNDS = ("surface", "sunken", "raised")
COLOURS: dict[str, Colour] = {
    "surface": Colour("#ffffff", "#16191f"),
    "sunken": Colour("#f3f4f7", "#0f1216"),
    "raised": Colour("#e9ebf0", "#242932"),
    "border": Colour("#d6dae2", "#333a46"),
    "border-strong": Colour("#7a8496", "#7c8698"),
    "ink": Colour("#1b1f28", "#e9ecf2", (*GROUNDS, "accent-soft", "attention-soft", "danger-soft")),
    "ink-quiet": Colour("#545d6d", "#a9b1be", (*GROUNDS, "accent-soft")),
    "accent": Colour("#3446b8", "#4f60cd"),
    "accent-hover": Colour("#28379a", "#5a6bd8"),
    "on-accent": Colour("#ffffff", "#ffffff", ("accent", "accent-hover")),
    "accent-ink": Colour("#3042ad", "#aab8ff", (*GROUNDS, "accent-soft")),
    "accent-soft": Colour("#e7eafb", "#2a3156"),
    "focus": Colour("#3446b8", "#8fa2ff"),
    "attention": Colour("#b45309", "#e8a13c"),
    "attention-ink": Colour("#85480a", "#f5bd6a", (*GROUNDS, "attention-soft")),
    "attention-soft": Colour("#fbeed8", "#3a2a10"),
    "danger": Colour("#b42318", "#f0736a"),
    "danger-ink": Colour("#8f1d1d", "#ffb4ab", (*GROUNDS, "danger-soft")),
    "danger-soft": Colour("#fdeeee", "#45171a"),
    # Around an enlarged picture it is dark by day as well: nothing shines beside it.
    "stage": Colour("#0c0f14", "#0c0f14"),
    "stage-bar": Colour("#171b22", "#171b22"),
    "stage-raised": Colour("#262c37", "#262c37"),
    "stage-border": Colour("#707b8e", "#707b8e"),
    "stage-ink": Colour("#f1f4f9", "#f1f4f9", ("stage", "stage-bar", "stage-raised")),
    "stage-quiet": Colour("#c6cdd8", "#c6cdd8", ("stage", "stage-bar")),
    "stage-focus": Colour("#8fa2ff", "#8fa2ff"),
    # Behind pictures that let light through, and behind pages that others made: as they were meant to be seen.
    "paper": Colour("#ffffff", "#ffffff"),
    "shade": Colour("#646e7e", "#05070a"),
}
"""Tokens by name; `--b-NAME` in styles."""
SIZES: dict[str, str] = {
    # Type: each step is larger by about a sixth.
    "text-xs": "0.75rem", "text-sm": "0.8125rem", "text-md": "0.9375rem", "text-lg": "1.0625rem", "text-xl": "1.25rem",
    # Space: 4, 8, 12, 16, 24 and 40 px.
    "space-1": "0.25rem", "space-2": "0.5rem", "space-3": "0.75rem", "space-4": "1rem", "space-5": "1.5rem",
    "space-6": "2.5rem",
    "radius-sm": "4px", "radius-md": "8px", "radius-lg": "12px",
    # What a finger hits, the button of a run on a laptop, and the column of tabs.
    "target": "44px", "controls": "40px", "tabs-width": "12.5rem",
}  # fmt: skip
"""Type scale, spacing, corners; `--b-NAME` in styles."""
_GRADIO = {
    "body_background_fill": "sunken", "body_text_color": "ink", "body_text_color_subdued": "ink-quiet",
    "background_fill_primary": "surface", "background_fill_secondary": "sunken",
    "border_color_primary": "border", "border_color_accent": "accent", "border_color_accent_subdued": "border",
    "color_accent_soft": "accent-soft",
    "link_text_color": "accent-ink", "link_text_color_hover": "accent-ink", "link_text_color_active": "accent-ink",
    "link_text_color_visited": "accent-ink", "code_background_fill": "sunken",
    "block_background_fill": "sunken", "block_border_color": "border", "block_info_text_color": "ink-quiet",
    "block_label_background_fill": "sunken", "block_label_border_color": "border",
    "block_label_text_color": "ink-quiet", "block_title_text_color": "ink", "panel_background_fill": "sunken",
    "panel_border_color": "border", "accordion_text_color": "ink", "table_text_color": "ink",
    "table_border_color": "border", "table_even_background_fill": "surface", "table_odd_background_fill": "sunken",
    "table_row_focus": "accent-soft",
    "checkbox_background_color": "surface", "checkbox_background_color_focus": "surface",
    "checkbox_background_color_hover": "surface", "checkbox_background_color_selected": "accent",
    "checkbox_border_color": "border-strong", "checkbox_border_color_focus": "focus",
    "checkbox_border_color_hover": "border-strong", "checkbox_border_color_selected": "accent",
    "checkbox_label_background_fill": "surface", "checkbox_label_background_fill_hover": "sunken",
    "checkbox_label_background_fill_selected": "accent-soft", "checkbox_label_border_color": "border",
    "checkbox_label_border_color_hover": "border-strong", "checkbox_label_text_color": "ink",
    "checkbox_label_text_color_selected": "ink",
    "error_background_fill": "danger-soft", "error_border_color": "danger", "error_text_color": "danger-ink",
    "error_icon_color": "danger-ink",
    "input_background_fill": "surface", "input_background_fill_focus": "surface",
    "input_background_fill_hover": "surface", "input_border_color": "border-strong",
    "input_border_color_focus": "focus", "input_border_color_hover": "border-strong",
    "input_placeholder_color": "ink-quiet", "loader_color": "accent", "slider_color": "accent",
    "stat_background_fill": "accent-soft",
    "button_primary_background_fill": "accent", "button_primary_background_fill_hover": "accent-hover",
    "button_primary_border_color": "accent", "button_primary_border_color_hover": "accent-hover",
    "button_primary_text_color": "on-accent", "button_primary_text_color_hover": "on-accent",
    "button_secondary_background_fill": "surface", "button_secondary_background_fill_hover": "raised",
    "button_secondary_border_color": "border-strong", "button_secondary_border_color_hover": "border-strong",
    "button_secondary_text_color": "ink", "button_secondary_text_color_hover": "ink",
}  # fmt: skip
"""Gradio's own variable -> token that it has."""


def tokens_css() -> str:
    """All tokens as variables of CSS, by day and, below `.dark`, by night."""
    sizes = "".join(f"--b-{name}: {value}; " for name, value in SIZES.items())
    light = "".join(f"--b-{name}: {colour.light}; " for name, colour in COLOURS.items())
    # Gradio's own accent knows no night.
    dark = "".join(f"--b-{name}: {colour.dark}; " for name, colour in COLOURS.items())
    dark += f"--color-accent: {COLOURS['accent-ink'].dark}; "
    return f":root {{ color-scheme: light; {sizes}{light}}}\n.dark {{ color-scheme: dark; {dark}}}\n"


def theme() -> Any:
    """Gradio's plain theme with these tokens, in the fonts of the user's own system: nothing is fetched."""
    base = gr.themes.Base(
        primary_hue="indigo",
        secondary_hue="amber",
        neutral_hue="slate",
        text_size=gr.themes.Size(
            xxs="0.6875rem",
            xs=SIZES["text-xs"],
            sm=SIZES["text-sm"],
            md=SIZES["text-md"],
            lg=SIZES["text-lg"],
            xl=SIZES["text-xl"],
            xxl="1.5rem",
            name="text",
        ),
        spacing_size="sm",
        radius_size=gr.themes.Size(
            "2px", "3px", SIZES["radius-sm"], "6px", SIZES["radius-md"], "10px", SIZES["radius-lg"], name="radius"
        ),
        font=[gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")],
        font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
    )
    values = {
        "color_accent": COLOURS["accent"].light, "input_border_width": "1px", "button_border_width": "1px",
        "block_border_width": "0px", "button_large_text_size": SIZES["text-lg"], "button_large_text_weight": "600",
        "block_title_text_weight": "600", "block_info_text_size": SIZES["text-sm"], "block_padding": "0px",
        "form_gap_width": "0px",
    }  # fmt: skip
    for name, token in _GRADIO.items():
        values[name], values[f"{name}_dark"] = COLOURS[token].light, COLOURS[token].dark
    made = base.set(**values)
    made.custom_css = tokens_css()
    return made
