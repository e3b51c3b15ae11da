"""The studio's look: grey-green paper in the light, a darkroom in the dark, one calm accent, so that pictures speak."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio.themes import Base

FONT = (
    "system-ui",
    "Segoe UI",
    "Roboto",
    "Noto Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Cascadia Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

# name -> (light, dark); style.css has the same ones as --ms-<name>.
COLOURS = {
    "paper": ("#f1f4f3", "#0f1514"),
    "card": ("#ffffff", "#171f1e"),
    "field": ("#f7f9f8", "#1e2826"),
    "line": ("#d8e0de", "#2a3735"),
    "ink": ("#15211f", "#e5edeb"),
    "soft": ("#566663", "#97a8a5"),
    "accent": ("#0e6e6b", "#52bfb5"),
    "strong": ("#0a5754", "#74d2c9"),
    "wash": ("#dfeeec", "#1b3432"),
    "on": ("#ffffff", "#05201d"),
    "warm": ("#b46a00", "#e6a63c"),
    "bad": ("#b3261e", "#ff8f85"),
    "badwash": ("#fbe9e7", "#3a1b19"),
}


def variables() -> str:
    """The colours as CSS variables for both modes."""
    light = "".join(f"--ms-{name}:{pair[0]};" for name, pair in COLOURS.items())
    dark = "".join(f"--ms-{name}:{pair[1]};" for name, pair in COLOURS.items())
    return f":root{{{light}}}.dark{{{dark}}}"


# Gradio's variables -> ours.
_FILLS = {
    "body_text_color_subdued": "soft",
    "background_fill_primary": "card",
    "background_fill_secondary": "paper",
    "border_color_primary": "line",
    "border_color_accent": "accent",
    "color_accent_soft": "wash",
    "block_background_fill": "card",
    "block_border_color": "line",
    "block_label_background_fill": "card",
    "block_label_text_color": "soft",
    "block_title_text_color": "ink",
    "block_info_text_color": "soft",
    "panel_background_fill": "card",
    "input_background_fill": "field",
    "input_border_color": "line",
    "input_border_color_focus": "accent",
    "input_placeholder_color": "soft",
    "slider_color": "accent",
    "loader_color": "accent",
    "button_primary_background_fill": "accent",
    "button_primary_background_fill_hover": "strong",
    "button_primary_border_color": "accent",
    "button_primary_text_color": "on",
    "button_secondary_background_fill": "card",
    "button_secondary_background_fill_hover": "wash",
    "button_secondary_border_color": "line",
    "button_secondary_text_color": "ink",
    "button_cancel_background_fill": "badwash",
    "button_cancel_text_color": "bad",
    "button_cancel_border_color": "bad",
    "checkbox_background_color": "field",
    "checkbox_background_color_selected": "accent",
    "checkbox_border_color": "soft",
    "checkbox_border_color_selected": "accent",
    "checkbox_label_background_fill": "card",
    "checkbox_label_background_fill_hover": "wash",
    "checkbox_label_background_fill_selected": "wash",
    "checkbox_label_text_color": "ink",
    "checkbox_label_text_color_selected": "ink",
    "checkbox_label_border_color": "line",
    "checkbox_label_border_color_selected": "accent",
    "link_text_color": "accent",
    "link_text_color_hover": "strong",
    "accordion_text_color": "ink",
    "error_background_fill": "badwash",
    "error_border_color": "bad",
    "error_text_color": "bad",
}


def make() -> "Base":
    """The Gradio theme."""
    import gradio as gr

    theme = gr.themes.Base(font=FONT, font_mono=MONO, radius_size=gr.themes.sizes.radius_md)
    pairs = {}
    for mode, end in enumerate(("", "_dark")):  # the page's frame is painted before our variables are there
        pairs |= {f"body_background_fill{end}": COLOURS["paper"][mode], f"body_text_color{end}": COLOURS["ink"][mode]}
    for key, name in _FILLS.items():
        pairs |= {key: f"var(--ms-{name})", f"{key}_dark": f"var(--ms-{name})"}
    known = set(gr.themes.Base.set.__code__.co_varnames)
    pairs = {key: value for key, value in pairs.items() if key in known}
    return theme.set(
        **pairs,
        color_accent="var(--ms-accent)",
        block_border_width="0px",
        block_shadow="none",
        block_radius="10px",
        container_radius="10px",
        input_border_width="1px",
        input_radius="8px",
        input_shadow="none",
        input_shadow_focus="0 0 0 3px var(--ms-wash)",
        block_title_text_weight="600",
        block_label_text_weight="600",
        button_large_radius="9px",
        button_medium_radius="9px",
        button_small_radius="8px",
        button_primary_shadow="none",
        button_secondary_shadow="none",
        layout_gap="12px",
        form_gap_width="0px",
        block_padding="10px 12px",
    )
