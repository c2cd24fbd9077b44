"""The campaign's command line."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.case import Case, Family
from tests.fuzz.families import FAMILIES


def main() -> int:
    """Run it; exit code 1 if a case is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Malformed input against the commands.")
    parser.add_argument(
        "--cases",
        type=int,
        default=500,
        help="how many, by turns of the families, beside those that every campaign has (default: 500)",
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other cases (default: 1)")
    parser.add_argument("--family", action="append", choices=sorted(FAMILIES), help="these alone")
    parser.add_argument("--match", metavar="TEXT", help="only those of them that have this text in their description")
    parser.add_argument("--case", metavar="FAMILY/SEED/NUMBER", help="run one case and show what it says")
    parser.add_argument("--jobs", type=int, default=1, help="cases at once (default: 1)")
    parser.add_argument("--list", action="store_true", help="list the cases, run none")
    given = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # before NumPy is imported: a process with threads cannot be forked well
    if given.case is not None:
        cases = [(given.case, find(given.case))]
    else:
        families = [family for name, family in FAMILIES.items() if not given.family or name in given.family]
        cases = [one for one in drawn(families, given.cases, given.seed) if (given.match or "") in one[1].what]
    if given.list:
        for key, case in cases:
            print(key, case.what, sep="\t")
        return 0
    return run(cases, given.jobs, show=given.case is not None)


def find(key: str) -> Case:
    """The case of a key FAMILY/SEED/NUMBER."""
    name, seed, number = key.split("/")
    return next(case for found, case in FAMILIES[name].cases(int(seed)) if found == int(number))


def drawn(families: list[Family], count: int, seed: int) -> Iterator[tuple[str, Case]]:
    """So many cases of the families by turns, after all cases of those that are tried as a whole."""
    streams = {family.name: family.cases(seed) for family in families}
    left = count
    for family in families:
        if family.all_listed:
            for number, case in itertools.islice(streams[family.name], len(family.listed())):
                yield f"{family.name}/{seed}/{number}", case
    while streams and left > 0:
        for name in list(streams):
            following = next(streams[name], None)
            if following is None:
                del streams[name]
            elif left > 0:
                yield f"{name}/{seed}/{following[0]}", following[1]
                left -= 1


def run(cases: list[tuple[str, Case]], jobs: int, show: bool) -> int:
    """Run cases, print those that are wrong and the table; returns the exit code."""
    from tests.fuzz.process import OUTCOMES, Processes

    started = time.monotonic()
    table: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        processes = Processes(Path(folder))
        ready = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):  # the table is of what has been run
            for key, case, ended in processes.run(cases, jobs):
                family = key.split("/")[0]
                table[family, ended.outcome] += 1
                table[family, "seconds"] += ended.seconds  # type: ignore[assignment]
                if ended.outcome != "right" or show:
                    print(f"{ended.outcome:12s} {key}  {case.what}: {' '.join(ended.told.split())[:400]}", flush=True)
                if show:
                    print(f"$ {' '.join(case.command)}\n{ended.stdout}{ended.stderr}({ended.seconds:.2f} s)")
    columns = (*OUTCOMES, "seconds")
    names = [name for name in FAMILIES if table[name, "seconds"]]
    print(f"\n{'family':14s}" + "".join(f"{column:>13s}" for column in columns))
    for name in [*names, "all"]:
        sums = [sum(table[one, column] for one in (names if name == "all" else [name])) for column in columns]
        print(f"{name:14s}" + "".join(f"{value:13.0f}" for value in sums))
    done = sum(table[name, outcome] for name in names for outcome in OUTCOMES)
    print(
        f"{done} of {len(cases)} cases in {time.monotonic() - ready:.0f} s, after {ready - started:.0f} s to get ready"
    )
    return int(any(count and outcome not in ("right", "seconds") for (_, outcome), count in table.items()))


if __name__ == "__main__":
    sys.exit(main())
