"""Build sdist and wheel, install the wheel in an environment of its own, and use it from an empty folder.

    .venv/bin/python tools/wheel_check.py

The new environment sees the dependencies that this Python has (one line in a .pth file, so nothing is downloaded), but
not the project's own source. Run with a Python that has the dev group and the build backend, as `make setup` installs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 600
_FOREIGN = ("PYTHON", "ENS_", "VIRTUAL_ENV", "PIP_CONSTRAINT")  # what of our environment must not reach the new one
_TRAIN = ["train", "--recipe", "quickstart", "--set", "train.epochs=1", "--set", "folds.k=2", "--json"]


class CheckError(Exception):
    """What is wrong with the wheel, in a sentence."""


def main() -> int:
    """Run every check, a line each; 1 and the reason at the first that fails."""
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="ens-wheel-") as name:
            folder = Path(name).resolve()
            wheel = build(folder / "dist")
            check_contents(wheel)
            check_dependencies(wheel)
            environment = install(wheel, folder / "environment")
            use(environment, folder / "empty")
    except CheckError as error:
        print(f"wheel-check: {error}", file=sys.stderr)
        return 1
    print(f"wheel-check: passed in {time.monotonic() - started:.0f} s")
    return 0


def build(folder: Path) -> Path:
    """Build the sdist from the checkout and the wheel from the sdist; give back the wheel."""
    missing = [name for name in ("build", "hatchling") if importlib.util.find_spec(name) is None]
    if missing:
        raise CheckError(f"{sys.executable} lacks {' and '.join(missing)}; make setup installs them")
    _run("the build", [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)], ROOT)
    wheels, sdists = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        raise CheckError(f"the build left {len(wheels)} wheels and {len(sdists)} sdists, not one of each")
    _say(f"built {sdists[0].name} and {wheels[0].name} ({wheels[0].stat().st_size / 1024:.0f} KiB)")
    return wheels[0]


def check_contents(wheel: Path) -> None:
    """Every recipe and the type marker are inside; nothing that only a checkout needs is."""
    with zipfile.ZipFile(wheel) as archive:
        inside = {entry for entry in archive.namelist() if not entry.endswith("/")}
    recipes = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}
    absent = sorted(({f"ensemble/{recipe}" for recipe in recipes} | {"ensemble/py.typed"}) - inside)
    if absent:
        raise CheckError(f"the wheel lacks {', '.join(absent)}")
    strays = sorted(
        entry
        for entry in inside
        if not entry.startswith(("ensemble/", f"{_stem(wheel)}.dist-info/"))
        or "__pycache__" in entry
        or "tests" in Path(entry).parts
        or Path(entry).name.startswith("test_")
    )
    if strays:
        raise CheckError(f"the wheel holds what does not belong there: {', '.join(strays)}")
    _say(f"{len(inside)} files inside, {len(recipes)} recipes among them, no tests")


def check_dependencies(wheel: Path) -> None:
    """What the wheel's metadata asks for is what this Python has, so that the check runs with allowed versions."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(f"{_stem(wheel)}.dist-info/METADATA").decode())
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    wanted = [requirement for requirement in wanted if not requirement.marker or requirement.marker.evaluate()]
    if not wanted:
        raise CheckError("the wheel's metadata names no dependency")
    problems = []
    for requirement in wanted:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{requirement} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{requirement} is asked for, {version} is installed")
    if problems:
        raise CheckError("; ".join(problems))
    _say(f"{len(wanted)} dependencies satisfied")


def install(wheel: Path, environment: Path) -> Path:
    """Make an environment, install the wheel there, then let it see our dependencies; give back the environment."""
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    _run("the installation", [*pip, "install", "--no-deps", "--no-index", "--quiet", str(wheel)], environment)
    # A folder named by a .pth line has its own .pth files ignored: the project's in-place installation stays unseen.
    shared = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    own = next(environment.glob("lib/python3.*/site-packages"))
    (own / "shared-dependencies.pth").write_text("\n".join(shared) + "\n", encoding="utf-8")
    question = "import ensemble, importlib.metadata as m; print(ensemble.__file__); print(m.distribution('ens')._path)"
    answer = _run("the import", [str(python), "-c", question], environment)
    for place in answer.split("\n")[:2]:
        if not Path(place).is_relative_to(environment):
            raise CheckError(f"the new environment takes ens from {place}, not from its own wheel")
    _say("installed, and imported from the new environment")
    return environment


def use(environment: Path, folder: Path) -> None:
    """List the recipes and train the smallest run from an empty folder; its probabilities must lie there afterwards."""
    folder.mkdir()
    ens = str(environment / "bin" / "ens")
    listed = _run("ens recipes", [ens, "recipes"], folder)
    if "quickstart" not in listed:
        raise CheckError(f"ens recipes does not name quickstart:\n{listed}")
    _say("ens recipes lists what ships")
    output = _run(f"ens {' '.join(_TRAIN)}", [ens, *_TRAIN], folder)
    try:
        json.loads(output)
    except ValueError as error:
        raise CheckError(f"ens train --json printed something else than one JSON document: {output[:500]!r}") from error
    absent = [
        path.relative_to(folder).as_posix()
        for path in (folder / "outputs" / "quickstart" / name for name in ("run.json", "oof.npy", "probs.npy"))
        if not path.is_file()
    ]
    if absent:
        raise CheckError(f"ens train left no {', '.join(absent)}")
    _say("ens train left out-of-fold and test probabilities")


def _run(title: str, command: list[str], folder: Path) -> str:
    """Run in `folder`, shielded from this process's own environment; give back stdout, raise with stderr's end."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"{title} took more than {_TIMEOUT_S} s") from error
    if done.returncode:
        shown = "\n  ".join((done.stdout + done.stderr).splitlines()[-20:])
        raise CheckError(f"{title} ended with exit code {done.returncode}:\n  {shown}")
    return done.stdout


def _stem(wheel: Path) -> str:
    return "-".join(wheel.name.split("-")[:2])


def _say(line: str) -> None:
    print(f"wheel-check: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
