"""The tables that the benchmarks print, as Markdown; from their JSON files into a page of the documentation:

    python -m benchmarks.tables FILE.json ... --page docs/performance.md

The figures of several files are put together, rounds of the same measurement among them.
A page has a table between `<!-- table:NAME -->` and
`<!-- /table:NAME -->`; one that no file has figures for is left as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import accuracy
from benchmarks.million_rows import LIMITS
from benchmarks.targets import Target, divided, fell_back, median, middle, targets

Results = Mapping[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return str(value)


def start_table(results: Results) -> list[str]:
    """Reading the data: medians of every dataset and side."""
    head = ["dataset", "side", "import s", "load s", "packing s", "load and pack s", "trial, fixed s", "peak GB"]
    rows = []
    for dataset, sides in results["start"].items():
        for side, runs in sides.items():
            own = [middle(runs, key) for key in ("import", "load", "pack")]
            total = own[1] + own[2] if own[1] is not None and own[2] is not None else None
            rows.append([dataset, side, *own, total, middle(runs, "trial"), middle(runs, "peak_gb")])
    return table(head, rows)


def train_table(results: Results) -> list[str]:
    """Training and evaluating: medians of every dataset, model and side, and the ratio to RecBole's Trainer."""
    head = [
        "dataset",
        "model",
        "side",
        "rounds",
        "rows/s",
        "/ RecBole",
        "epoch s",
        "evaluation s",
        "peak GB",
        "AUC then",
    ]
    rows: list[list[Any]] = []
    for dataset, models in results["train"].items():
        for model, sides in models.items():
            base = "RecBole, plain" if "RecBole, plain" in sides else "RecBole"
            theirs = median(results, dataset, model, base)
            for side in sides:
                speed = median(results, dataset, model, side)
                own = [median(results, dataset, model, side, key) for key in ("epoch", "evaluation", "peak_gb", "auc")]
                auc = "" if own[3] is None else f"{own[3]:.4f}"
                told = f"{side} (could not be compiled)" if speed is None and any(map(fell_back, sides[side])) else side
                rows.append([dataset, model, told, len(sides[side]), speed, divided(speed, theirs), *own[:3], auc])
    return table(head, rows)


def limit_table(results: Results) -> list[str]:
    """The arithmetic limit of a step, and how far training comes up to it."""
    head = ["model, data", "MFLOP a row", "precision", "GFLOP/s measured", "limit, rows/s", "ours, rows/s", "share"]
    rows: list[list[Any]] = []
    for name, found in results["limits"].items():
        model, dataset = name.split(", ")
        for precision, side in (("fp32", "ours"), ("bf16", "ours, bf16")):
            if found[precision] is None:
                continue
            most, speed = found[precision]["rows_per_second"], median(results, dataset, model, side)
            share = divided(speed, most)
            rows.append([
                name, found["flops_per_row"] / 1e6, precision, found[precision]["rate"] / 1e9, most, speed,
                None if share is None else f"{share:.0%}",
            ])  # fmt: skip
    return table(head, rows)


def profile_table(results: Results) -> list[str]:
    """Where a step goes."""
    kinds = list(next(iter(results["profile"].values()))["shares"])
    rows = [
        [name, found["step"] * 1e3, *(f"{found['shares'][kind]:.0%}" for kind in kinds)]
        for name, found in results["profile"].items()
    ]
    return table(["model, data, side", "step ms", *kinds], rows)


def search_table(results: Results) -> list[str]:
    head = ["model", "side", "seconds", "HyperTuning / it", "trials", "best"]
    rows: list[list[Any]] = []
    for model, sides in results["search"].items():
        theirs = sides["HyperTuning"]["seconds"] if "HyperTuning" in sides else None
        for side, found in sides.items():
            ratio = divided(theirs, found["seconds"])
            rows.append([model, side, found["seconds"], ratio, found["trials"], f"{found['best']:.4f}"])
    return table(head, rows)


def gpu_table(results: Results) -> list[str]:
    rows: list[list[Any]] = []
    for name, found in results["gpu"].items():
        if not found:
            continue
        if fell_back(found):
            rows.append([f"{name} (could not be compiled)", None, None])
        elif "rows_per_second" in found:
            rows.append([name, statistics.median(found["rows_per_second"]), found["peak_gpu_gb"]])
    return table(["HiNet on a GPU", "rows/s", "peak GB on the GPU"], rows)


def target_table(found: Sequence[Target]) -> list[str]:
    """Every target, with what was found."""
    words = {True: "yes", False: "no", None: "not measured"}
    rows = []
    for target in found:
        least = "1/3" if target.least == 1 / 3 else f"{target.least:g}"
        rows.append(
            [target.what, target.ratio, least, words[target.met] + (f" ({target.note})" if target.note else "")]
        )
    return table(["what", "found", "at least", "met"], rows)


def accuracy_table(results: Results) -> list[str]:
    """Test AUC of the fast paths against the exact one."""
    lines: list[str] = []
    for model, found in results["accuracy"].items():
        what = f"{model}, {found['dataset']}, {found['epochs']} epoch{'s' if found['epochs'] > 1 else ''}, "
        what += f"{len(next(iter(found['auc'].values())))} seeds:"
        lines += ["", what, "", *accuracy.lines(model, found["auc"])]
    return lines[1:]


def million_table(results: Results) -> list[str]:
    """What a million rows take beside training, and what they may."""
    found = results["million"]
    rows = [[name, found[name], most] for name, most in LIMITS.items() if name in found]
    return table(["of 1,000,000 rows", "seconds", "at most"], rows)


