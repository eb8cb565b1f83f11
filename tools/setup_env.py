"""Make `.venv`: torch for this machine, then everything else, all at the versions of constraints.txt.

    python3 tools/setup_env.py

The second run finds a stamp and does nothing. Another pin, Python or place of the checkout installs again; a set-up
that was interrupted is repeated; a broken `.venv` is made anew; a `.venv` that is a link is somebody else's, and only
checked. Standard library alone, and syntax that old Pythons can read: they get a sentence and not a traceback.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = ROOT / "pyproject.toml"
LOG = ROOT / "build" / "setup.log"

_STAMP = VENV / ".ens-setup"
_UNFINISHED = "unfinished"  # in the stamp while packages are installed: whoever finds it trusts none of them
_LOCK = ROOT / ".venv.lock"
_OLDEST = (3, 11)
_INDEX_VARIABLE = "ENS_TORCH_INDEX"
_TORCH = ("torch", "torchvision")
_BUILD_TOOLS = ("hatchling", "editables")  # the build backend and what it needs to install the project in place
_LOG_LINES_SHOWN = 12
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SetupError(Exception):
    """A set-up that cannot go on: a message for a person, and the exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main() -> int:
    """Make or check the environment; 0 when it is ready, 2 when the machine lacks something, 1 when pip failed."""
    try:
        if sys.version_info < _OLDEST:
            raise SetupError(
                f"Python {_version(_OLDEST)} or newer is needed; {sys.executable} is {_version(sys.version_info[:2])}. "
                "Name another one: make PYTHON=python3.11",
                2,
            )
        make_environment()
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; the same command begins it again", file=sys.stderr)
        return 130
    return 0


def make_environment() -> None:
    """Bring `.venv` to the state that the pins ask for; do nothing where it is there already."""
    if VENV.is_symlink():
        check_linked_environment()
        return
    wanted = fingerprint()
    if _is_ready(wanted):
        return
    with _alone():
        if _is_ready(wanted):  # another process did it while this one waited
            return
        started = time.monotonic()
        LOG.parent.mkdir(exist_ok=True)
        LOG.write_text("", encoding="utf-8")
        if _read_stamp() == _UNFINISHED or not _is_sound():
            _create()
        _write_stamp(_UNFINISHED)
        _install()
        _write_stamp(wanted)
        _say(f"ready in {time.monotonic() - started:.0f} s")


def check_linked_environment() -> None:
    """Say what a `.venv` that is a link lacks; change nothing in it."""
    advice = "mend it there, or remove the link `.venv` and run this again"
    if not _python().exists():
        raise SetupError(f".venv is a link to {os.readlink(VENV)}, and no Python is there; {advice}", 2)
    installed = _installed_versions()
    missing = [name for name in _named_packages() if name not in installed]
    if missing:
        raise SetupError(f".venv is a link to an environment without {', '.join(missing)}; {advice}", 2)
    pins = read_pins()
    others = [
        f"{name} {installed[name]} for {pins[name]}"
        for name in _named_packages()
        if name in pins and installed[name].partition("+")[0] != pins[name]
    ]
    if others:
        _say(f".venv is a link to an environment with other versions than constraints.txt: {', '.join(others)}")


def fingerprint() -> str:
    """A hash of all that decides what the environment holds: pins, project, this file, Python, place."""
    digest = hashlib.sha256()
    for path in (CONSTRAINTS, PROJECT, Path(__file__)):
        digest.update(path.read_bytes() + b"\0")
    digest.update(f"{sys.implementation.cache_tag} {_version(sys.version_info[:3])} {ROOT}".encode())
    return digest.hexdigest()


def read_pins() -> dict[str, str]:
    """Normalised name to exact version, from constraints.txt."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = (line.partition("#")[0].strip().partition("==") for line in lines)
    return {_normal(name): version for name, _, version in pins if version}


def required() -> list[str]:
    """What the project needs to run and to be worked on, as pyproject.toml names it."""
    import tomllib  # here, since an older Python has none and must reach its error message

    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
    return [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers and lists a device."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU" in answer.stdout


def torch_arguments(pins: dict[str, str], gpu: bool) -> list[str]:
    """What to ask pip for: a named index decides; beside a GPU anything but the CPU build; else pip's own choice."""
    requirements = [f"{name}=={pins[name]}" for name in _TORCH]
    index = os.environ.get(_INDEX_VARIABLE, "").strip()
    if index:
        return ["--index-url", index, *requirements]
    if gpu:
        return [f"{requirement},!={requirement.partition('==')[2]}+cpu" for requirement in requirements]
    return requirements


