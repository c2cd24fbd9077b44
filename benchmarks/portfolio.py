"""First configurations of every model: settings that are good on many datasets, each where those before it are weak.

    python -m benchmarks.portfolio collect --folder=DIR [--models=HiNet,FM] [--rows=20000] [--seconds=3600]
    python -m benchmarks.portfolio choose --folder=DIR [--without=yelp --out=DIR]
    python -m benchmarks.portfolio report --folder=DIR

`collect` trains (`benchmarks/portfolio_trials.py` has the method and what was cut); `DIR/trainings.jsonl` has a line a
training, and the same command goes on. `choose` writes `search_spaces/first/MODEL.yaml`, `report` prints the tables of
docs/search.md, or puts them into it (`--page docs/search.md`). With `--fidelity=FILE` the full trainings of
`benchmarks/fidelity.py` count, too. `--without` leaves a dataset out, for a search that is then judged on it
(`benchmarks/anytime.py` does that).

Choosing. The loss of settings on a dataset is the best value of all settings there minus theirs, as a share of the best
value minus 0.5 (what an AUC is worth that knows nothing). The defaults come first, as in every search. Each further one
is the settings that lower most the sum over datasets of the least loss of those chosen; it ends where none lowers the
mean loss by `LEAST_GAIN`, or at `MOST`.

Judging. Settings are also chosen without a dataset and judged there: the best value of its first k trials, the defaults
among them, beside that of the defaults and of k - 1 random points of the space with the defaults.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.outside_data import SOURCE
from benchmarks.portfolio_trials import SHARES, Results, collect, differing
from recbole_msr.errors import InputError
from recbole_msr.files.yaml import write_yaml_text
from recbole_msr.registry import search_spaces
from recbole_msr.tuning.first_configurations import check_configurations
from recbole_msr.tuning.space.space import Space

MOST = 12
"""Settings chosen for a model at most."""
LEAST_GAIN = 0.0005
"""Mean loss that one more must take away."""
FEWEST = 3
"""Settings that must have been trained on all datasets for a model to have first configurations."""
TRIALS = (1, 2, 4, 8)
Values = Mapping[int, Mapping[str, float]]
"""Number of settings -> dataset -> value; 0 is the defaults."""


def losses(values: Values) -> dict[int, dict[str, float]]:
    """The loss of every settings on every dataset: 0 for the best, 1 for what a model that knows nothing has."""
    data = list(values[0])
    best = {name: max(by_data.get(name, -math.inf) for by_data in values.values()) for name in data}
    return {
        number: {name: min((best[name] - by_data.get(name, -math.inf)) / (best[name] - 0.5), 1.0) for name in data}
        for number, by_data in values.items()
    }


def choose(values: Values, data: Iterable[str] | None = None, most: int = MOST, least: float = LEAST_GAIN) -> list[int]:
    """Choose settings greedily, the defaults first.

    Args:
        values: values of settings; number 0 is the defaults.
        data: datasets that they are chosen on; by default all.
        most: how many at most, without the defaults.
        least: what each must lower the mean least loss by.

    Returns:
        Their numbers, in their order, with 0 in front.
    """
    names = list(values[0]) if data is None else list(data)
    lost = losses({number: {name: by[name] for name in names if name in by} for number, by in values.items()})
    chosen, least_lost = [0], dict(lost[0])
    while len(chosen) <= most:
        gains = {
            number: statistics.mean(max(least_lost[name] - by[name], 0.0) for name in names)
            for number, by in lost.items()
            if number not in chosen
        }
        following = max(gains, key=lambda number: gains[number], default=None)
        if following is None or gains[following] < least:
            return chosen
        chosen.append(following)
        least_lost = {name: min(least_lost[name], lost[following][name]) for name in names}
    return chosen


def outside(model: str, settings: Mapping[str, Any], space: Space) -> bool:
    """Whether settings are outside of a model's space: a search could not try them."""
    try:
        check_configurations([differing(model, settings)], model, space, model)
    except InputError:
        return True
    return False


def file_of(model: str, values: Values, settings: Mapping[int, Mapping[str, Any]], chosen: Sequence[int]) -> str:
    """The YAML file of a model's first configurations."""
    data = list(values[0])
    lines = [
        f"# First configurations of {model}, tried after the defaults: docs/search.md, Where a search begins.",
        f"# Written by python -m benchmarks.portfolio choose, of {len(values)} settings on {', '.join(data)}.",
        "# At each: macro AUC minus that of the defaults (validation, small samples, one seed).",
        f"model: {model}",
        "configurations:",
    ]
    for number in chosen[1:]:
        gains = {name: values[number].get(name, math.nan) - values[0][name] for name in data}
        shown = ", ".join(f"{name} {gain:+.4f}" for name, gain in gains.items() if math.isfinite(gain))
        text = write_yaml_text(differing(model, settings[number]), flow=True, width=10**6).strip()
        lines += [f"  # {shown}", f"  - {text}"]
    return "\n".join(lines) + "\n"


def left_out_one(values: Values, random: Sequence[int]) -> dict[int, dict[str, tuple[float, float | None]]]:
    """Number of trials -> dataset -> best value of settings chosen on the other datasets, and that of random ones.

    Args:
        values: values of settings.
        random: numbers of the settings that are random points of the space.
    """
    found: dict[int, dict[str, tuple[float, float | None]]] = {}
    for left_out in values[0]:
        others = [name for name in values[0] if name.split(" ")[0] != left_out.split(" ")[0]]
        known = {number: by for number, by in values.items() if left_out in by}
        order = choose(known, others, most=max(TRIALS), least=-1.0)
        for trials in TRIALS:
            ours = max(known[number][left_out] for number in order[:trials])
            at_random = [known[number][left_out] for number in random if number in known]
            drawn = expected_best(at_random, trials - 1, values[0][left_out])
            found.setdefault(trials, {})[left_out] = (ours, drawn)
    return found


