"""`docs/notebook.ipynb`, run in a kernel: what it shows is short, progress is seen, and every cell works."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after every cell has run, in an empty folder."""
    import nbformat
    from nbclient import NotebookClient

    place = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("ENS_OUTPUTS", raising=False)
        for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):  # nothing of the machine's own
            patch.setenv(name, str(place / ".jupyter"))
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": place}})
        client.execute()  # a cell that raises fails here, with its traceback
    return notebook


def outputs_of(notebook: Any, word: str) -> list[Any]:
    """The outputs of the one cell that begins with this text."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.startswith(word))
    return list(cell.outputs)


def text_of(output: Any) -> str:
    """What an output shows as plain text."""
    return str(output["text"] if output.output_type == "stream" else output["data"]["text/plain"])


def test_the_committed_notebook_holds_no_outputs() -> None:
    """They would differ at each run, and grow the repository."""
    import nbformat

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_a_training_cell_shows_progress_then_the_run_as_a_table(executed: Any) -> None:
    *progress, result = outputs_of(executed, "recipe = {")
    shown = "".join(text_of(output) for output in progress)
    assert re.search(r"fold 0 .*done", shown) and re.search(r"fold 1 .*done", shown)
    assert "2 folds: 2 done" in shown
    assert re.fullmatch(
        r"<TrainedRun first: complete, 2/2 folds, \w+ 0\.\d+ out of fold \(outputs/first\)>", text_of(result)
    )
    page = result["data"]["text/html"]
    assert page.count("<tr") == 3  # the header and a row a fold
    assert html.escape("first: complete, 2/2 folds") in page


def test_what_a_cell_shows_is_short(executed: Any) -> None:
    """A run used to show itself as all of its record: 11,597 characters."""
    results = [
        output
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    assert len(results) == 8
    assert max(len(text_of(output)) for output in results) < 1500


def test_mistakes_in_a_recipe_given_as_a_mapping_are_told_together_by_key(executed: Any) -> None:
    (output,) = outputs_of(executed, "try:")
    assert text_of(output).splitlines() == [
        "recipe: train.epoch is unknown; did you mean train.epochs?",
        "recipe: train.lr is -1, but must be greater than 0",
    ]
