"""Runs a check on many mutated inputs, each in a process with limited time and memory.

The modules next to this one generate the inputs. Each is a command as well as a source of cases for
``tests/test_fuzz.py``, which runs a small part of them:

  python tests/fuzz/annotations.py --cases 2200 --seed 0
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from facenet_d2 import UserError

SECONDS, MEMORY = 20, 2 * 2**30

# An input is accepted or refused with a UserError; everything else is a fault of the project.
GOOD = ("accepted", "refused")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case.

    Attributes:
        kind: "accepted"; "refused" with a UserError; "wrong" if an assertion of the check failed;
            "traceback" for any other exception; "crash" if the process died from a signal; "time"
            or "memory" if it needed more than allowed.
        detail: message or traceback.
        seconds: duration.
    """

    kind: str
    detail: str = ""
    seconds: float = 0.0


def run_case(check: Callable[[], object], *, seconds: float, memory: int) -> Outcome:
    """Run a check in a forked process.

    Args:
        check: function that raises UserError if it refuses its input, and AssertionError if it
            accepts the input with a wrong result.
        seconds: maximum duration.
        memory: maximum size in bytes by which the process may grow.
    """
    start = time.monotonic()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        os.setpgid(0, 0)
        _run_child(check, sender, memory)
    os.close(sender)
    ready, _, _ = select.select([receiver], [], [], seconds)
    # Not until the end of the file: processes that the child has started may keep the pipe open.
    content = os.read(receiver, 2**16) if ready else b""
    os.close(receiver)
    os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    elapsed = time.monotonic() - start
    if not ready:
        return Outcome("time", f"over {seconds:g} s", elapsed)
    if content:
        kind, detail = pickle.loads(content)
        return Outcome(kind, detail, elapsed)
    return Outcome("crash", f"wait status {status}", elapsed)


def _run_child(check: Callable[[], object], sender: int, memory: int) -> None:
    """Run a check, send its outcome through a pipe and end the process."""
    try:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            check()
            outcome = ("accepted", "")
        except UserError as error:
            outcome = ("refused", str(error))
        except MemoryError as error:
            outcome = ("memory", repr(error))
        except AssertionError:
            outcome = ("wrong", traceback.format_exc())
        except BaseException as error:
            # PyTorch and OpenCV report a failed allocation as an exception of their own.
            is_memory = "alloc" in str(error).lower() and "memory" in str(error).lower()
            outcome = ("memory" if is_memory else "traceback", traceback.format_exc())
        os.write(sender, pickle.dumps((outcome[0], outcome[1][:4000])))
    finally:
        os._exit(0)


def run_cases(
    cases: Iterable[tuple[str, Callable[[], object]]],
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> Iterator[tuple[str, Outcome]]:
    """Run named checks one after another; see :func:`run_case`."""
    for name, check in cases:
        yield name, run_case(check, seconds=seconds, memory=memory)


def main(
    generate: Callable[[int, int], Iterable[tuple[str, Callable[[], Any]]]], default_cases: int
) -> int:
    """Run the cases of a command line and report them; return 1 if any of them is a fault.

    Args:
        generate: function that returns named checks for a number of cases and a seed.
        default_cases: default number of cases.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=default_cases, help="number of cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", default="", help="also print the outcomes of this kind")
    args = parser.parse_args()
    counts: Counter[str] = Counter()
    slowest = 0.0
    for name, outcome in run_cases(generate(args.cases, args.seed)):
        counts[outcome.kind] += 1
        slowest = max(slowest, outcome.seconds)
        if outcome.kind not in GOOD or outcome.kind == args.show:
            print(f"{outcome.kind}: {name}: {outcome.detail}", flush=True)
    listed = ", ".join(f"{number} {kind}" for kind, number in counts.most_common())
    print(f"{sum(counts.values())} cases: {listed}; slowest {slowest:.1f} s")
    return 0 if set(counts) <= set(GOOD) else 1


if __name__ == "__main__":
    sys.exit("Run one of the modules next to this one.")
