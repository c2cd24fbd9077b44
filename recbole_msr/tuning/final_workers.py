"""Trainings with fresh seeds in worker processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_msr.jobs.processes import WorkerProcesses
from recbole_msr.tuning.settings import SearchSettings

logger = logging.getLogger(__name__)

Run = tuple[int, int]
"""The training of a trial with a seed: the trial's number, and the seed."""


@dataclass(frozen=True)
class Group:
    """Seeds of a trial that are trained together.

    Attributes:
        trial: the trial's number.
        seeds: the seeds.
        test: whether they are tested too.
        seconds: how long it takes, as far as is known.
    """

    trial: int
    seeds: tuple[int, ...]
    test: bool
    seconds: float = 0.0

    @property
    def runs(self) -> list[Run]:
        """Return its trainings."""
        return [(self.trial, seed) for seed in self.seeds]


def run_finals(
    settings: SearchSettings,
    groups: Sequence[Group],
    over: Callable[[Run], bool],
    begun: Callable[[Run], bool],
    ended: Callable[[int], Any],
    deadline: float | None,
) -> dict[Run, str]:
    """Run groups in worker processes, which share them out; a worker begins none that does not fit into its time.

    A worker that has trained no epoch of its group by the deadline is interrupted; others stop after their epoch.

    A group whose worker was killed is tried again seed by seed: together they may have needed too much memory.

    Args:
        settings: the search.
        groups: what a worker trains together.
        over: returns whether a training has ended, well or with a reason that its worker left.
        begun: returns whether a training has ended an epoch.
        ended: called again and again with the number of trainings that have ended.
        deadline: `time.monotonic()` at which the command shall be over.

    Returns:
        The reason of every training that neither ended nor left one; those that did not begin are absent.
    """
    workers = _FinalWorkers(settings, groups, over, deadline)
    try:
        while workers.remain():
            workers.start()
            workers.collect()
            if deadline is not None and time.monotonic() > deadline:
                workers.interrupt(begun)
            ended(workers.count_ended())
    finally:
        workers.processes.stop()
    return workers.failed


class _FinalWorkers:
    """The worker processes.

    Attributes:
        processes: those that run.
        failed: the reason of every training that is given up.
    """

    def __init__(
        self, settings: SearchSettings, groups: Sequence[Group], over: Callable[[Run], bool], deadline: float | None
    ) -> None:
        self._settings, self._over = settings, over
        self._stop_at = None if deadline is None else time.time() + deadline - time.monotonic()
        self.processes = WorkerProcesses(settings, "recbole_msr.tuning.worker")
        self._waiting = list(groups)
        self._tries = {run: 0 for group in groups for run in group.runs}
        self._running: dict[int, list[Group]] = {}  # number of the worker: its groups
        self._interrupted: set[int] = set()
        self.failed: dict[Run, str] = {}

    def remain(self) -> bool:
        return bool(self._waiting or self._running)

    def start(self) -> None:
        """Share the waiting groups out among the free workers, so that all end at about the same time."""
        free = [index for index in range(self._settings.workers) if index not in self._running]
        shares: list[list[Group]] = [[] for _ in free]
        if not shares:
            return
        for group in self._waiting:
            min(shares, key=lambda share: sum(one.seconds for one in share) + len(share)).append(group)
        self._waiting.clear()
        for index, share in zip(free, shares, strict=True):
            if share:
                self._start(index, share)

    def _start(self, index: int, groups: list[Group]) -> None:
        words = [] if self._stop_at is None else [f"--deadline={self._stop_at}"]
        words += [] if groups[0].test else ["--untested"]
        for group in groups:
            words += [f"--final={group.trial}", "--seeds", *map(str, group.seeds)]
        self.processes.start(_name(index), index, words)
        self._running[index] = groups

    def collect(self) -> None:
        """Wait a moment, and take note of the workers that have ended."""
        codes = self.processes.wait()
        for index, groups in list(self._running.items()):
            code = codes.get(_name(index))
            if code is None:
                continue
            del self._running[index]
            unfinished = [group for group in groups if not all(map(self._over, group.runs))]
            if not unfinished or code == 0 or index in self._interrupted:
                continue  # those that are not over did not fit into the time
            if code > 0:
                error = self.processes.last_error(_name(index))
                self.failed |= {run: error for group in unfinished for run in group.runs if not self._over(run)}
                continue
            for run in unfinished[0].runs:  # the others had not begun
                if not self._over(run):
                    self._retry_or_give_up(run, unfinished[0], code)
            self._waiting += unfinished[1:]

    def interrupt(self, begun: Callable[[Run], bool]) -> None:
        """Interrupt the workers that have trained no epoch of what they are at, and begin nothing more."""
        self._waiting.clear()
        for index, groups in self._running.items():
            unfinished = [group for group in groups if not all(map(self._over, group.runs))]
            if index not in self._interrupted and unfinished and not any(map(begun, unfinished[0].runs)):
                self._interrupted.add(index)
                self.processes.interrupt(_name(index))

    def _retry_or_give_up(self, run: Run, group: Group, code: int) -> None:
        self._tries[run] += 1
        if self._tries[run] <= self._settings.retries:
            logger.warning("the final run with seed %d was killed by signal %d and goes on", run[1], -code)
            self._waiting.append(Group(run[0], (run[1],), group.test, group.seconds))
        else:
            self.failed[run] = f"its worker was killed by signal {-code} {self._tries[run]} times"

    def count_ended(self) -> int:
        return sum(map(self._over, self._tries)) + len(self.failed)


def _name(index: int) -> str:
    return f"final-{index}"
