"""CPU seconds from a command to its first batch, and of short commands, beside another version of the package.

Method. Every measurement is a command in a process of its own, with one thread, and counts the CPU seconds (user and
system) of that process and of all that it started and waited for, as the system reports them at its end (`os.wait4`);
not the wall time, so that it may run beside other work. Both versions use this Python and its packages, found by
PYTHONPATH, and only commands that both have; they take turns, round by round. The first round fills the caches (of
bytecode, and each version's own of prepared datasets) and is not counted. The table shows medians.

- first batch: `run_recbole --model=HiNet --dataset=ml-100k`, ended by a Lightning callback as the first batch begins;
- help: `recbole-msr --help`; predict: `recbole-msr predict` of five rows in CSV;
- search: three trials of SharedBottom, an epoch each in large batches, and one final run, by one worker;
- second worker: what the same search costs more with `--workers=2`;
- compare: two models, one run each, by two workers.

    python -m benchmarks.startup --before DIR [--repeat 5] [--parts first_batch,search]
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

_RUN = "import sys; from recbole_msr.cli import run_recbole; sys.exit(run_recbole())"
_MAIN = "import sys; from recbole_msr.cli import main; sys.exit(main())"
_FIRST_BATCH = """
import functools, os, sys
from recbole_msr import compat
from recbole_msr.cli import run_recbole

def end_at_first_batch(lightning):
    class End(lightning.Callback):
        def on_train_batch_start(self, *arguments):
            os._exit(0)

    init = lightning.Trainer.__init__

    @functools.wraps(init)
    def with_end(self, *arguments, callbacks=None, **options):
        init(self, *arguments, callbacks=[*(callbacks or ()), End()], **options)

    lightning.Trainer.__init__ = with_end

