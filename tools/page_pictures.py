"""Pictures of real pages of `ens report`, for the docs: short trainings on the embedded digits, seen by chromium.

`python tools/page_pictures.py` trains two runs for a few epochs in a folder of its own (a minute on two cores), blends
them, writes their pages and takes the pictures. Without chromium it says so and changes nothing.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from browser import Browser
from PIL import Image

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
WIDTH = 900
MOST_BYTES = 100_000
EPOCHS = 4  # so few that there are mistakes to look at


@dataclass(frozen=True)
class Shot:
    """A picture: what `ens report` is asked for, and the elements of the page it ends with and begins with."""

    name: str
    subject: str
    last: str
    first: str | None = None


SHOTS = (
    Shot("report-run", "resnet", last="#confusion figure"),
    Shot("report-mistakes", "resnet", first="#mistakes", last="#mistakes ul"),
    Shot("report-blend", "both", last="#members"),
)


def main() -> int:
    """Train, write pages, take pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="work in this folder and keep it; what is there is used again"
    )
    keep = parser.parse_args().keep
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        print("no chromium here: the pictures of pages stay as they are (apt-get install chromium)")
        return 0
    with tempfile.TemporaryDirectory(prefix="ens-pages-") as scratch:
        place = keep or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        prepare(place)
        with Browser(program) as browser:
            for shot in SHOTS:
                take(browser, shot, place)
    return 0


def prepare(place: Path) -> None:
    """Two runs of few epochs, and their blend."""
    epochs = f"train.epochs={EPOCHS}"
    ens(place, "train", "--recipe", "quickstart", "--set", epochs, "--name", "resnet")
    other = ("--set", "model.name=test_efficientnet", "--set", "train.lr=0.01")
    ens(place, "train", "--recipe", "quickstart", "--set", epochs, *other, "--name", "efficientnet")
    ens(place, "blend", "outputs/resnet", "outputs/efficientnet", "--name", "both")


def ens(place: Path, *words: str) -> None:
    """Run a command there; its faults end this script."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("ENS_")}
    command = [sys.executable, "-m", "ensemble", *words, "--quiet"]
    subprocess.run(command, cwd=place, env=variables, check=True, stdout=subprocess.DEVNULL)


def take(browser: Browser, shot: Shot, place: Path) -> None:
    """One picture, as WebP that is small enough for a page of docs."""
    ens(place, "report", shot.subject, "--out", "page.html")
    page = browser.open(place / "page.html", width=WIDTH)
    top = (
        0.0
        if shot.first is None
        else page.evaluate(f"document.querySelector('{shot.first}').getBoundingClientRect().top")
    )
    bottom = page.evaluate(f"document.querySelector('{shot.last}').getBoundingClientRect().bottom")
    page.screenshot(place / "page.png")
    picture = Image.open(place / "page.png").convert("RGB").crop((0, int(top), WIDTH, int(bottom)))
    for quality in (85, 70, 55, 40):
        stream = io.BytesIO()
        picture.save(stream, "WEBP", quality=quality, method=6)
        if stream.tell() <= MOST_BYTES:
            break
    path = PICTURES / f"{shot.name}.webp"
    path.write_bytes(stream.getvalue())
    print(f"{path.name}: {picture.width} x {picture.height}, {stream.tell() / 1000:.0f} kB")


if __name__ == "__main__":
    raise SystemExit(main())
