"""Every model with a search space trains, validates and tests, with the fast paths off and on."""

import math

import pytest

import recbole_msr
from recbole_msr import registry

MODELS = sorted(path.stem for path in registry.search_spaces().glob("*.yaml") if path.stem != "LLM4MSR")
"""LLM4MSR, which needs knowledge, has the same in tests/models/test_llm4msr_alone.py."""


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_with_a_search_space_is_trained_and_tested(model, fast, tiny_data, tmp_path):
    settings = {
        "load_col": {
            "inter": ["user_id", "item_id", "rating", "timestamp"],
            "user": ["user_id", "age", "gender"],
            "item": ["item_id", "class"],
        },
        "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
        "scenario": {"field": "age", "bins": [30]},
        "data_path": str(tiny_data),
        "epochs": 1,
        "train_batch_size": 128,
        "use_gpu": False,
        "show_progress": False,
        "state": "ERROR",
        "fast_dropout": fast,
        "fused_optimizer": fast,
        "embedding_gradients": "sparse" if fast else "dense",
        "output_dir": str(tmp_path / "run"),
    }
    result = recbole_msr.run(model, "tiny", config=settings)
    assert result.summary["epochs"] == 1
    assert all(math.isfinite(value) for value in result.test_metrics.values())
    assert 0 <= result.test_metrics["auc"] <= 1
