"""Runs a case in a forked process and judges how it ended."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import math
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fuzz import kit
from tests.fuzz.case import Case

CPU_SECONDS, SECONDS = 15, 60
"""A case that takes longer hangs: processor time, and time on the clock, of which a busy machine takes its share."""
MEMORY = 3 << 30
OUTCOMES = (
    *("right", "exit 1", "traceback", "hang", "died", "accepted", "other result", "left behind", "unclear", "code ran"),
)
"""How a case ends: right; exit code 1; a traceback; beyond its time; by a signal; with nonsense accepted; with another
result than the unchanged command's; refused, but with files left or changed; refused in more than one line, or without
naming what is wrong; and with code in the input run."""


@dataclass(frozen=True)
class Ended:
    """How a case ended: one of OUTCOMES, what it said, and where its files are."""

    outcome: str
    told: str
    stdout: str
    stderr: str
    seconds: float


class Processes:
    """A process that has imported everything, and the folder it works in.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.kit = folder.resolve(), folder.resolve() / "kit"
        self.kit.mkdir(parents=True)
        self._environment(self.folder / "home")
        _import(["recbole_msr.cli", "recbole_msr.runs.run", "pytorch_lightning"])
        self._make_kit()
        _import((self.folder / "modules").read_text().split())
        with contextlib.suppress(Exception), contextlib.redirect_stdout(None), warnings.catch_warnings(action="ignore"):
            _warm(self.kit)
        self.results = {name: result(self.kit, name) for name in RESULTS}
        missing = [name for name, found in self.results.items() if found is None]
        assert not missing, f"the kit has no {', '.join(missing)}"
        gc.collect()
        gc.freeze()

    def _environment(self, home: Path) -> None:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "SLURM_PROCID", "RECBOLE_MSR_KNOWLEDGE"):
            os.environ.pop(name, None)
        os.environ |= {
            "HOME": str(home),
            "RECBOLE_MSR_CACHE": str(home / "cache"),
            "WANDB_MODE": "disabled",
            "COLUMNS": "200",
        }

    def _make_kit(self) -> None:
        """Make it in a process of its own, so that this one starts no threads, and see what is imported for it."""

        def work() -> int:
            os.chdir(self.kit)
            kit.make(self.kit)
            (self.folder / "modules").write_text("\n".join(sys.modules))
            return 0

        pid = _fork(work, self.folder / "kit.log", self.folder / "kit.log.err")
        _, status = os.waitpid(pid, 0)
        if status:
            raise RuntimeError((self.folder / "kit.log.err").read_text()[-3000:])

    def run(self, cases: Iterable[tuple[Any, Case]], jobs: int = 1) -> Iterator[tuple[Any, Case, Ended]]:
        """Run cases, `jobs` at a time; yields each when it has ended."""
        running: dict[int, tuple[Any, Case, Path, float]] = {}
        waiting = iter(cases)
        number = 0
        while True:
            while len(running) < jobs and (following := next(waiting, None)) is not None:
                key, case = following
                place = self.folder / f"case-{number}"
                number += 1
                running[self._start(case, place)] = (key, case, place, time.monotonic())
            if not running:
                return
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                for late, (*_, started) in running.items():
                    if time.monotonic() - started > SECONDS:
                        os.killpg(late, signal.SIGKILL)
                time.sleep(0.003)
            elif pid in running:
                key, case, place, started = running.pop(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # what it has left running
                yield key, case, self._judge(case, place, status, time.monotonic() - started)
                shutil.rmtree(place, ignore_errors=True)

    def _start(self, case: Case, place: Path) -> int:
        here, marker = place / "around" / "here", place / "marker"
        for folder in (here, place / "home"):
            folder.mkdir(parents=True)

        def work() -> int:
            self._environment(place / "home")
            os.chdir(here)
            for name in ("data", "data.yaml", "tiny.yaml", *case.take):
                source = self.kit / name
                shutil.copytree(source, here / name) if source.is_dir() else shutil.copy(source, here / name)
            if case.change is not None:
                case.change(here, marker)
            (place / "before.json").write_text(json.dumps(listing(here.parent)))
            _limits()
            return _command([word.replace("MARKER", str(marker)) for word in case.command])

        return _fork(work, place / "stdout", place / "stderr")

    def _judge(self, case: Case, place: Path, status: int, seconds: float) -> Ended:
        stdout, stderr = ((place / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr"))
        if not (place / "before.json").exists():
            raise RuntimeError(f"the case '{case.what}' cannot be made: {stderr}")
        before = json.loads((place / "before.json").read_text())
        outcome, told = self._outcome(case, place, status, before, stdout, stderr)
        return Ended(outcome, told, stdout, stderr, seconds)

    def _outcome(
        self, case: Case, place: Path, status: int, before: dict[str, str], stdout: str, stderr: str
    ) -> tuple[str, str]:
        errors = [line for line in stderr.splitlines() if "error: " in line[:30]]
        last = errors[-1] if errors else (stderr.strip().splitlines() or [""])[-1]
        if (place / "marker").exists():
            return "code ran", last
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return "hang" if number in (signal.SIGXCPU, signal.SIGKILL) else "died", signal.Signals(number).name
        if "Traceback (most recent call last)" in stderr + stdout or "--- Logging error ---" in stderr:
            return "traceback", last
        code = os.WEXITSTATUS(status)
        if code == 0:
            return self._finished(case, place, stdout)
        if code == 1 and "DivergedError" in last and "runs" in case.right:
            return "right", last  # a training that diverges says so: its settings may be meant
        if code != 2:
            return "exit 1", last
        if "refused" not in case.right:
            return "other result", f"refused: {last}"
        if len(errors) != 1 or not errors[0].startswith("error: ") or not stderr.endswith(errors[0] + "\n"):
            return "unclear", stderr.strip()
        if case.names and not any(name in last for name in case.names):
            return "unclear", last
        after = listing(place / "around")
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        changed = [name for name in changed if not _may_change(name, before)]
        if changed and "last one: refused" not in last:  # a study whose trials all fail is kept, with their failures
            return "left behind", f"{', '.join(changed[:4])} ({last})"
        return "right", last

    def _finished(self, case: Case, place: Path, stdout: str) -> tuple[str, str]:
        here = place / "around" / "here"
        if case.like in ("prompts", "template"):
            (here / f"{case.like}.txt").write_text(stdout, encoding="utf-8")
        found = result(here, case.like)
        if "same" in case.right:
            if found == self.results[case.like]:
                return "right", "the same result"
            return ("other result" if "refused" not in case.right else "accepted"), "another result, or none"
        if "runs" not in case.right:
            return "accepted", "exit code 0"
        numbers = list(_numbers(found))
        if found is None or not all(math.isfinite(number) for number in numbers):
            return "other result", "no result" if found is None else "a number that is not finite"
        return "right", "it ran"


def _fork(work: Callable[[], int], stdout: Path, stderr: Path) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        for number, path in ((0, Path(os.devnull)), (1, stdout), (2, stderr)):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path, flags, 0o600), number)
        code = work()
    except SystemExit as error:
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _limits() -> None:
    used = int(re.findall(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[0]) << 10
    resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))


