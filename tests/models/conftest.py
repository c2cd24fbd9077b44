"""Knowledge written by hand, in the store's format: no encoder is needed to test what reads it."""

import json

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def write_knowledge(tmp_path):
    """write_knowledge(dataset, name="mine", size=6, key="k", without=(), **{level: matrix}) -> the vectors by level.

    A level that is not given gets normal vectors; users and items are in an order of their own. `without` are tokens
    that get no vector.
    """
    from recbole_msr.prompts.fingerprint import fingerprint

    def write(dataset, name="mine", size=6, key="k", without=(), dtype="float32", seed=0, level_sizes=None, **given):
        folder = tmp_path / "knowledge" / name
        folder.mkdir(parents=True, exist_ok=True)
        draw, levels, vectors = np.random.default_rng(seed), {}, {}
        tokens_of = {
            "user": list(dataset.field2id_token[dataset.uid_field][1:])[::-1],
            "item": list(dataset.field2id_token[dataset.iid_field][1:])[::-1],
            "scenario": list(dataset.scenario_names),
        }
        for level, tokens in tokens_of.items():
            if given.get(level, ...) is None:
                continue
            tokens = [str(token) for token in tokens if token not in without]
            matrix = given.get(level)
            if matrix is None:
                matrix = draw.normal(2.0, 3.0, size=(len(tokens), size))
            matrix = np.asarray(matrix, dtype=dtype)
            np.save(folder / f"{level}.npy", matrix)
            frame = {"token": tokens, "row": range(len(tokens)), "n_tokens": 1, "truncated": False}
            pd.DataFrame(frame).to_parquet(folder / f"{level}.parquet")
            levels[level] = {"rows": len(tokens)}
            if level in (level_sizes or {}):
                levels[level]["size"] = level_sizes[level]
            vectors[level] = dict(zip(tokens, matrix.astype(np.float64), strict=False))
        meta = {"format": "recbole-msr-knowledge/1", "key": key, "size": size, "dtype": dtype, "levels": levels}
        (folder / "knowledge.json").write_text(json.dumps(meta | {"data": fingerprint(dataset)}))
        return vectors

    return write


@pytest.fixture
def knowledge_dir(tmp_path):
    return str(tmp_path / "knowledge")
