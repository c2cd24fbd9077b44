"""What a language model's knowledge brings: LLM4MSR beside its backbone alone and beside its controls, over seeds.

Method. Six variants of one backbone, with the same settings, rows, split and seeds:
    alone      the backbone
    scenario   LLM4MSR, scenario level only
    user       LLM4MSR, user level only
    both       LLM4MSR, both levels
    random     LLM4MSR, both levels, with random vectors in place of the language model's
    features   the backbone, with the users' and items' vectors as further features
The store is built once (a second start finds it), from the training rows of the one split that all share
(`data_seed`); the seeds are those of the initial weights, of the order of the rows and of the dropout, and the same for
every variant, so that differences are taken seed by seed. Early stopping by validation; the best epoch is tested.
The table shows the mean and the standard deviation of the test AUC, pooled over scenarios, and the mean difference
from `alone` with its standard error. Finished runs below --output are not run again.

    python benchmarks/llm4msr.py --dataset=ml-100k --backbones STAR HiNet --seeds=3 [--key=value ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from recbole_msr import run
from recbole_msr.cli import parse_settings
from recbole_msr.runs.knowledge_commands import embed

VARIANTS = ("alone", "scenario", "user", "both", "random", "features")


def settings_of(variant: str, backbone: str, name: str) -> tuple[str, dict[str, Any]]:
    """The model and its own settings."""
    if variant == "alone":
        return backbone, {}
    if variant == "features":
        return backbone, {"knowledge": name, "knowledge_features": ["user", "item"]}
    level = "both" if variant == "random" else variant
    return "LLM4MSR", {
        "backbone": backbone,
        "knowledge": "random" if variant == "random" else name,
        "knowledge_level": level,
    }


def aucs(result: dict[str, Any]) -> dict[str, float]:
    """Test AUC of each task over all rows."""
    return {task: value["auc"] for task, value in result["test"]["pooled"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--backbones", nargs="+", default=["STAR", "HiNet"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first_seed", type=int, default=2022)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--template", default="full")
    parser.add_argument("--output", default="runs/llm4msr", help="a folder a variant and seed is made below it")
    given, rest = parser.parse_known_args()
    own = {"show_progress": False, "threads": 1} | parse_settings(rest)
    name = f"{given.dataset}-{given.encoder}-{given.template}"
    wanted = {key: own[key] for key in ("data_path", "knowledge_dir", "data_seed") if key in own}
    wanted |= {"encoder": given.encoder, "template": given.template, "name": name}
    for line in embed(given.dataset, [], {**wanted, "levels": ["user", "scenario", "item"]}, False):
        print(line, flush=True)
    for backbone in given.backbones:
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            for variant in given.variants:
                folder = Path(given.output, f"{given.dataset}-{backbone}-{variant}-{seed}")
                if not (folder / "result.json").is_file():
                    model, extra = settings_of(variant, backbone, name)
                    run(model, given.dataset, config=own | extra | {"seed": seed, "output_dir": str(folder)})
                result = json.loads((folder / "result.json").read_text())
                found.setdefault(variant, []).append(aucs(result))
                told = ", ".join(f"{task} {value:.4f}" for task, value in aucs(result).items())
                print(
                    f"{backbone} {variant}, seed {seed}: {told}; best epoch {result['best_epoch']} of "
                    f"{result['epochs']}, {result['parameters']:,} parameters, {result['seconds']['total']:.0f} s",
                    flush=True,
                )
        print(table(f"{given.dataset}, {backbone}, {name}", found), flush=True)


def table(title: str, found: dict[str, list[dict[str, float]]]) -> str:
    """Mean and deviation over seeds, and the difference from the backbone alone, as Markdown."""
    tasks = list(next(iter(found.values()))[0])
    columns = [part for task in tasks for part in (f"{task} AUC", "against alone")]
    lines = [title, "", "| variant | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for variant, runs in found.items():
        cells = []
        for task in tasks:
            values = [one[task] for one in runs]
            cells.append(f"{statistics.mean(values):.4f} ± {deviation(values):.4f}")
            if variant == "alone" or "alone" not in found:
                cells.append("")
                continue
            gains = [value - base[task] for value, base in zip(values, found["alone"], strict=True)]
            cells.append(f"{statistics.mean(gains):+.4f} ± {deviation(gains) / len(gains) ** 0.5:.4f}")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(["", *lines, ""])


def deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