def _command(words: list[str]) -> int:
    from recbole_msr.cli import main, run_recbole

    sys.argv = words
    return (run_recbole if words[0] == "run_recbole" else main)(words[1:])


def _import(names: Iterable[str]) -> None:
    with (
        warnings.catch_warnings(action="ignore"),
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stderr(nowhere),
    ):
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _warm(folder: Path) -> None:
    """Fill what the commands keep between calls: the known keys, RecBole's defaults."""
    import yaml

    from recbole_msr.config.build import build_config

    settings = yaml.safe_load((folder / "tiny.yaml").read_text())
    for model in ("SharedBottom", "MMoE"):
        build_config(model, "tiny", settings | {"data_path": str(folder / "data")})


def _may_change(name: str, before: dict[str, str]) -> bool:
    """The log of a run that was there, and what is left for workers where there was some: neither is a result."""
    parent = os.path.dirname(name)
    return parent in before and (name.endswith("/run.log") or parent.endswith("/workers"))


def listing(folder: Path) -> dict[str, str]:
    """Every file and folder below a folder, with a digest of its content."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in folders:
            found[os.path.relpath(os.path.join(root, name), folder)] = "folder"
        for name in files:
            path = Path(root, name)
            content = path.read_bytes() if path.is_file() else b""
            found[os.path.relpath(path, folder)] = hashlib.sha256(content).hexdigest()
    return found


def _json(*names: str) -> Callable[[Path], Any]:
    """The parts of a file of results that do not depend on time and place."""
    times = (
        "seconds",
        "rows_per_second",
        "versions",
        "latency",
        "began",
        "ended",
        "created",
        "command",
        "output",
        "config",
        "_path",
        "_dir",
    )

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items() if not any(word in key for word in times)}
        return [plain(part) for part in value] if isinstance(value, list) else value

    def read(folder: Path) -> Any:
        for name in names:
            if (folder / name).is_file():
                return plain(json.loads((folder / name).read_text(encoding="utf-8")))
        return None

    return read


def _bytes(*names: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        for name in names:
            if (folder / name).is_file():
                return (folder / name).read_bytes().hex()
        return None

    return read


RESULTS: dict[str, Callable[[Path], Any]] = {
    "run": _json("out/result.json"),
    "knowing": _json("knowing/result.json", "out/result.json"),
    "resume": _json("interrupted/result.json", "whole/result.json"),
    "predict": _bytes("scores.csv"),
    "explain": _bytes("run/explain.html"),
    "search": _json("search/summary.json"),
    "space": _json("spaced/summary.json"),
    "entries": _json("entered/summary.json"),
    "prompts": _bytes("prompts.txt"),
    "template": _bytes("template.txt"),
    "compare": _json("comparison/summary.json"),
    "none": lambda folder: "",
    "embed": _bytes("knowledge/made/user.npy", "knowledge/known/user.npy"),
}
"""What a command comes to, read from its files (in the kit, under the second name)."""


def result(folder: Path, name: str) -> Any:
    """The result of a command in a folder; None if there is none."""
    return RESULTS[name](folder)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, (int, float)):
        yield float(value)
