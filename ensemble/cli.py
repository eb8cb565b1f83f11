"""The command line: reads arguments, calls a command, prints what it gives back, turns errors into exit codes.

`ens --help` must answer at once: a command's own code is imported when it is called.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ensemble.cli_options import COMMANDS, CommandParser, add_global_options
from ensemble.core.complaints import counted
from ensemble.core.text import visible_json, visible_message
from ensemble.errors import EnsError, InputError, Interrupted, PartialFailure, of_the_disk

if TYPE_CHECKING:
    from ensemble.screen.outcome import Outcome

MOST_OPTIONS = 4_000  # argparse looks through all of them for each
_MOST_MESSAGES = 300  # lines that an error prints; each kind of fault has a limit of its own below it

_READ_MATRICES = ("adopt", "blend", "compare", "labels", "score")  # commands that map other people's files


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says how it ended (0, 1, 2, 3 or 130)."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what may come next; nothing is run
        from ensemble.screen.completion import COMPLETIONS, FILE_METAVARS, complete

        complete(build_parser(), COMPLETIONS, FILE_METAVARS)
    _hold_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parse(words)
        if arguments.command is None:
            _deliver(build_parser().format_help(), end="")
            return 0
    except SystemExit as stop:  # argparse has printed a help text or a version
        return _flushed(int(stop.code or 0))
    except EnsError as error:
        return _fail(error, as_json="--json" in words)
    return _run(arguments)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = CommandParser(
        prog="ens",
        description="Ensembles and cross-validation for image classification: train folds, tune, blend, submit.",
        epilog="ens COMMAND --help explains a command. Start with: ens train --recipe quickstart",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ens {_version()}")
    add_global_options(parser)
    verbs = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=CommandParser)
    for name, (summary, example, add_options) in COMMANDS.items():
        command = verbs.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example:\n  {example}",
            allow_abbrev=False,  # `--na` would change its meaning with the next option
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        add_options(command)
        add_global_options(command)
    return parser


def _parse(words: list[str]) -> argparse.Namespace:
    """The arguments, with every global option filled in."""
    if sum(word[:1] == "-" for word in words) > MOST_OPTIONS:
        raise InputError(f"ens: more than {MOST_OPTIONS:,} options; put what they say into a recipe")
    arguments = build_parser().parse_args(words)
    arguments.words = words
    arguments.json = getattr(arguments, "json", False)
    arguments.quiet = getattr(arguments, "quiet", False)
    directory = getattr(arguments, "directory", None)
    if directory is not None:
        try:
            os.chdir(directory)
        except OSError as error:
            raise InputError(f"-C {directory}: {error.strerror}") from error
    arguments.folder = Path(".")
    arguments.outputs = Path(getattr(arguments, "outputs", None) or os.environ.get("ENS_OUTPUTS") or "outputs")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    """Import the command, run it, print what it gives back."""
    from ensemble.screen import outcome as screen

    try:
        with screen.interruptible():
            command = importlib.import_module(f"ensemble.commands.{arguments.command}_command")
            if arguments.command in _READ_MATRICES:
                from ensemble.core.npy import end_when_cut_short

                end_when_cut_short(as_json=arguments.json)
            outcome: Outcome = command.run(arguments)
            text = screen.shown(outcome, as_json=arguments.json)
            _deliver(text, end="\n" if text else "")
            return outcome.exit_code
    except EnsError as error:
        if error.exit_code == EnsError.exit_code:
            screen.log_traceback(error, arguments.outputs)
        return _fail(error, as_json=arguments.json)
    except KeyboardInterrupt:
        return _fail(Interrupted("interrupted; the same command continues"), as_json=arguments.json)
    except Exception as error:
        of_disk = of_the_disk(error, arguments.outputs) if isinstance(error, OSError) else None
        if of_disk is not None:
            return _fail(of_disk, as_json=arguments.json)
        # the last resort: a line on the screen, the traceback in a file
        log = screen.log_traceback(error, arguments.outputs)
        return _fail(
            EnsError(f"ens: a fault of its own: {type(error).__name__}: {error}; traceback in {log}"),
            as_json=arguments.json,
        )


def _fail(error: EnsError, *, as_json: bool) -> int:
    """Print an error for a person on stderr and, if asked, as the one JSON document on stdout."""
    messages = list(error.messages[:_MOST_MESSAGES])
    if (more := len(error.messages) - len(messages)) > 0:
        messages.append(f"and {counted(more, 'message')} more")
    try:
        print("\n".join(visible_message(line) for message in messages for line in message.split("\n")), file=sys.stderr)
        sys.stderr.flush()
    except OSError:  # full, or its reader is gone: the exit code still says it
        _let_go(sys.stderr)
    if as_json:
        import json

        with contextlib.suppress(EnsError):  # stdout is full: the first error's code counts
            _deliver(visible_json(json.dumps({"error": messages, "exit_code": error.exit_code}, indent=2)))
    return error.exit_code


def _flushed(code: int) -> int:
    """The exit code of what has been printed; another one where it could not be."""
    try:
        _deliver("", end="")
    except EnsError as error:
        return _fail(error, as_json=False)
    return code


def _deliver(text: str, end: str = "\n") -> None:
    """Print a result on stdout; that it could not be written is a failure, that its reader has seen enough is none."""
    try:
        print(text, end=end)
        sys.stdout.flush()  # here, where it can be told: at exit Python would print a warning, and end with code 120
    except BrokenPipeError:
        _let_go(sys.stdout)
    except OSError as error:
        _let_go(sys.stdout)
        raise PartialFailure(
            f"stdout: {error.strerror}; the work is done, but its result could not be printed"
        ) from error


def _let_go(stream: TextIO) -> None:
    """What is still to be written to a stream goes nowhere, or Python complains at exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a notebook has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _hold_streams() -> None:
    """Give closed streams a place, and every letter a form: the next file opened would else be stdout or stderr."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor == number:
                os.set_inheritable(number, True)  # or the workers' streams would be closed in turn
            else:
                os.dup2(descriptor, number)
                os.close(descriptor)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # of a file that became a pipe meanwhile: its place is asked for
                stream.reconfigure(errors="backslashreplace")  # an ASCII terminal has no ±


def _version() -> str:
    from ensemble import __version__

    return __version__


if __name__ == "__main__":
    sys.exit(main())
