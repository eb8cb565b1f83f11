"""Training steps on a machine that others use: how should torch's threads wait for each other?

Every contestant is a fresh process with the same network and its own way to wait, since an OpenMP runtime reads its
environment when it is loaded. They take turns of a few seconds, first alone and then beside busy processes; who has no
turn sleeps. A row compares the median step beside busy processes with that of torch as it comes; its note has the same
steps alone, and the slowest turn, in steps of one thread alone.

    python tools/bench/shared_machine.py                            a net for 32 pixels beside four busy processes
    python tools/bench/shared_machine.py --model resnet18 --size 64
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median

import torch
from side_by_side import row
from torch.nn import functional

CLASSES = 10
WAYS: dict[str, dict[str, str]] = {
    "torch as it comes": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "KMP_BLOCKTIME=0": {"KMP_BLOCKTIME": "0"},
    "one thread": {"THREADS": "1"},
}
READ = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS")


def main() -> int:
    """Print a row for each way to wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="test_resnet", help="a timm name (test_resnet)")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels (32)")
    parser.add_argument("--batch", type=int, default=64, help="rows a batch (64)")
    parser.add_argument("--threads", type=int, default=2, help="threads of all but the last way (2)")
    parser.add_argument("--busy", type=int, default=4, help="busy processes beside (4)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each way, alone and beside (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (3)")
    parser.add_argument("--steps", action="store_true", help=argparse.SUPPRESS)  # a contestant: steps when asked
    options = parser.parse_args()
    if options.steps:
        answer_turns(options)
        return 0
    alone: dict[str, list[float]] = {name: [] for name in WAYS}
    beside: dict[str, list[float]] = {name: [] for name in WAYS}
    with ExitStack() as stack:
        contestants = {name: stack.enter_context(contestant(WAYS[name])) for name in WAYS}
        print(f"load before: {os.getloadavg()[0]:.1f}", file=sys.stderr)
        take_turns(contestants, options, alone)
        with busy_processes(options.busy):
            take_turns(contestants, options, beside)
        print(f"load after: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    first = next(iter(WAYS))
    unit = median(alone["one thread"])
    for name in WAYS:
        own, peer = median(beside[name]), median(beside[first])
        values = f"{own:.1f} ms", f"{first}, beside {options.busy}", f"{peer:.1f} ms"
        note = f"alone {median(alone[name]):.1f} ms; slowest turn {max(beside[name]) / unit:.1f} times one thread alone"
        print(row(name, *values, peer / own, note=note))
    return 0


def take_turns(
    contestants: dict[str, subprocess.Popen[str]], options: argparse.Namespace, taken: dict[str, list[float]]
) -> None:
    """Add each contestant's milliseconds a step, the order changing from turn to turn; a first turn is not counted."""
    for turn in range(options.turns + 1):
        for name in sorted(contestants, reverse=bool(turn % 2)):
            process = contestants[name]
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(f"{options.seconds if turn else 0.5}\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            if turn:
                taken[name].append(answer)


@contextmanager
def contestant(way: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for its turns."""
    environment = {name: value for name, value in os.environ.items() if name not in READ} | way
    command = [sys.executable, __file__, "--steps", *sys.argv[1:]]
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that compute and never wait, as somebody else's would."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def answer_turns(options: argparse.Namespace) -> None:
    """For each line of stdin, a number of seconds: train so long, and print the mean milliseconds of a step."""
    from ensemble.training.timm_import import timm

    torch.set_num_threads(int(os.environ.get("THREADS", options.threads)))
    network = timm.create_model(options.model, num_classes=CLASSES)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    pixels = torch.randn(options.batch, 3, options.size, options.size)
    labels = torch.arange(options.batch) % CLASSES
    for line in sys.stdin:
        started, steps = time.perf_counter(), 0
        while (taken := time.perf_counter() - started) < float(line) or not steps:
            functional.cross_entropy(network(pixels), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps += 1
        print(1000 * taken / steps, flush=True)


if __name__ == "__main__":
    sys.exit(main())
