"""Prompts a second of an encoder, with and without batching by length, in one run.

Method. The prompts of a random sample of users (all of them with --sample=0) are encoded in this process with one
thread, in batches of 32, in both orders by turns: sorted by length, as they come, sorted, as they come. Nothing but
the encoder is counted; the first batch, which loads the model, is encoded before. Beside the throughput stands the
share of the tokens in the batches that are padding, which does not depend on the machine.

    python benchmarks/encoding.py --dataset=ml-1m --data_path=DIR --template=full
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from recbole.data import create_dataset

from recbole_msr.config.build import build_config
from recbole_msr.prompts.build import build_prompts
from recbole_msr.prompts.embed import batches_of
from recbole_msr.prompts.encoders import make_encoder
from recbole_msr.prompts.facts import Facts
from recbole_msr.prompts.template import Template


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--template", default="full")
    parser.add_argument("--level", default="user")
    parser.add_argument("--sample", type=int, default=512, help="how many prompts; 0 for all")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()

    torch.set_num_threads(1)
    config = build_config("HiNet", given.dataset, {"data_path": given.data_path, "state": "ERROR"})
    encoder = make_encoder(given.encoder)
    facts = Facts(create_dataset(config).build()[0])
    started = time.perf_counter()
    prompts = build_prompts(facts, Template.load(given.template), given.level, encoder)
    written = time.perf_counter() - started
    print(
        f"{len(prompts)} {given.level} prompts of '{given.template}' written in {written:.1f} s: "
        f"{prompts.lengths.mean():.0f} tokens on average, {int(prompts.truncated.sum())} cut to {encoder.window}"
    )
    rows = np.arange(len(prompts))
    if 0 < given.sample < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(rows, given.sample, replace=False))
    orders = {
        name: batches_of(rows, prompts.lengths, given.batch_size, by_length)
        for name, by_length in (("by length", True), ("as they come", False))
    }
    encoder.encode([prompts.texts[row] for row in rows[: given.batch_size]])
    seconds: dict[str, list[float]] = {name: [] for name in orders}
    for _ in range(given.repeats):
        for name, batches in orders.items():
            started = time.perf_counter()
            for batch in batches:
                encoder.encode([prompts.texts[row] for row in batch])
            seconds[name].append(time.perf_counter() - started)
    for name, batches in orders.items():
        padded = sum(len(batch) * int(prompts.lengths[batch].max()) for batch in batches)
        share = 1 - prompts.lengths[rows].sum() / padded
        speed = len(rows) / min(seconds[name])
        print(f"{name:>13}: {speed:6.1f} prompts/s of {len(rows)} prompts, {share:5.1%} of the tokens are padding")
    ratio = min(seconds["as they come"]) / min(seconds["by length"])
    print(f"batching by length is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