def expected_best(values: Sequence[float], draws: int, floor: float) -> float | None:
    """The mean over all ways to draw so many of the values of the largest one, or `floor`; None of too few values."""
    if draws == 0:
        return floor
    if len(values) < max(draws, 2):
        return None
    ordered = sorted(values)
    ways = math.comb(len(ordered), draws)
    return sum(math.comb(i, draws - 1) * max(value, floor) for i, value in enumerate(ordered)) / ways


def report(results: Results, models: Sequence[str]) -> str:
    """The tables of docs/search.md: gains over the defaults, of settings that were chosen without the dataset."""
    lines: list[str] = []
    for model in models:
        values = results.values(model)
        if len(values) < FEWEST:
            continue
        found = left_out_one(values, [number for number in results.random(model) if number in values])
        samples = [name for name in values[0] if "(" not in name]
        for names in (samples, [name for name in values[0] if name not in samples]):
            if names:
                trained = [number for number in values if names[0] in values[number]]
                lines += [
                    f"**{model}**, of {len(trained)} settings:",
                    "",
                    *_table(names, len(trained), values, found),
                    "",
                ]
    return "\n".join(lines)


def _table(names: Sequence[str], settings: int, values: Values, found: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Lines of a table: for each dataset the defaults, and the gains after some trials of ours and of random ones."""
    counts = [trials for trials in TRIALS[1:] if trials < settings]
    columns: dict[str, list[float]] = {f"after {trials}": [found[trials][n][0] for n in names] for trials in counts}
    for trials in counts:
        drawn = [found[trials][name][1] for name in names]
        if None not in drawn and settings > 2 * trials:
            columns[f"random, {trials}"] = drawn
    rows = [[name, f"{values[0][name]:.4f}"] for name in names] + [["mean", ""]]
    for each in columns.values():
        gains = [value - values[0][name] for value, name in zip(each, names, strict=True)]
        for row, gain in zip(rows, [*gains, statistics.mean(gains)], strict=True):
            row.append(f"{gain:+.4f}")
    head = ["left out", "defaults", *columns]
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def put(tables: str, page: Path | None) -> None:
    """Print tables, or put them into a page between the marks."""
    if page is None:
        print(tables)
        return
    before, begin, rest = page.read_text(encoding="utf-8").partition("<!-- benchmarks.portfolio report -->\n")
    _, end, after = rest.partition("<!-- end -->")
    page.write_text(f"{before}{begin}\n{tables}\n{end}{after}", encoding="utf-8")


def better_everywhere(values: Values) -> list[int]:
    """Settings that are better than the defaults on every dataset, the best on average first."""
    gains = {n: [by[name] - values[0][name] for name in by] for n, by in values.items() if n}
    return sorted((n for n, each in gains.items() if min(each) > 0), key=lambda n: -statistics.mean(gains[n]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("collect", "choose", "report"))
    parser.add_argument("--folder", type=Path, default=Path("runs/portfolio"), help="results and datasets")
    parser.add_argument("--models", help="names with commas between them; by default all")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder with the raw data")
    parser.add_argument(
        "--fidelity", type=Path, help="fidelity.jsonl of benchmarks.fidelity, whose trainings count, too"
    )
    parser.add_argument("--page", type=Path, help="where report puts its tables")
    parser.add_argument("--settings", type=int, default=40, help="settings of each model")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seconds", type=float, help="then nothing more is begun")
    parser.add_argument("--without", default="", metavar="DATASET", help="choose as if there were no such dataset")
    parser.add_argument("--out", type=Path, default=search_spaces("first"), help="where choose writes its files")
    given = parser.parse_args(arguments)
    models = given.models.split(",") if given.models else list(SHARES)
    if given.what == "collect":
        collect(given.folder, models, given.settings, given.rows, given.epochs, given.seconds, given.source)
        return
    results = Results(given.folder, given.fidelity)
    if given.what == "report":
        put(report(results, models), given.page)
        return
    choose_files(results, models, given.out, given.without)


def choose_files(results: Results, models: Sequence[str], out: Path, without: str = "") -> None:
    """Write the first configurations of every model that has been trained enough.

    Args:
        results: the trainings.
        models: the models.
        out: the folder of the files.
        without: a dataset that is not looked at; "" for none.
    """
    for model in models:
        values = {
            number: {name: value for name, value in by.items() if not without or name.split(" ")[0] != without}
            for number, by in results.values(model).items()
        }
        if len(values) < FEWEST:
            print(f"{model}: {len(values)} settings were trained on all datasets, too few to choose from")
            continue
        settings = {number: one["settings"] for number, one in results.of(model).items()}
        space = Space.of_model(model)
        chosen = choose({number: by for number, by in values.items() if not outside(model, settings[number], space)})
        print(f"{model}: {len(chosen) - 1} of {len(values)} settings")
        for number in better_everywhere(values):
            mean = statistics.mean(values[number][name] - values[0][name] for name in values[number])
            print(f"  better than the defaults everywhere, {mean:+.4f}: {json.dumps(settings[number])}")
        if len(chosen) > 1:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{model}.yaml").write_text(file_of(model, values, settings, chosen), encoding="utf-8")


if __name__ == "__main__":
    main()
