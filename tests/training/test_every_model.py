"""Every model that can be searched trains for an epoch on MovieLens-100K, plainly and with the fast paths."""

import pytest

import recbole_msr
from recbole_msr import registry
from recbole_msr.tuning.models import RANKERS

MODELS = sorted({path.stem for path in registry.search_spaces().glob("*.yaml")} - {*RANKERS})
"""Those that rank items are trained in tests/tuning/test_ranker_search.py."""
PLAIN = {
    "preset": "ml-100k",
    "val_interval": {"timestamp": "[0,877000000]"},  # the first eighth of its rows
    "embedding_size": 4,
    "epochs": 1,
    "train_batch_size": 1024,
    "use_gpu": False,
    "show_progress": False,
    "threads": 1,
    "state": "ERROR",
}
FAST = {"fast_dropout": True, "fused_optimizer": True, "embedding_gradients": "sparse", "precision": "bf16-mixed"}
OWN = {"LLM4MSR": {"knowledge": "random", "knowledge_size": 8, "backbone": "SharedBottom"}}


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_an_epoch_ends_in_results_and_the_fast_paths_come_to_the_same(model, tmp_path):
    logloss = []
    for name, settings in (("plain", {}), ("fast", FAST)):
        given = PLAIN | OWN.get(model, {}) | settings | {"output_dir": str(tmp_path / name)}
        result = recbole_msr.run(model, "ml-100k", config=given)
        assert result.test is not None
        assert len(result.test.cells) == 3
        logloss.append(result.test_metrics["logloss"])
    assert max(logloss) < 0.8  # of a constant 0.69
    assert logloss[0] == pytest.approx(logloss[1], abs=0.02)