def run_pip(title: str, arguments: list[str]) -> None:
    """Run the environment's pip, its output in the log; raise with the last lines when it fails."""
    _run(title, [str(_python()), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments])


def _create() -> None:
    if VENV.exists():
        _say(".venv is broken, unfinished, moved or of another Python; making it anew")
        shutil.rmtree(VENV)
    try:
        _run("an empty environment", [sys.executable, "-m", "venv", str(VENV)])
    except SetupError as error:
        shutil.rmtree(VENV, ignore_errors=True)
        if "ensurepip" in str(error):
            raise SetupError(
                f"{sys.executable} cannot make virtual environments; on Debian and Ubuntu install python3-venv", 2
            ) from error
        raise


def _install() -> None:
    gpu, pins = has_gpu(), read_pins()
    pinned = ["install", "-c", str(CONSTRAINTS)]
    # Without dependencies: an index of torch builds has few other packages. The next step brings them.
    try:
        run_pip("torch (large)", ["install", "--no-deps", *torch_arguments(pins, gpu)])
    except SetupError as error:
        raise SetupError(f"{error}\n{_INDEX_VARIABLE} may name another index for torch alone.") from error
    _say(_torch_choice(gpu))
    run_pip("everything else", [*pinned, *_BUILD_TOOLS, *required()])
    # Without isolation: an isolated build would fetch an unpinned backend of its own.
    run_pip("ens itself", [*pinned, "--no-deps", "--no-build-isolation", "-e", str(ROOT)])


def _torch_choice(gpu: bool) -> str:
    """One line: which build came, for which machine, and what to do if that is not the best one."""
    version = _installed_versions().get("torch", "?")
    built_for = next(_site_packages().glob("torch/version.py")).read_text(encoding="utf-8")
    cuda = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)", built_for, re.MULTILINE)
    build = f"torch {version} ({'CUDA ' + cuda[1] if cuda else 'CPU'} build)"
    again = f"then make distclean and this command again with {_INDEX_VARIABLE} set to"
    if gpu:
        here = "for the NVIDIA GPU of this machine" if cuda else "although this machine has an NVIDIA GPU"
        return f"{build} {here}" + ("" if cuda else f"; if it should be used, {again} an index of CUDA builds")
    if cuda:
        return (
            f"{build}; there is no NVIDIA GPU here: it works, but is larger. For less, {again} an index of CPU builds"
        )
    return f"{build}; there is no NVIDIA GPU here"


def _is_ready(wanted: str) -> bool:
    return _read_stamp() == wanted and _python().exists()


def _read_stamp() -> str:
    try:
        return _STAMP.read_text(encoding="utf-8")
    except OSError:
        return ""


def _write_stamp(text: str) -> None:
    partial = _STAMP.with_name(f"{_STAMP.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, _STAMP)


def _is_sound() -> bool:
    """Whether `.venv` is an environment of this very Python and place, with a pip that runs."""
    question = "import sys, pip; print(sys.prefix, *sys.version_info[:2])"
    try:
        answer = subprocess.run([str(_python()), "-c", question], capture_output=True, text=True, check=False)
        script = _python().with_name("pip").read_text(encoding="utf-8")  # a copied checkout's scripts lead elsewhere
    except OSError:
        return False
    return answer.stdout.split() == [*str(VENV).split(), *map(str, sys.version_info[:2])] and str(_python()) in script


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Keep a second set-up of the same checkout waiting; without the kernel's locks (Windows), hope."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(_LOCK, "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another set-up is at work in this checkout; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(title: str, command: list[str]) -> None:
    _say(f"installing {title}" if "pip" in command else f"making {title}")
    with open(LOG, "a", encoding="utf-8") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, check=False
        ).returncode
    if code:
        lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES_SHOWN:]
        raise SetupError(
            "\n  ".join([f"{title} failed with exit code {code}; the last lines were", *lines])
            + f"\nThe whole log is {LOG}. The same command tries again."
        )


def _named_packages() -> list[str]:
    names = [_NAME.match(requirement) for requirement in [*required(), *_BUILD_TOOLS]]
    return [_normal(name[0]) for name in names if name]


def _installed_versions() -> dict[str, str]:
    """Normalised name to version, read from the names of the folders that installers leave."""
    folders = [path.name.removesuffix(".dist-info") for path in _site_packages().glob("*.dist-info")]
    return {_normal(name): version for name, _, version in (folder.partition("-") for folder in folders)}


def _site_packages() -> Path:
    found = [*VENV.glob("lib/python3.*/site-packages"), *VENV.glob("Lib/site-packages")]
    if not found:
        raise SetupError(f"{VENV} has no site-packages; remove it and run this again", 2)
    return found[0]


def _python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


def _say(line: str) -> None:
    print(f"setup: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
