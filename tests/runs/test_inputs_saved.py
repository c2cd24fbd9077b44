"""Runs whose model has something in front of it: opened again they score as they did, and are explained."""

import pandas as pd
import pytest
import torch

import recbole_msr
from tests.conftest import SCENARIOS, SETTINGS

NEW = {
    "embedding_size_exponent": 0.3, "embedding_dropout": 0.2, "embedding_learning_rate_factor": 2.0,
    "embedding_weight_decay": 0.01, "learning_rate_schedule": "cosine", "warmup_epochs": 0.5, "scenario_balance": 0.5,
    "clip_grad_norm": {"max_norm": 0.05}, "learner": "adamw", "activation": "silu",
}  # fmt: skip
MODELS = {
    "SharedBottom": {"bottom_hidden_sizes": [8], "tower_hidden_sizes": [4], "interaction": "cross", "cross_rank": 3},
    "LLM4MSR": {"backbone": "STAR", "interaction": "fm", "knowledge": "random", "knowledge_size": 6, "meta_scale": 1.0},
}


@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_opened_scored_and_explained_again(model, tiny_data, tmp_path):
    settings = (
        SETTINGS
        | NEW
        | MODELS[model]
        | {"data_path": str(tiny_data), "scenario": SCENARIOS[3], "epochs": 2, "threads": 1}
    )
    trained = recbole_msr.run(model, "tiny", config=settings | {"output_dir": str(tmp_path / "run")})
    saved = recbole_msr.load(trained.folder)
    assert {key: saved.config[key] for key in NEW} == NEW
    for name, value in trained.model.state_dict().items():
        assert torch.equal(saved.model.state_dict()[name], value), name
    rows = pd.DataFrame({"user_id": ["u1", "u2", "u3"], "item_id": ["i1", "i2", "i3"]})
    scores = saved.predict(rows)
    assert scores.equals(recbole_msr.load(trained.folder).predict(rows))
    assert 0 < scores.to_numpy().min() <= scores.to_numpy().max() < 1
    explained = saved.explain(n=2)
    assert explained.evaluation == saved.evaluation.test
    if model == "LLM4MSR":
        fields = next(user.fields for user in explained.users if user.fields)
        assert list(fields)[-1] == "interaction"
        assert sum(fields.values()) == pytest.approx(1)