def export_table(results: Results) -> list[str]:
    """Milliseconds of scoring by onnxruntime and by PyTorch."""
    found = results["export"]
    rows = [[way, 1000 * found[way]] for way in ("PyTorch", "onnxruntime") if way in found]
    return table(["HiNet, 4096 rows, one thread", "ms"], rows)


def predict_table(results: Results) -> list[str]:
    """Rows a second of a prediction and of an evaluation."""
    found = results["predict"]
    return table(
        ["DeepFM, one core", "rows/s"], [[way, found[way]] for way in ("predict", "evaluation") if way in found]
    )


def serve_table(results: Results) -> list[str]:
    """Milliseconds of requests, by each of what a server may score with."""
    names = {"median_ms": "median, ms", "p99_ms": "99th percentile, ms", "requests_per_second": "requests a second"}
    found = results["serve"]
    ways = [way for way in ("PyTorch", "onnxruntime") if way in found]
    rows = [[name, *(found[way][key] for way in ways)] for key, name in names.items()]
    bare = ["bare forward pass, ms", *(found.get("bare_ms") if way == "PyTorch" else None for way in ways)]
    return table(["16 clients, 200 rows a request", *ways], [*rows, bare] if ways else [])


def tables_table(results: Results) -> list[str]:
    """A log into packed tables, from Parquet and from its atomic files."""
    return _prepared("2,000,000 rows from", results["tables"])


def large_table(results: Results) -> list[str]:
    """Preparing logs of several sizes."""
    return _prepared("Parquet of", results["large"])


def resident_table(results: Results) -> list[str]:
    """Training with 2 million users, by how the embeddings' gradients are kept."""
    keys = ("before_gb", "dense_gb", "peak_gb", "seconds")
    rows = [[side, *(middle(runs, key) for key in keys)] for side, runs in results["resident"].items()]
    return table(
        ["gradients", "GB before", "weights, gradients, moments of dense Adam, GB", "peak GB", "seconds"], rows
    )


def _prepared(head: str, sides: Mapping[str, Any]) -> list[str]:
    rows = [[side, *(middle(runs, key) for key in ("seconds", "processor", "peak_gb"))] for side, runs in sides.items()]
    return table([head, "seconds", "of the processor", "peak GB"], rows)


def fused_table(results: Results) -> list[str]:
    """Trainings at once beside the same ones one by one, and the final test."""
    head = ["model", "batch", "what", "one by one, rows/s", "side by side / it", "stacked / it"]
    rows = []
    for found in results["fused"]["members"]:
        alone = found["one by one"]
        gains = [divided(found.get(way), alone) for way in ("side by side", "stacked")]
        rows.append([found["model"], found["batch"], f"{found['members']} {found['kind']}", alone, *gains])
    lines = table(head, rows)
    head = ["final test", "seeds", "one by one, s", "together, s", "one by one / together"]
    rows = [
        [found["model"], found["seeds"], alone := found["one by one"], found["together"], alone / found["together"]]
        for found in results["fused"]["final"]
    ]
    return [*lines, "", *table(head, rows)]


def memory_table(results: Results) -> list[str]:
    """What large pages and memory that is kept bring, to either side."""
    head = ["dataset", "model", "side", "memory", "rows/s", "/ as it is", "evaluation s", "as it is / it", "peak GB"]
    rows: list[list[Any]] = []
    for dataset, models in results["memory"].items():
        for model, sides in models.items():
            for side, ways in sides.items():
                usual = [middle(ways.get("as it is", ()), key) for key in ("rows_per_second", "evaluation")]
                for way, runs in ways.items():
                    speed, seconds = middle(runs, "rows_per_second"), middle(runs, "evaluation")
                    gains = divided(speed, usual[0]), divided(usual[1], seconds)
                    rows.append(
                        [dataset, model, side, way, speed, gains[0], seconds, gains[1], middle(runs, "peak_gb")]
                    )
    return table(head, rows)


def machine_table(results: Results) -> list[str]:
    """What the figures were measured on."""
    machine, versions = results["machine"], results["versions"]
    return [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, bfloat16 by {machine['bf16']}; "
        f"Python {machine['python']}, {', '.join(f'{name} {number}' for name, number in versions.items())}. "
        f"{results['threads']} thread a process, {results['stretches']} stretches a round, {results['clock']} time."
    ]


TABLES: dict[str, Callable[[Results], list[str]]] = {
    "machine": machine_table,
    "start": start_table,
    "train": train_table,
    "search": search_table,
    "fused": fused_table,
    "memory": memory_table,
    "million": million_table,
    "tables": tables_table,
    "large": large_table,
    "resident": resident_table,
    "profile": profile_table,
    "limits": limit_table,
    "gpu": gpu_table,
    "accuracy": accuracy_table,
}


def together(first: Any, second: Any) -> Any:
    """Two files' results as one: runs of the same measurement side by side; of single values the second's."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return {
            **first, **{key: together(first[key], value) if key in first else value for key, value in second.items()}
        }  # fmt: skip
    if isinstance(first, list) and isinstance(second, list):
        return [*first, *second]
    return second


def fill(page: str, results: Results) -> str:
    """A page with its tables made of the results."""
    made = {name: make(results) for name, make in TABLES.items() if results.get(name)}
    made["targets"] = target_table(targets(results))
    for name, lines in made.items():
        text = "\n".join([f"<!-- table:{name} -->", "", *lines, "", f"<!-- /table:{name} -->"])
        page = re.sub(
            f"<!-- table:{name} -->.*?<!-- /table:{name} -->", lambda _, text=text: text, page, flags=re.DOTALL
        )
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, required=True)
    given = parser.parse_args()
    results: dict[str, Any] = {}
    for file in given.files:
        results = together(results, json.loads(file.read_text(encoding="utf-8")))
    given.page.write_text(fill(given.page.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
