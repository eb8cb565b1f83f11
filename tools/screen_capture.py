"""Runs a command on a terminal of its own, and prints what that showed at a moment, for tools/terminal_picture.py.

python tools/screen_capture.py 0.5 ens train --recipe quickstart | python tools/terminal_picture.py "ens train" FILE.svg
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

COLUMNS, LINES = 104, 30


def main() -> int:
    """Run the command; print the lines that stayed, then the frame at that share of all frames with a table."""
    share, command = float(sys.argv[1]), sys.argv[2:]
    written, exit_code = _run(command)
    kept: list[str] = []
    frames: list[tuple[list[str], str]] = []
    for piece in re.split(r"(?:\x1b\[\d+A)?\r\x1b\[J", written.replace("\r\n", "\n")):
        if "epoch" in piece:
            frames.append((list(kept), piece))
        else:
            kept += [line for line in piece.splitlines() if not line.startswith(("looking at", "decoding"))]
    above, frame = frames[int(share * (len(frames) - 1))]
    print("\n".join([*above, frame.rstrip("\n")]))
    return exit_code


def _run(command: list[str]) -> tuple[str, int]:
    """Everything that a command wrote on a terminal, and how it ended."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=follower, env=environment)
    os.close(follower)
    written = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        written += piece
    os.close(leader)
    return written.decode(), process.wait()


if __name__ == "__main__":
    sys.exit(main())
