"""The canvas of figures: SVG text with colours by class, for a page or for a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

FIGURE_CSS = """
:root { --ink: #2e3436; --grid: #d4d8dd; --s0: #0072b2; }
svg.figure text { fill: var(--text); font-size: 12px; }
.s0 { fill: var(--s0); }
"""
"""The colours of figures; they follow the page's `data-theme` and the system's choice."""


@dataclass(frozen=True)
class Figure:
    """Marks within a width and a height."""

    title: str
    width: int
    height: int
    parts: Sequence[str]

    def inline(self) -> Markup:
        """For a page: colours come from its style."""
        return Markup(
            f'<svg class="figure" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}">{"".join(self.parts)}</svg>'
        )
