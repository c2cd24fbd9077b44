"""What LLM4MSR costs at serving time: its forward time a row over its backbone's, on one CPU thread.

Method. Both models are in one process, untrained (weights do not change the time; the layers that begin as zero are
filled with numbers), in evaluation mode, and score the same batch by `predict_tasks`, taking turns. Counted is the time
of the thread, so that other processes count less; the ratio is that of the medians over `--rounds`. The vectors are the
random control's, as wide as those of the default encoder. Three cases:

    warm    rows of the test split; every user was seen before, so its generated weights are remembered
    cold    the same rows, every user for the first time
    few     one request each: the candidates of 16 users, remembered

    python benchmarks/llm4msr_serving.py --dataset=ml-1m --data_path=DIR [--backbones=STAR,HiNet] [--key=value ...]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from recbole_msr import registry
from recbole_msr.cli import parse_settings
from recbole_msr.config.build import build_config
from recbole_msr.models.base import MultiScenarioRecommender
from recbole_msr.models.llm4msr import LLM4MSR, backbone_class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default=None)
    parser.add_argument("--backbones", default=",".join(_backbones()))
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=40)
    given, rest = parser.parse_known_args()
    torch.set_num_threads(1)
    own = {"use_gpu": False, "show_progress": False, "state": "ERROR", "knowledge": "random"}
    own |= {"data_path": given.data_path} if given.data_path else {}
    settings = own | parse_settings(rest)
    print(f"{given.dataset}, {given.batch} rows, medians of {given.rounds} rounds")
    print(f"{'backbone':<14}{'alone ms':>10}{'warm ms':>10}{'cold ms':>10}{'warm':>8}{'cold':>8}{'few':>8}")
    for backbone in given.backbones.split(","):
        alone, warm, cold, few_alone, few = measure(backbone, given, settings)
        ratios = f"{warm / alone:>8.2f}{cold / alone:>8.2f}{few / few_alone:>8.2f}"
        print(f"{backbone:<14}{alone * 1e3:>10.2f}{warm * 1e3:>10.2f}{cold * 1e3:>10.2f}{ratios}", flush=True)


def _backbones() -> list[str]:
    """Names of all models that LLM4MSR can be built around."""
    classes = {name: registry.model_class(name) for name in registry.registered_models()}
    return [n for n, c in classes.items() if issubclass(c, MultiScenarioRecommender) and not issubclass(c, LLM4MSR)]


def measure(backbone: str, given: argparse.Namespace, settings: dict[str, Any]) -> list[float]:
    """Seconds a batch: the backbone, LLM4MSR warm and cold, and both for the candidates of few users."""
    from recbole.data import create_dataset

    config = build_config("LLM4MSR", given.dataset, settings | {"backbone": backbone})
    train, _, test = create_dataset(config).build()
    alone = backbone_class(backbone)(config, train).eval()
    model = LLM4MSR(config, train).eval()
    for level in (model.user_level, model.scenario_level):
        for parameter in level.parameters() if level is not None else ():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.01)
    rows = test[torch.arange(min(given.batch, len(test)))]
    rows = rows[torch.arange(given.batch) % len(rows)]
    few = rows[torch.arange(given.batch).sort().values]
    few[config["USER_ID_FIELD"]] = rows[config["USER_ID_FIELD"]][torch.arange(given.batch) % 16]

    def forget() -> None:
        if model.user_level is not None:
            model.user_level.forget()

    cases = [(alone, rows, False), (model, rows, False), (model, rows, True), (alone, few, False), (model, few, False)]
    seconds: list[list[float]] = [[] for _ in cases]
    with torch.inference_mode():
        for turn in range(given.rounds + 3):
            for times, (scored, batch, is_cold) in zip(seconds, cases, strict=True):
                if is_cold:
                    forget()
                started = time.thread_time()
                scored.predict_tasks(batch)
                if turn >= 3:
                    times.append(time.thread_time() - started)
    return [statistics.median(times) for times in seconds]


if __name__ == "__main__":
    main()
