"""A search that is killed again and again, beside the same search left alone: what is lost, and what is done twice.

Method. `recbole-msr search` runs once as it is, with one worker and without a final test. Then the same search, in
another folder, is killed with SIGKILL, with all its processes, at random moments: each time the same command is
started again, and at last it is left to finish. A moment is drawn evenly from 0 to the seconds until the first epoch
ends, plus twice the rest of the undisturbed search's seconds divided by the number of kills. Compared are, trial by
trial in the order in which they began, parameters, states, values and numbers of epochs; with one worker they
must be the same to the bit (from a trial on that was killed while its settings were being drawn, other settings may be
tried).
An epoch is trained twice if a killed trial has reported it and the trial that took its place began before it; of the
epoch under way at a kill a part is trained again as well, always less than one.

    python -m benchmarks.kills --model=SharedBottom --dataset=ml-100k --trials=6 --kills=10

Any further --key=value is passed on to the search. Prints a line a kill and the comparison; exit code 1 if something
was lost or changed, or if more than an epoch a kill was trained twice.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna

from recbole_msr.jobs.storage import open_storage

_COMMAND = (sys.executable, "-c", "import sys; from recbole_msr.cli import main; sys.exit(main())", "search")


class Search:
    """The command of a search in a folder.

    Args:
        arguments: its arguments, but for the folder.
        folder: its output folder.
    """

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        own = (
            "--study=kills",
            "--workers=1",
            "--fidelity=off",
            "--final-seeds=0",
            "--wandb=disabled",
            f"--output={folder}",
        )
        self._command, self.folder = [*_COMMAND, *arguments, *own], folder

    def run(self, seconds: float | None = None) -> float:
        """Run it to its end, or kill it and all its processes after some seconds; return the seconds it ran.

        Raises:
            SystemExit: it ended with an error.
        """
        began = time.monotonic()
        # The folder of the commands is the script's: where the datasets are looked for.
        process = subprocess.Popen(
            self._command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            _, told = process.communicate(timeout=seconds)
            if process.returncode != 0:
                raise SystemExit(f"the search failed:\n{told}")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        return time.monotonic() - began

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Return its trials; none before there is a study."""
        with suppress(Exception):
            return optuna.load_study(study_name="kills", storage=open_storage(None, self.folder)).trials
        return []


def outcomes(trials: Sequence[optuna.trial.FrozenTrial]) -> list[tuple[Any, ...]]:
    """Return what became of the trials that count, in the order in which they began."""
    ended = [trial for trial in trials if trial.state.is_finished() and "uncounted" not in trial.user_attrs]
    ended.sort(key=lambda trial: (trial.datetime_start, trial.number))
    return [
        (trial.state.name, tuple(sorted(trial.params.items())), trial.value, trial.user_attrs.get("epochs"))
        for trial in ended
    ]


def repeated(trials: Sequence[optuna.trial.FrozenTrial]) -> list[int]:
    """Return, for every trial that took the place of a killed one, how many whole epochs were trained again."""
    counts = []
    for trial in trials:
        if "replaces" in trial.user_attrs and trial.intermediate_values:
            reported = max(trials[trial.user_attrs["replaces"]].intermediate_values, default=0)
            counts.append(max(0, reported - trial.user_attrs.get("epochs_before", 0)))
    return counts


def moments(seconds: float, first: float, kills: int, seed: int) -> list[float]:
    """Draw the seconds after which each command is killed.

    Args:
        seconds: of the undisturbed search.
        first: of it, until its first epoch had ended.
        kills: number of kills.
        seed: of the draw.
    """
    draw = random.Random(seed)
    return [draw.uniform(0.0, first + 2 * (seconds - first) / kills) for _ in range(kills)]


def first_epoch(trials: Sequence[optuna.trial.FrozenTrial]) -> float:
    """Return the time (seconds since 1970) at which the first epoch ended."""
    return float(min(row["at"] for trial in trials for row in trial.user_attrs.get("history", ())))


def compare(arguments: Sequence[str], folder: Path, kills: int, seed: int) -> bool:
    """Run the search alone and killed, and print what differs; return whether nothing was lost or changed."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    alone, killed = Search(arguments, folder / "alone"), Search(arguments, folder / "killed")
    begun = time.time()
    seconds = alone.run()
    expected = outcomes(alone.trials())
    first = first_epoch(alone.trials()) - begun
    print(f"alone: {len(expected)} trials, {seconds:.0f} s, the first epoch after {first:.0f} s", flush=True)
    for number, moment in enumerate(moments(seconds, first, kills, seed), 1):
        killed.run(moment)
        ended = len(outcomes(killed.trials()))
        print(f"kill {number} after {moment:5.1f} s: {ended} trials have ended", flush=True)
    print(f"left alone: {killed.run():.0f} s", flush=True)
    found, again = outcomes(killed.trials()), repeated(killed.trials())
    lost = sum(trial.user_attrs.get("uncounted") == "lost" for trial in killed.trials())
    print(f"trials under way at a kill: {lost}; whole epochs trained twice: {sum(again)} ({again})")
    epochs = sum(outcome[3] or 0 for outcome in expected)
    print(f"epochs of all trials: {epochs} alone, {sum(outcome[3] or 0 for outcome in found)} killed")
    drawing = sum("settings" not in trial.user_attrs for trial in killed.trials() if trial.params)
    if drawing:
        print(f"killed while their settings were being drawn: {drawing} trials, whose settings may be others now")
    different = [pair for pair in zip(expected, found, strict=False) if pair[0] != pair[1]]
    for pair in different:
        print(f"different:\n  {pair[0]}\n  {pair[1]}")
    # The same settings have the same outcome; others only from the first trial on that was killed while it was drawn.
    known = {outcome[1]: outcome for outcome in expected}
    wrong = [outcome for outcome in found if known.get(outcome[1], outcome) != outcome]
    as_alone = len(found) == len(expected) and not wrong and (not different or drawing > 0)
    print("nothing is lost, and equal settings have equal outcomes" if as_alone else "LOST OR CHANGED")
    return as_alone and all(count <= 1 for count in again)


def main() -> int:
    """Read the arguments, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--work", type=Path, help="folder for both searches; by default a temporary one")
    given, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        return 0 if compare(rest, given.work or Path(temporary), given.kills, given.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
