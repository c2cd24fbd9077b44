"""What this package costs beside RecBole's own Trainer, measured on this machine.

    python -m benchmarks --data_path=DIR            everything but the accuracy of the fast paths
    python -m benchmarks --quick                    a few minutes: less of everything, without MovieLens-1M
    python -m benchmarks --parts accuracy --data_path=DIR

DIR holds ml-1m (`recbole-msr data ml-1m RAW_DIR DIR`); what needs it is left out where it is not given. The synthetic
dataset is made below --work. Prints tables as Markdown, that of the targets last, and writes all figures as JSON. The
method is described in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import accuracy, fused, large, search, synthetic, tables
from benchmarks.cases import DATASETS, MEMORY, MODELS, SIDES, STEPS, Side, has_data, memory_ways, sides_of
from benchmarks.measure import CLOCKS
from benchmarks.process import FailedError, machine, measured
from benchmarks.targets import targets

PARTS = (
    "start",
    "train",
    "limits",
    "profile",
    "search",
    "fused",
    "memory",
    "million",
    "export",
    "predict",
    "serve",
    "tables",
    "large",
    "resident",
    "gpu",
    "accuracy",
)
PROFILED = (("LR", "RecBole"), ("DeepFM", "RecBole"), ("HiNet", "RecBole, plain"))
"""The models whose steps are profiled, with the side before."""
_SECONDS = {"ml-100k": 11, "ml-1m": 16, synthetic.NAME: 22}
"""Of one process of `train` on two cores of 2022, to say beforehand how long all will take."""


class Benchmarks:
    """Runs the parts one after the other and keeps what they find."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder, self.cache = given, folder, folder / "cache"
        self.failed: list[str] = []
        self.paths: dict[str, str | None] = {"ml-100k": None, "ml-1m": given.data_path}
        self.results: dict[str, Any] = {
            "machine": machine(),
            "versions": {name: version(name) for name in ("torch", "recbole", "pytorch-lightning", "numpy", "pandas")},
            "threads": 1,
            "rounds": given.rounds,
            "stretches": given.stretches,
            "clock": given.clock,
        }

    def run(self) -> None:
        given = self.given
        if synthetic.NAME in given.datasets or {"gpu", "predict"} & set(given.parts):
            folder = Path(given.work, f"data-{given.rows}-{given.ids}").resolve()
            self.paths[synthetic.NAME] = str(synthetic.make(folder, given.rows, given.ids))
            self.results["synthetic"] = {"rows": given.rows, "ids": given.ids}
        for name in [name for name in given.datasets if not has_data(name, self.paths.get(name))]:
            print(f"left out: {name}, which is not below --data_path ({given.data_path})")
            given.datasets.remove(name)
        print(f"about {self.estimate() / 60:.0f} minutes, on {self.results['machine']}", flush=True)
        for part in PARTS:
            if part in given.parts:
                begin = time.perf_counter()
                print(f"\n## {part}\n", flush=True)
                for line in getattr(self, part)():
                    print(line, flush=True)
                self.results.setdefault("seconds", {})[part] = round(time.perf_counter() - begin, 1)
                self.save()
        found = targets(self.results)
        print("\n## targets\n\n" + "\n".join(tables.target_table(found)))

    def save(self) -> None:
        """Write what there is; a run that is interrupted keeps the parts that were done."""
        self.results["failed"] = self.failed
        self.results["targets"] = [target.to_dict() for target in targets(self.results)]
        self.given.out.parent.mkdir(parents=True, exist_ok=True)
        self.given.out.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")

    def estimate(self) -> float:
        """Seconds that all the parts will take, roughly."""
        given = self.given
        train = sum(_SECONDS[d] * len(self.sides(m, d)) for d in given.datasets for m in given.models) * given.rounds
        train *= 0.6 if given.quick else 1
        large = given.rows / 2_000_000
        start = sum({"ml-100k": 30, "ml-1m": 75, synthetic.NAME: 40 + 160 * large}[d] for d in given.datasets)
        seconds = {
            "start": start * min(2, given.rounds),
            "train": train,
            "limits": 20 * len(given.models),
            "profile": 90,
        }
        seconds |= {
            "search": 60 + 330 * ("ml-1m" in given.datasets),
            "fused": 900,
            "memory": 220 * given.rounds,
            "million": 30,
            **{"export": 40, "predict": 60 + 60 * large, "serve": 40},
            "tables": 90,
            "large": 120,
            "resident": 400,
            "gpu": 0,
            "accuracy": 2400,
        }
        return sum(seconds[part] for part in given.parts)

    def call(self, name: str, what: str, arguments: dict[str, Any], **options: Any) -> dict[str, Any] | None:
        """One measurement; None where it failed, which is told and remembered."""
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            try:
                found = measured(what, arguments, Path(work), **{"cache": self.cache, **options})
            except FailedError as error:
                print(f"  failed: {name}\n{error}", flush=True)
                self.failed.append(name)
                return None
        values = ", ".join(f"{key} {_short(value)}" for key, value in found.items() if not isinstance(value, dict))
        print(f"  {name}: {values}", flush=True)
        return found

    def sides(self, model: str, dataset: str) -> list[Side]:
        """Those that were asked for."""
        return [side for side in sides_of(model, dataset) if not self.given.sides or side.name in self.given.sides]

    # The parts.

    def start(self) -> list[str]:
        """Imports, reading, packing, starting from the cache, and what a trial of a search costs beside training."""
        kept: dict[str, Any] = self.results.setdefault("start", {})
        for dataset in self.given.datasets:
            path = self.paths[dataset]
            small = dataset != synthetic.NAME or self.given.rows <= 200_000
            common = {"model": "DeepFM", "dataset": dataset, "data_path": path}
            for turn in range(min(2, self.given.rounds)):
                with tempfile.TemporaryDirectory(dir=self.folder) as name:
                    cache = Path(name)
                    for side, kind in (("RecBole", "recbole"), ("ours, first", "ours"), ("ours, cached", "ours")):
                        own = common | {"kind": kind, "again": kind == "recbole" and small}
                        label = f"{dataset}, {side}, round {turn + 1}"
                        found = self.call(label, "start", own, recbole=kind == "recbole", cache=cache)
                        if found is not None:
                            kept.setdefault(dataset, {}).setdefault(side, []).append(found)
                    if turn == 0:
                        found = self.call(f"{dataset}, trials of a search", "trials", common, cache=cache)
                        cached = kept.get(dataset, {}).get("ours, cached")
                        if found is not None and cached:
                            cached[-1]["trial"] = found["trial"]
        return ["", *tables.start_table(self.results)]

    def train(self) -> list[str]:
        """Rows a second, memory and evaluation of every model, dataset and side, which take turns."""
        kept: dict[str, Any] = self.results.setdefault("train", {})
        told: set[str] = set()
        for dataset in self.given.datasets:
            path = self.paths[dataset]
            for model in self.given.models:
                own = {"model": model, "dataset": dataset, "data_path": path}
                if self.call(f"{dataset}, {model}, into the cache", "prepare", own) is None:
                    continue
                steps = self.given.steps or (max(3, STEPS[model] // 4) if self.given.quick else STEPS[model])
                own |= {"steps": steps, "stretches": self.given.stretches, "batch": self.given.batch_size}
                own |= {"clock": self.given.clock}
                for turn in range(self.given.rounds):
                    for side in self.sides(model, dataset):
                        label = f"{dataset}, {model}, {side.name}, round {turn + 1}"
                        found = self.call(label, "train", own | {"side": side.name}, recbole=side.recbole)
                        if found is not None:
                            told |= {f"{dataset}, {model}, {side.name}: {line}" for line in found["warnings"]}
                            kept.setdefault(dataset, {}).setdefault(model, {}).setdefault(side.name, []).append(found)
        return ["", *tables.train_table(self.results), "", *sorted(told), *self._same_work()]

    def _same_work(self) -> list[str]:
        """How far the AUCs after the measured steps are apart, of the sides with RecBole's arithmetic."""
        apart: dict[str, float] = {}
        for dataset, models in self.results["train"].items():
            for model, sides in models.items():
                if "RecBole" in sides and "ours" in sides:
                    apart[f"{dataset}, {model}"] = abs(sides["RecBole"][0]["auc"] - sides["ours"][0]["auc"])
        self.results["auc_apart"] = apart
        if not apart:
            return []
        worst = max(apart, key=lambda name: apart[name])
        lines = [
            f"AUC after the measured steps, RecBole's Trainer and ours: at most {apart[worst]:.5f} apart ({worst})"
        ]
        return lines + [f"NOT the same work: {name}, {value:.4f}" for name, value in apart.items() if value > 0.01]

    def limits(self) -> list[str]:
        """What the matrix products of a step take by themselves."""
        kept: dict[str, Any] = self.results.setdefault("limits", {})
        dataset = "ml-1m" if "ml-1m" in self.given.datasets else self.given.datasets[0]
        for model in (model for model in self.given.models if model != "LR"):  # which has next to none
            own = {"model": model, "dataset": dataset, "data_path": self.paths[dataset]}
            own["side"] = "RecBole, plain" if model == "HiNet" else "ours"  # with nothing but the equations' products
            found = self.call(f"{dataset}, {model}", "limits.limit", own | {"batch": self.given.batch_size})
            if found is not None:
                kept[f"{model}, {dataset}"] = found
        return ["", *tables.limit_table(self.results)]

    def profile(self) -> list[str]:
        """Where a step goes, before and after."""
        kept: dict[str, Any] = self.results.setdefault("profile", {})
        dataset = "ml-1m" if "ml-1m" in self.given.datasets else self.given.datasets[0]
        wanted = [(m, dataset, side) for m, before in PROFILED if m in self.given.models for side in (before, "ours")]
        if synthetic.NAME in self.given.datasets and "DeepFM" in self.given.models:
            wanted += [("DeepFM", synthetic.NAME, "RecBole"), ("DeepFM", synthetic.NAME, "ours, sparse")]
        for model, data, name in dict.fromkeys(wanted):
            side = next(side for side in (*sides_of(model, data), *sides_of(model, "ml-1m")) if side.name == name)
            own = {"model": model, "dataset": data, "side": name, "data_path": self.paths[data], "steps": 5}
            label = f"{model}, {data}, {name}"
            found = self.call(label, "profiling.shares", own | {"batch": self.given.batch_size}, recbole=side.recbole)
            if found is not None:
                kept[label] = found
        return ["", *tables.profile_table(self.results)] if kept else []

    def search(self) -> list[str]:
        """RecBole's HyperTuning and this package's search, over the same trials."""
        kept: dict[str, Any] = self.results.setdefault("search", {})
        for model in ("LR", "HiNet"):
            if model not in self.given.models or search.DATASETS[model] not in self.given.datasets:
                continue
            try:
                kept[model] = search.compare(model, self.given.data_path, self.folder, only=True)
            except FailedError as error:
                print(f"  failed: search of {model}\n{error}", flush=True)
                self.failed.append(f"search of {model}")
        if any("HyperTuning" not in sides for sides in kept.values()):
            print("  HyperTuning is left out: it needs hyperopt (pip install hyperopt)")
        return ["", *tables.search_table(self.results)]

    def fused(self) -> list[str]:
        """Trainings at once, of trials and of seeds; on a GPU where there is one."""
        import torch

        kept: dict[str, Any] = self.results.setdefault("fused", {"members": [], "final": []})
        dataset = "ml-1m" if "ml-1m" in self.given.datasets else self.given.datasets[0]
        own: dict[str, Any] = {"dataset": dataset, "data_path": self.paths[dataset], "rounds": self.given.rounds}
        own["gpu"] = torch.cuda.is_available()
        for model, kind, batch, members in fused.CASES:
            case = {"model": model, "kind": kind, "batch": batch, "members": members}
            found = self.call(f"{model}, {members} {kind}, batch {batch}", "fused.together", own | case)
            if found is not None:
                kept["members"].append(own | case | found)
        for model in fused.FINALS:
            found = self.call(f"final test of {model}", "fused.final", own | {"model": model})
            if found is not None:
                kept["final"].append(own | {"model": model, "seeds": fused.SEEDS} | found)
        return ["", *tables.fused_table(self.results)]

    def memory(self) -> list[str]:
        """The same steps and evaluations with and without large pages, and memory that is kept."""
        kept: dict[str, Any] = self.results.setdefault("memory", {})
        for model, dataset, sides in MEMORY:
            if dataset not in self.given.datasets or model not in self.given.models:
                continue
            own: dict[str, Any] = {"model": model, "dataset": dataset, "data_path": self.paths[dataset]}
            self.call(f"{dataset}, {model}, into the cache", "prepare", own)
            own |= {"steps": STEPS[model], "stretches": self.given.stretches}
            for _ in range(self.given.rounds):
                for side in sides:
                    for way, variables in memory_ways(side).items():
                        label, recbole = f"{dataset}, {model}, {side}, {way}", SIDES[side].recbole
                        found = self.call(label, "train", own | {"side": side}, recbole=recbole, variables=variables)
                        if found is not None:
                            of_side = kept.setdefault(dataset, {}).setdefault(model, {}).setdefault(side, {})
                            of_side.setdefault(way, []).append(found)
        return ["", *tables.memory_table(self.results)]

    def million(self) -> list[str]:
        """XAUC, ECE, weighted AUC and histories of a million rows."""
        kept: dict[str, Any] = self.results.setdefault("million", {})
        for what in ("metrics", "histories"):
            kept |= self.call(f"a million rows, {what}", f"million_rows.{what}", {}) or {}
        return ["", *tables.million_table(self.results)]

    def export(self) -> list[str]:
        """HiNet exported: onnxruntime and PyTorch on the same rows, in turn."""
        found = self.call("HiNet, 4096 rows", "product.export", {})
        self.results["export"] = found or {}
        return ["", *tables.export_table(self.results)]

    def predict(self) -> list[str]:
        """A file of rows scored by DeepFM, beside an evaluation."""
        own = {"data_path": self.paths[synthetic.NAME], "rows": self.given.rows}
        self.results["predict"] = (
            self.call(f"DeepFM, {self.given.rows:,} rows of Parquet", "product.predict", own) or {}
        )
        return ["", *tables.predict_table(self.results)]

    def serve(self) -> list[str]:
        """Requests of many clients at once, beside the bare forward pass of one."""
        self.results["serve"] = self.call("SharedBottom, 200 candidates a request", "product.serve", {}) or {}
        return ["", *tables.serve_table(self.results)]

    def tables(self) -> list[str]:
        """From a log to packed tables: from Parquet, and from its atomic file."""
        kept: dict[str, list[Any]] = self.results.setdefault("tables", {})
        file = str(large.make(Path(self.given.work, "logs").resolve(), large.ROWS))
        self.call("atomic files", "large.write_atomic", {"file": file})
        for turn in range(max(3, self.given.rounds)):
            for side, atomic in (("Parquet", False), ("atomic files", True)):
                found = self._prepared(f"{side}, round {turn + 1}", {"file": file, "atomic": atomic})
                kept.setdefault(side, []).extend([found] if found else [])
        return ["", *tables.tables_table(self.results)]

    def large(self) -> list[str]:
        """The peak of memory of preparing 5 and 20 million rows."""
        kept: dict[str, list[Any]] = self.results.setdefault("large", {})
        for rows in large.SIZES:
            file = large.make(Path(self.given.work, "logs").resolve(), rows)
            found = self._prepared(f"{rows:,} rows", {"file": str(file), "beside": ["users", "items"]})
            kept.setdefault(f"{rows:,} rows", []).extend([found] if found else [])
        return ["", *tables.large_table(self.results)]

    def resident(self) -> list[str]:
        """The peak of memory of training on a log in the cache, with 2 million users."""
        kept: dict[str, Any] = self.results.setdefault("resident", {})
        file = str(large.make(Path(self.given.work, "logs").resolve(), large.SIZES[0], large.MANY_USERS))
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            self.call("prepared", "large.prepare", {"file": file}, cache=Path(cache))
            for gradients in ("dense", "sparse"):
                own = {"file": file, "gradients": gradients}
                found = self.call(f"embeddings' gradients {gradients}", "large.train", own, cache=Path(cache))
                kept.setdefault(gradients, []).extend([found] if found else [])
        return ["", *tables.resident_table(self.results)]

    def _prepared(self, name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            return self.call(name, "large.prepare", arguments, cache=Path(cache))

    def gpu(self) -> list[str]:
        """HiNet on a GPU: ours at batch 65536, RecBole's Trainer at several, and the limit."""
        import torch

        if not torch.cuda.is_available():
            return ["left out: no GPU here"]
        kept: dict[str, Any] = self.results.setdefault("gpu", {})
        own = {"model": "HiNet", "dataset": synthetic.NAME, "data_path": self.paths[synthetic.NAME]}
        self.call("synthetic, HiNet, into the cache", "prepare", own)
        own |= {"steps": 18, "stretches": self.given.stretches, "gpu": True}
        for batch in (4096, 16384, 65536):
            arguments = own | {"side": "RecBole, plain", "batch": batch}
            found = self.call(f"RecBole, batch {batch}", "train", arguments, recbole=True, threads=4)
            kept |= {f"RecBole, plain, batch {batch}": found} if found is not None else {}
        for side in ("ours", "ours, bf16", "ours, compiled"):
            arguments = own | {"side": side, "batch": 65536, "extra": {"data_device": "cuda"}}
            found = self.call(f"{side}, batch 65536", "train", arguments, threads=4)
            kept |= {f"{side}, batch 65536": found} if found is not None else {}
        arguments = {key: own[key] for key in ("model", "dataset", "data_path", "gpu")} | {
            "side": "ours",
            "batch": 65536,
        }
        found = self.call("limit", "limits.limit", arguments)
        kept |= {"limit": found} if found is not None else {}
        return ["", *tables.gpu_table(self.results)]

    def accuracy(self) -> list[str]:
        """Test AUC of the fast paths against the exact one, over seeds."""
        kept: dict[str, Any] = self.results.setdefault("accuracy", {})
        data = "ml-1m" if "ml-1m" in self.given.datasets else self.given.datasets[0]
        for model in (model for model in accuracy.PATHS if model in self.given.models):
            self.call(
                f"{model}, into the cache", "prepare", {"model": model, "dataset": data, "data_path": self.paths[data]}
            )
            try:
                found = accuracy.compare(
                    model, self.paths[data], self.folder, self.cache, self.given.seeds, self.given.epochs, data
                )
            except FailedError as error:
                print(f"  failed: accuracy of {model}\n{error}", flush=True)
                self.failed.append(f"accuracy of {model}")
                continue
            kept[model] = {"dataset": data, "epochs": self.given.epochs or accuracy.EPOCHS[model], "auc": found}
        return ["", *tables.accuracy_table(self.results)]


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(_short, value))
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if isinstance(value, float) and value >= 1000 else f"{value:.4g}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--sides", nargs="+", choices=SIDES, metavar="SIDE", help=f"of train: {'; '.join(SIDES)}")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all but accuracy")
    parser.add_argument("--rounds", type=int, help="turns of every side (2; 1 with --quick)")
    parser.add_argument("--stretches", type=int, help="timed stretches of steps in a turn (3; 1 with --quick)")
    parser.add_argument("--steps", type=int, help="of a stretch; by default more for small models")
    parser.add_argument("--batch_size", type=int, help="by default 4096, and 2048 on ml-100k")
    parser.add_argument("--rows", type=int, help="of the synthetic dataset (2,000,000; 50,000 with --quick)")
    parser.add_argument("--ids", type=int, default=100_000, help="of each of its token fields")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="of training and evaluation (cpu: of a busy machine)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of the accuracy part")
    parser.add_argument("--epochs", type=int, help="of the accuracy part; by default 2, and 1 for HiNet")
    parser.add_argument("--data_path", help="the folder with ml-1m")
    parser.add_argument("--work", default="runs/benchmarks", help="folder of the synthetic dataset and the results")
    parser.add_argument("--out", help="JSON file; by default a new one in --work")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    quick = given.quick
    given.models = given.models or (["LR", "DeepFM", "HiNet"] if quick else list(MODELS))
    given.datasets = given.datasets or (["ml-100k", synthetic.NAME] if quick else list(DATASETS))
    given.parts = given.parts or (
        ["start", "train", "limits", "profile"] if quick else [p for p in PARTS if p != "accuracy"]
    )
    given.rounds = given.rounds or (1 if quick else 2)
    given.stretches = given.stretches or (1 if quick else 3)
    given.rows = given.rows or (50_000 if quick else 2_000_000)
    given.data_path = str(Path(given.data_path).resolve()) if given.data_path else None
    given.out = Path(given.out or Path(given.work, time.strftime("%Y%m%d-%H%M%S.json"))).resolve()
    return given


def main() -> None:
    given = arguments()
    Path(given.work).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="temporary-", dir=Path(given.work).resolve()))
    try:
        benchmarks = Benchmarks(given, folder)
        benchmarks.run()
        print(f"\nall figures: {given.out}")
        for name in benchmarks.failed:
            print(f"failed: {name}")
        sys.exit(bool(benchmarks.failed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
