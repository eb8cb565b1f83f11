"""How large the house is: files, lines, functions and comments of `ensemble/`; of another checkout if one is named.

python tools/house_size.py [CHECKOUT]
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path
from statistics import median, quantiles


def main() -> None:
    """Print one line a figure."""
    package = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1]) / "ensemble"
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))}
    lines = {path: len(text.splitlines()) for path, text in texts.items()}
    modules = [count for path, count in lines.items() if path.name != "__init__.py"]
    trees = {path: ast.parse(text) for path, text in texts.items()}
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = sorted((node.end_lineno or 0) - node.lineno + 1 for node in functions)
    widest = max(functions, key=parameters)
    comments = sum(map(comment_lines, texts.values()))
    rooms = Counter(path.parent.name for path in texts)
    uses = Counter(node.id for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Name))
    uses.update(node.attr for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    private = [node.name for node in functions if node.name.startswith("_") and not node.name.startswith("__")]
    total = sum(lines.values())
    rows = {
        "files": len(texts),
        "lines": total,
        "lines of a module, median (without __init__)": median(modules),
        "lines of a module, most": max(modules),
        "files in the largest room": f"{rooms.most_common(1)[0][1]} ({rooms.most_common(1)[0][0]})",
        "functions": len(functions),
        "lines of a function, median": median(lengths),
        "lines of a function, 90 %": round(quantiles(lengths, n=10)[-1]),
        "lines of a function, most": lengths[-1],
        "most parameters": f"{parameters(widest)} ({widest.name})",
        "functions with more than 8 parameters": sum(parameters(node) > 8 for node in functions),
        "private functions used once": f"{sum(uses[name] <= 1 for name in private) / len(private):.0%}",
        "comments per 1,000 lines": round(1000 * comments / total, 1),
    }
    for name, value in rows.items():
        print(f"{name:46} {value:,}" if isinstance(value, int) else f"{name:46} {value}")


def parameters(function: ast.FunctionDef) -> int:
    """Parameters without `self` and `cls`."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return sum(item.arg not in ("self", "cls") for item in every)


def comment_lines(text: str) -> int:
    """Lines with a comment, beside code or alone; those for tools (noqa, type: ignore, pragma) do not count."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]
    return sum(not comment.startswith(("noqa", "type: ignore", "pragma")) for comment in comments)


if __name__ == "__main__":
    main()
