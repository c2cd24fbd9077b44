"""A run that stops before its test, and is tested later, leaves what a run leaves that is tested at once."""

import json
import shutil

import pytest

import recbole_msr
from recbole_msr.errors import InputError
from recbole_msr.runs.seeds import run_seeds
from recbole_msr.runs.tested_later import finish_with_test
from recbole_msr.training.trainer import LightningTrainer

from .test_seeds import SEEDS, alone, assert_same_folder, folders, settings  # noqa: F401


@pytest.fixture
def no_test(monkeypatch):
    """Whoever reads the test split here is caught."""

    def caught(*_, **__):
        raise AssertionError("the test split was read")

    with monkeypatch.context() as patch:
        patch.setattr(LightningTrainer, "evaluate", caught)
        yield patch


def test_the_test_may_come_later(settings, tmp_path, no_test):  # noqa: F811
    given = settings("HiNet", epochs=3)
    folder = tmp_path / "later"
    recbole_msr.run(config={**given, "output_dir": str(folder)}, test=False)
    validated = json.loads((folder / "validated.json").read_text())
    assert "test" not in validated
    assert not (folder / "result.json").exists()
    assert recbole_msr.load(folder).model is not None, "it can predict already"
    no_test.undo()
    result = finish_with_test(folder)
    once = alone(tmp_path / "once", given, given.get("seed", 2020))
    assert_same_folder(tmp_path / "once", folder)
    assert result.test_metrics == once.test_metrics
    assert result.valid.to_dict() == once.valid.to_dict()


@pytest.mark.slow
def test_seeds_trained_together_are_tested_later_too(settings, tmp_path, no_test):  # noqa: F811
    given = settings("DeepFM", epochs=3)
    kept = folders(tmp_path / "later")
    assert run_seeds(kept, given, test=False) == {}
    no_test.undo()
    assert run_seeds(kept, given) == {}
    for seed, folder in folders(tmp_path / "once").items():
        alone(folder, given, seed)
        assert_same_folder(kept[seed], folder)


def test_what_is_raised_after_an_epoch_interrupts_the_run_and_it_goes_on(settings, tmp_path):  # noqa: F811
    class UpError(Exception):
        pass

    def up(epoch, _):
        if epoch == 1:
            raise UpError

    given = settings("DeepFM", epochs=4)
    kept = folders(tmp_path / "later")
    errors = run_seeds(kept, given, test=False, after_epoch=up)
    assert {type(error) for error in errors.values()} == {UpError}
    assert set(errors) == set(SEEDS)
    assert all((folder / "last.ckpt").exists() for folder in kept.values())
    assert run_seeds(kept, given) == {}
    alone(tmp_path / "once", given, SEEDS[0])
    assert_same_folder(tmp_path / "once", kept[SEEDS[0]])


def test_a_run_that_was_not_validated_cannot_be_tested(settings, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="W&B run ends with the test"):
        recbole_msr.run(config={**settings("LR"), "output_dir": str(tmp_path / "w"), "wandb": "offline"}, test=False)
    folder = tmp_path / "later"
    recbole_msr.run(config={**settings("LR", epochs=1), "output_dir": str(folder)}, test=False)
    (folder / "validated.json").write_text("{}")
    with pytest.raises(InputError, match=r"validated\.json"):
        finish_with_test(folder)
    shutil.rmtree(folder)
    with pytest.raises(InputError, match="there is no run to resume"):
        finish_with_test(folder)
