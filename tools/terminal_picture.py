"""Draws what a terminal showed: reads text with colours on stdin, writes an SVG that needs no font from elsewhere.

tmux capture-pane -e -p | python tools/terminal_picture.py "ens train" docs/pictures/train.svg
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

WIDTH = 104


def main() -> int:
    """Read stdin, write the picture."""
    title, target = sys.argv[1], Path(sys.argv[2])
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in sys.stdin.read().rstrip().splitlines():
        console.print(Text.from_ansi(line), no_wrap=True, crop=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = console.export_svg(title=title, code_format=_without_web_fonts(), unique_id="ens")
    target.write_text(picture + "\n", "utf-8")
    return 0


def _without_web_fonts() -> str:
    """rich's own frame, less the fonts that it would fetch from the web: any monospaced one will do."""
    frame = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return frame.replace("Fira Code, monospace", "monospace")


if __name__ == "__main__":
    sys.exit(main())
