"""The final test in worker processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from recbole_msr.jobs.processes import WorkerProcesses
from recbole_msr.tuning.settings import SearchSettings

logger = logging.getLogger(__name__)


def run_finals(
    settings: SearchSettings, trial: int, groups: Sequence[Sequence[int]], bar: Any, over: Callable[[int], bool]
) -> dict[int, str]:
    """Run the final test of a trial in worker processes, each of which trains one group of seeds.

    A group whose worker was killed is tried again seed by seed: together they may have needed too much memory.

    Args:
        settings: the search.
        trial: number of the trial.
        groups: seeds that a worker trains together.
        bar: the progress bar, of seeds.
        over: returns whether a seed's run has ended, well or with a reason that its worker left.

    Returns:
        The reason of every seed that neither ended nor left one.
    """
    workers = _FinalWorkers(settings, trial, groups, over)
    try:
        while workers.remain():
            workers.start()
            workers.collect()
            ended = workers.count_ended()
            if ended > bar.n:
                bar.update(ended - bar.n)
    finally:
        workers.processes.stop()
    return workers.failed


class _FinalWorkers:
    """The worker processes of a final test.

    Attributes:
        processes: those that run.
        failed: the reason of every seed that is given up.
    """

    def __init__(
        self, settings: SearchSettings, trial: int, groups: Sequence[Sequence[int]], over: Callable[[int], bool]
    ) -> None:
        self._settings, self._trial, self._over = settings, trial, over
        self.processes = WorkerProcesses(settings, "recbole_msr.tuning.worker")
        self._waiting = [tuple(group) for group in groups]
        self._tries = dict.fromkeys([seed for group in groups for seed in group], 0)
        self._running: dict[str, tuple[int, tuple[int, ...]]] = {}  # name: number of the worker, its seeds
        self.failed: dict[int, str] = {}

    def remain(self) -> bool:
        return bool(self._waiting or self._running)

    def start(self) -> None:
        """Start as many groups as there are free workers."""
        while self._waiting and len(self._running) < self._settings.workers:
            seeds = self._waiting.pop(0)
            index = min(set(range(self._settings.workers)) - {index for index, _ in self._running.values()})
            self.processes.start(_name(seeds), index, [f"--final={self._trial}", "--seeds", *map(str, seeds)])
            self._running[_name(seeds)] = (index, seeds)
            for seed in seeds:
                self._tries[seed] += 1

    def collect(self) -> None:
        """Wait a moment, and take note of the workers that have ended."""
        for name, code in self.processes.wait().items():
            _, seeds = self._running.pop(name)
            for seed in seeds:
                if not self._over(seed):
                    self._retry_or_give_up(seed, seeds, code)

    def _retry_or_give_up(self, seed: int, seeds: tuple[int, ...], code: int) -> None:
        if code < 0 and self._tries[seed] <= self._settings.retries:
            logger.warning("the final run with seed %d was killed by signal %d and goes on", seed, -code)
            self._waiting.append((seed,))
        else:
            self.failed[seed] = self.processes.last_error(_name(seeds))

    def count_ended(self) -> int:
        return sum(map(self._over, self._tries)) + len(self.failed)


def _name(seeds: tuple[int, ...]) -> str:
    return f"final-{seeds[0]}"
