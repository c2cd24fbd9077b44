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
    ended: Callable[[int], Any],
    fits: Callable[[Group], bool],
    deadline: float | None,
) -> dict[Run, str]:
    """Run groups in worker processes, each of which trains one group.

    A group whose worker was killed is tried again seed by seed: together they may have needed too much memory.

    Args:
        settings: the search.
        groups: what a worker trains together.
        over: returns whether a training has ended, well or with a reason that its worker left.
        ended: called again and again with the number of trainings that have ended.
        fits: returns whether a group may begin in the time that is left.
        deadline: `time.monotonic()` at which trainings stop after their epoch.

    Returns:
        The reason of every training that neither ended nor left one; those that did not begin are absent.
    """
    workers = _FinalWorkers(settings, groups, over, fits, deadline)
    try:
        while workers.remain():
            workers.start()
            workers.collect()
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
        self,
        settings: SearchSettings,
        groups: Sequence[Group],
        over: Callable[[Run], bool],
        fits: Callable[[Group], bool],
        deadline: float | None,
    ) -> None:
        self._settings, self._over, self._fits = settings, over, fits
        self._stop_at = None if deadline is None else time.time() + deadline - time.monotonic()
        self.processes = WorkerProcesses(settings, "recbole_msr.tuning.worker")
        self._waiting = list(groups)
        self._tries = {run: 0 for group in groups for run in group.runs}
        self._running: dict[str, tuple[int, Group]] = {}  # name: number of the worker, its group
        self.failed: dict[Run, str] = {}

    def remain(self) -> bool:
        return bool(self._waiting or self._running)

    def start(self) -> None:
        """Start as many groups as there are free workers, and leave out those that do not fit into the time."""
        while self._waiting and len(self._running) < self._settings.workers:
            group = self._waiting.pop(0)
            if not self._fits(group):
                continue
            index = min(set(range(self._settings.workers)) - {index for index, _ in self._running.values()})
            deadline = [] if self._stop_at is None else [f"--deadline={self._stop_at}"]
            untested = [] if group.test else ["--untested"]
            words = [*deadline, *untested, f"--final={group.trial}", "--seeds", *map(str, group.seeds)]
            self.processes.start(_name(group), index, words)
            self._running[_name(group)] = (index, group)
            for run in group.runs:
                self._tries[run] += 1

    def collect(self) -> None:
        """Wait a moment, and take note of the workers that have ended."""
        for name, code in self.processes.wait().items():
            _, group = self._running.pop(name)
            for run in group.runs:
                if not self._over(run):
                    self._retry_or_give_up(run, group, code)

    def _retry_or_give_up(self, run: Run, group: Group, code: int) -> None:
        if code < 0 and self._tries[run] <= self._settings.retries:
            logger.warning("the final run with seed %d was killed by signal %d and goes on", run[1], -code)
            self._waiting.append(Group(run[0], (run[1],), group.test, group.seconds))
        else:
            self.failed[run] = self.processes.last_error(_name(group))

    def count_ended(self) -> int:
        return sum(map(self._over, self._tries)) + len(self.failed)


def _name(group: Group) -> str:
    return f"final-{group.trial}-{group.seeds[0]}"
