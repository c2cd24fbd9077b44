"""How many trials fail or repeat where the best settings lie at the border of those that fail.

    python -m benchmarks.border [--trials 80] [--seeds 5] [--samplers tpe,cmaes]

Nothing is trained: the value of a trial is the sum of its parameters, and it fails where the first two sum to more than
1.0, as a trial does that runs out of memory. Every study begins with a point that does not fail, as a search does with
the defaults. Before: Optuna's sampler by itself, with the same options, which does not see failed trials.
Prints, as Markdown, medians over the seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from benchmarks.tables import table
from recbole_msr.tuning.objective import Outcome
from recbole_msr.tuning.samplers import SAMPLERS, sampler_class
from recbole_msr.tuning.settings import SearchSettings
from recbole_msr.tuning.space.space import Space
from recbole_msr.tuning.study import open_study
from recbole_msr.tuning.trials import Trials

BORDER = 1.0
START = 0.3
LAST = 40


def space_of(parameters: int) -> Space:
    """Return a space of numbers from 0 to 1."""
    return Space.load({"search": {f"x{i}": {"type": "float", "low": 0.0, "high": 1.0} for i in range(parameters)}})


def value_of(found: dict[str, float]) -> float | None:
    """Return the value of a point; None where it fails."""
    return sum(found.values()) if found["x0"] + found["x1"] <= BORDER else None


def after(sampler: str, parameters: int, seed: int, trials: int, folder: Path) -> list[FrozenTrial]:
    """Return the trials of a search."""
    space = space_of(parameters)
    settings = SearchSettings(
        model="none",
        dataset="none",
        config={"seed": seed},
        space=space.to_dict(),
        objectives=["auc"],
        study="border",
        output=str(folder),
        trials=trials,
        sampler={"name": sampler},
        pruner={"name": "none"},
        wandb="disabled",
    )
    study = open_study(settings, space, "", {"auc": False}, 1)
    study.enqueue_trial({f"x{i}": START for i in range(parameters)})

    def objective(trial: Trial) -> Outcome:
        value = value_of(space.suggest(trial))
        if value is None:
            return Outcome(TrialState.FAIL, reason="out of memory: beyond the border")
        return Outcome(TrialState.COMPLETE, [value])

    with Trials(study, settings, trials) as handed_out:
        handed_out.run(objective)
    return study.get_trials(deepcopy=False)


def before(sampler: str, parameters: int, seed: int, trials: int, _: Path) -> list[FrozenTrial]:
    """Return the trials that Optuna's sampler makes by itself."""
    space = space_of(parameters)
    build, options = sampler_class(sampler), SAMPLERS[sampler][1]
    study = optuna.create_study(direction="maximize", sampler=build(seed=seed, **options))
    study.enqueue_trial({f"x{i}": START for i in range(parameters)})
    for _number in range(trials):
        trial = study.ask()
        value = value_of(space.suggest(trial))
        study.tell(trial, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
    return study.get_trials(deepcopy=False)


def wasted(trials: list[FrozenTrial]) -> int:
    """Return how many of the last 40 trials failed or repeated another."""
    seen: set[Any] = set()
    bad = []
    for trial in trials:
        point = tuple(sorted(trial.params.items()))
        bad.append(trial.state == TrialState.FAIL or point in seen)
        seen.add(point)
    return sum(bad[-LAST:])


def best(trials: list[FrozenTrial]) -> float:
    """Return the best value."""
    return max(trial.value for trial in trials if trial.value is not None)


def _measured(
    run: Callable[[str, int, int, int, Path], list[FrozenTrial]], sampler: str, parameters: int, trials: int, seeds: int
) -> tuple[float, float]:
    """Return the medians of the trials wasted and of the best value."""
    found = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(run(sampler, parameters, seed, trials, Path(folder)))
    return statistics.median(map(wasted, found)), statistics.median(map(best, found))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samplers", default="local,tpe")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    rows = []
    for sampler in arguments.samplers.split(","):
        for parameters in (2, 3, 4):
            row: list[Any] = [sampler, parameters]
            for run in (before, after):
                bad, value = _measured(run, sampler, parameters, arguments.trials, arguments.seeds)
                row += [f"{bad:g}", f"{value:.3f}"]
            rows.append([*row, f"{BORDER + parameters - 2:.1f}"])
    head = ["sampler", "parameters", "wasted of 40, before", "best", "wasted of 40, now", "best", "best there is"]
    print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
