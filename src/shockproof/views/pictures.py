"""
Pictures as inline SVG: no script, no font, nothing from outside.

There is no text inside of them: they are stretched to the width of the page, from a phone's to a wall's, and what they
show stands beside them as text. Colours are the page's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["bar", "stacked_bars", "strip"]


def stacked_bars(
    series: Mapping[str, Sequence[int]], labels: Sequence[str], *, title: str, most: int | None = None
) -> str:
    """
    A bar for each label, with a part for each series, the first one below; *title* says what is seen.

    The parts have the class of their series' name. *most*: what the full height stands for.
    """
    totals = [sum(values) for values in zip(*series.values(), strict=True)]
    top = max(most or max(totals, default=0), 1)
    shapes: list[str] = []
    for place, label in enumerate(labels):
        if not totals[place]:
            continue
        parts = [(name, values[place]) for name, values in series.items() if values[place]]
        said = ", ".join(f"{count} {name}" for name, count in parts)
        shapes.append(f"<g><title>{escape(f'{label}: {said}')}</title>")
        shapes.append(f'<rect class="nothing" x="{place}" y="0" width="1" height="100"/>')
        y = 100.0
        for name, count in parts:
            height = 100.0 * count / top
            y -= height
            shapes.append(
                f'<rect class="{escape(name)}" x="{place + 0.08:.2f}" y="{y:.2f}" width="0.84" height="{height:.2f}"/>'
            )
        shapes.append("</g>")
    return (
        f'<svg class="bars" role="img" aria-label="{escape(title)}" viewBox="0 0 {max(len(labels), 1)} 100" '
        f'preserveAspectRatio="none">{"".join(shapes)}</svg>'
    )


def strip(values: Sequence[int], labels: Sequence[str], *, title: str, most: int) -> str:
    """A band that is darker where there is more; *most* is the darkest."""
    shapes = [
        f'<rect x="{place}" y="0" width="1" height="1" shape-rendering="crispEdges" fill-opacity="{0.25 + 0.75 * value / max(most, 1):.2f}">'
        f"<title>{escape(f'{label}: {value}')}</title></rect>"
        for place, (label, value) in enumerate(zip(labels, values, strict=True))
        if value
    ]
    return (
        f'<svg class="strip" role="img" aria-label="{escape(title)}" viewBox="0 0 {max(len(labels), 1)} 1" '
        f'preserveAspectRatio="none">{"".join(shapes)}</svg>'
    )


def bar(value: int, most: int) -> str:
    """One bar beside its number, which is what a screen reader reads."""
    width = 100.0 * value / max(most, 1)
    return (
        '<svg class="bar" aria-hidden="true" viewBox="0 0 100 1" preserveAspectRatio="none">'
        f'<rect x="0" y="0" width="{width:.2f}" height="1"/></svg>'
    )
