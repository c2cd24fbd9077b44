"""Measure how far attentions and gates have moved from where a run began, and how far runs agree on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from recbole_msr.errors import InputError
from recbole_msr.files.json import read_json
from recbole_msr.runs.folder import RunFolder

START_FILE = "start.json"
AGREE = 0.1
"""Greatest `distance` at which two runs agree on a line of weights."""


@dataclass(frozen=True)
class Weights:
    """One line of weights that sum to 1: of an attention, or the mean that a gate gives over training rows.

    Attributes:
        part, line: the part of the model, and its line.
        choices: names of what is weighed (E).
        values: the weights (E).
    """

    part: str
    line: str
    choices: list[str]
    values: list[float]


@dataclass(frozen=True)
class Movement:
    """Weights as they are, and as they were before the first step.

    Attributes:
        now, start: the same line, now and then.
    """

    now: Weights
    start: Weights

    @property
    def moved(self) -> float:
        """The share of the weight that lies on other choices than at the start, 0 to 1."""
        return distance(self.now.values, self.start.values)


@dataclass(frozen=True)
class Agreement:
    """A line of weights over several runs.

    Attributes:
        part, line, choices: see `Weights`; experts that are drawn alike are put together (`comparable`).
        mean, spread: over the runs, mean and greatest difference of each weight (E).
        moved: the mean of `Movement.moved`; None where a run's start is not known.
        apart: the greatest `distance` of two runs.
    """

    part: str
    line: str
    choices: list[str]
    mean: list[float]
    spread: list[float]
    moved: float | None
    apart: float

    @property
    def agrees(self) -> bool:
        """Whether no two runs are further apart than `AGREE`."""
        return self.apart <= AGREE


def distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the share of the weight that two lines put on other choices, 0 to 1: half the sum of their differences."""
    return sum(abs(a - b) for a, b in zip(first, second, strict=True)) / 2


def write_start(folder: RunFolder, weights: Sequence[Weights]) -> None:
    """Write the weights that a run began with into its folder."""
    folder.write_json(START_FILE, [asdict(line) for line in weights])


def read_start(folder: Path) -> list[Weights] | None:
    """Read the weights that a run began with; None where it did not keep them.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / START_FILE
    try:
        weights = [Weights(**line) for line in read_json(path, [dict])]
        for line in weights:
            distance(line.values, [0.0] * len(line.choices))  # raises if a value is no number, or one is missing
        return weights
    except FileNotFoundError:
        return None
    except InputError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def movements(now: Sequence[Weights], start: Sequence[Weights]) -> list[Movement]:
    """Pair the lines that are the same now and at the start."""
    by_name = {(line.part, line.line): line for line in start}
    pairs = [(line, by_name.get((line.part, line.line))) for line in now]
    return [Movement(line, then) for line, then in pairs if then is not None and then.choices == line.choices]


def comparable(line: Weights) -> Weights:
    """Return a line with choices that mean the same in every run.

    Which of several experts that are drawn alike (`sub-expert 1`, `sub-expert 2`) learns what is chance. Of two kinds
    of experts each kind's sum is compared; of one kind alone, the weights by their size.
    """
    kinds = [re.fullmatch(r"(.*expert) \d+", choice) for choice in line.choices]
    if not all(kinds):
        return line
    names = [kind.group(1) for kind in kinds if kind is not None]
    if len(set(names)) == 1:
        ordered = sorted(line.values, reverse=True)
        return Weights(line.part, line.line, [f"largest {n + 1}" for n in range(len(ordered))], ordered)
    sums = dict.fromkeys(names, 0.0)
    for name, value in zip(names, line.values, strict=True):
        sums[name] += value
    return Weights(line.part, line.line, [f"{name}s" for name in sums], list(sums.values()))


def agreements(runs: Sequence[Sequence[Weights]], moves: Sequence[Sequence[Movement]]) -> list[Agreement]:
    """Compare every line of weights over runs that have the same lines.

    Args:
        runs: the lines of each run.
        moves: the movements of each run, as far as its start is known.
    """
    compared = []
    moved = [{(m.now.part, m.now.line): m.moved for m in run} for run in moves]
    for of_runs in zip(*runs, strict=True):
        lines = [comparable(line) for line in of_runs]
        key, each = (lines[0].part, lines[0].line), list(zip(*(line.values for line in lines), strict=True))
        run_moves = [run[key] for run in moved if key in run]
        compared.append(
            Agreement(
                *key,
                lines[0].choices,
                [sum(values) / len(values) for values in each],
                [max(values) - min(values) for values in each],
                sum(run_moves) / len(run_moves) if len(run_moves) == len(lines) else None,
                max(distance(a.values, b.values) for a, b in combinations(lines, 2)),
            )
        )
    return compared


def conclusion(lines: Sequence[Agreement], n_runs: int) -> str:
    """Sum the agreements up in a sentence or two."""
    differ = [line for line in lines if not line.agrees]
    sentence = f"{n_runs} runs: on {len(lines) - len(differ)} of {len(lines)} lines of weights they agree"
    sentence += f" (no two of them are further apart than {AGREE:g})"
    if not differ:
        return f"{sentence}."
    worst = sorted(differ, key=lambda line: -line.apart)[:3]
    most_apart = "; ".join(f"{line.part}, {line.line} ({line.apart:.2f})" for line in worst)
    return f"{sentence}. Most apart: {most_apart}: what differs from seed to seed says nothing about the data."