compat.after_import("pytorch_lightning", end_at_first_batch)
run_recbole()
sys.exit("no batch was reached")
"""
_SHORT = ("--dataset=ml-100k", "--epochs=1", "--train_batch_size=16384", "--show_progress=False", "--threads=1")
_SPACE = "model: SharedBottom\nsearch:\n  learning_rate: {type: float, low: 1e-3, high: 1e-2, log: true}\n"


class Version:
    """A checkout of the package, and a folder for what its commands write.

    Args:
        root: the checkout.
        folder: an existing, empty folder.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root.resolve(), folder
        self._files = 0

    def seconds(self, code: str, *arguments: str) -> float:
        """Run a command and return its CPU seconds, those of the processes it has waited for included.

        Raises:
            RuntimeError: the command failed; holds the end of what it printed.
        """
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment = os.environ | threads | {"PYTHONPATH": str(self.root), "CUDA_VISIBLE_DEVICES": ""}
        log = self.folder / "log.txt"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env=environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(f"{self.root}: {arguments}: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
        return usage.ru_utime + usage.ru_stime

    def fresh(self) -> str:
        """Return the path of a folder that does not exist; what the last one held is removed."""
        shutil.rmtree(self.folder / f"output-{self._files}", ignore_errors=True)
        self._files += 1
        return str(self.folder / f"output-{self._files}")

    def first_batch(self) -> float:
        """Return the seconds of `run_recbole` to its first batch."""
        return self.seconds(_FIRST_BATCH, "--model=HiNet", "--dataset=ml-100k", f"--output_dir={self.fresh()}")

    def help(self) -> float:
        """Return the seconds of `recbole-msr --help`."""
        return self.seconds(_MAIN, "--help")

    def predict(self) -> float:
        """Return the seconds of `recbole-msr predict` for a few rows; a run is trained first, once."""
        run, rows = self.folder / "run", self.folder / "rows.csv"
        if not run.exists():
            self.seconds(_RUN, "--model=SharedBottom", *_SHORT, f"--output_dir={run}")
            _write_rows(rows)
        return self.seconds(_MAIN, "predict", f"--run={run}", f"--data={rows}", f"--out={self.folder / 'scores.csv'}")

    def search(self, workers: int = 1) -> float:
        """Return the seconds of a search of three trials."""
        space = self.folder / "space.yaml"
        space.write_text(_SPACE, encoding="utf-8")
        options = ("--trials=3", "--final-seeds=1", "--sampler=random", "--pruner=none", "--fused=off")
        return self.seconds(
            _MAIN, "search", "--model=SharedBottom", *_SHORT, *options, f"--space={space}", f"--workers={workers}",
            f"--output={self.fresh()}",
        )  # fmt: skip

    def second_worker(self) -> float:
        """Return the seconds that a search costs more by two workers than by one."""
        return self.search(2) - self.search(1)

    def compare(self) -> float:
        """Return the seconds of a comparison of two models by two workers."""
        return self.seconds(
            _MAIN, "compare", "--models=SharedBottom,MMoE", *_SHORT, "--seeds=1", "--workers=2",
            f"--output={self.fresh()}",
        )  # fmt: skip


PARTS: dict[str, tuple[str, Callable[[Version], float]]] = {
    "first_batch": ("`run_recbole` to the first batch", Version.first_batch),
    "help": ("`recbole-msr --help`", Version.help),
    "predict": ("`recbole-msr predict`, 5 rows", Version.predict),
    "search": ("`recbole-msr search`, 3 trials, 1 worker", Version.search),
    "second_worker": ("a second worker of that search", Version.second_worker),
    "compare": ("`recbole-msr compare`, 2 jobs, 2 workers", Version.compare),
}


def _write_rows(path: Path, count: int = 5) -> None:
    """Write rows of RecBole's own ml-100k with the columns of their users and items."""
    spec = find_spec("recbole")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0], "dataset_example", "ml-100k")

    def read(kind: str) -> list[dict[str, str]]:
        with open(folder / f"ml-100k.{kind}", encoding="utf-8", newline="") as file:
            names, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [dict(zip((name.split(":")[0] for name in names), row, strict=True)) for row in rows]

    users = {row["user_id"]: row for row in read("user")}
    items = {row["item_id"]: row for row in read("item")}
    rows = [row | users[row["user_id"]] | items[row["item_id"]] for row in read("inter")[:count]]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def measure(versions: dict[str, Version], part: str, repeat: int) -> dict[str, float]:
    """Return the median seconds by version; versions take turns, the first round is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for number in range(repeat + 1):
        for name, version in versions.items():
            value = PARTS[part][1](version)
            if number > 0:
                seconds[name].append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}


def table(versions: dict[str, Version], parts: Sequence[str], repeat: int) -> Iterator[str]:
    """Yield the lines of a Markdown table, with the ratio of now to before, each as soon as it is measured."""
    compared = "before" in versions
    yield f"| CPU seconds | {' | '.join(versions)} |{' now / before |' if compared else ''}"
    yield f"|---|{'---:|' * (len(versions) + compared)}"
    for part in parts:
        medians = measure(versions, part, repeat)
        ratio = f" {medians['now'] / medians['before']:.2f} |" if compared else ""
        yield f"| {PARTS[part][0]} | {' | '.join(f'{value:.2f}' for value in medians.values())} |{ratio}"


def main() -> None:
    """Measure what the command line asks for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, metavar="DIR", help="the checkout of another version, to compare with")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds that count (default: 5)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"among {', '.join(PARTS)} (default: all)")
    given = parser.parse_args()
    parts = given.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    roots = ({"before": given.before} if given.before else {}) | {"now": Path(__file__).parents[1]}
    with tempfile.TemporaryDirectory() as work:
        versions = {}
        for name, root in roots.items():
            folder = Path(work, name)
            folder.mkdir()
            versions[name] = Version(root, folder)
        for line in table(versions, parts, given.repeat):
            print(line, flush=True)


if __name__ == "__main__":
    main()
