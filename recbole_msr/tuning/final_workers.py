"""The final test in worker processes."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from recbole_msr.jobs.processes import _POLL_SECONDS, _end, _error, _start
from recbole_msr.tuning.settings import SearchSettings

logger = logging.getLogger(__name__)


def run_finals(
    settings: SearchSettings, trial: int, groups: Sequence[Sequence[int]], bar: Any, over: Callable[[int], bool]
) -> dict[int, str]:
    """Run the final test of a trial, as many groups of seeds at a time as there are workers.

    A group whose worker was killed is tried again seed by seed: together they may have been too much for the memory.

    Args:
        settings: the search.
        trial: the trial's number.
        groups: seeds that one worker trains together.
        bar: the progress bar, of seeds.
        over: whether a seed's run has ended, well or with a reason that its worker left.

    Returns:
        For every seed that neither ended nor has such a reason, why.
    """
    waiting, failed = [tuple(group) for group in groups], {}
    tries = dict.fromkeys([seed for group in groups for seed in group], 0)
    running: dict[tuple[int, ...], tuple[int, subprocess.Popen[bytes]]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < settings.workers:
                seeds = waiting.pop(0)
                index = min(set(range(settings.workers)) - {used for used, _ in running.values()})
                arguments = [f"--final={trial}", "--seeds", *map(str, seeds)]
                running[seeds] = (index, _start(settings, _final(seeds), index, arguments))
                for seed in seeds:
                    tries[seed] += 1
            time.sleep(_POLL_SECONDS)
            for seeds, (_, process) in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[seeds]
                for seed in seeds:
                    if over(seed):
                        continue
                    if code < 0 and tries[seed] <= settings.retries:
                        logger.warning("the final run with seed %d was killed by signal %d and goes on", seed, -code)
                        waiting.append((seed,))
                    else:
                        failed[seed] = _error(settings, _final(seeds))
            ended = sum(map(over, tries)) + len(failed)
            if ended > bar.n:
                bar.update(ended - bar.n)
    finally:
        _end([process for _, process in running.values()])
    return failed


def _final(seeds: Sequence[int]) -> str:
    return f"final-{seeds[0]}"
