"""No text that settings can come from is run, whatever key it stands under and whichever command reads it.

Every text below plants a marker file if it is evaluated. What a command makes of it otherwise (a refusal, or a run with
a text as a value) is not asked here.
"""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import recbole_msr
from recbole_msr.cli import main, run_recbole
from tests.conftest import SETTINGS

SMALL = {
    "model": "SharedBottom",
    "dataset": "tiny",
    "scenario": {"field": "age", "bins": [30]},
    "bottom_hidden_sizes": [4],
    "tower_hidden_sizes": [2],
    "embedding_size": 2,
    "epochs": 1,
    "threads": 1,
    "train_batch_size": 256,
}
KEYS = ("learning_rate", "metrics", "wandb_project", "main_task", "only_scenario", "nobody_reads_this", "data_path")
FREE = ("wandb_project", "nobody_reads_this")
"""Keys that take any text."""


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """The marker's path, and the text that makes it; nothing may have made it at the end."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "marker"
    yield f"__import__('pathlib').Path({str(path)!r}).touch()"
    assert not path.exists()


@pytest.fixture
def settings(tiny_data):
    return SETTINGS | SMALL | {"data_path": str(tiny_data)}


def _write(content):
    Path("given.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return "--config_files=given.yaml"


def _tried(command, *words):
    """Run a command; it may refuse what it is given, or use it as a text."""
    with contextlib.suppress(SystemExit):
        return command([str(word) for word in words])


@pytest.mark.parametrize("key", KEYS)
def test_a_value_in_a_configuration_file(marker, settings, key):
    _tried(run_recbole, _write(settings | {key: marker}))
    ended = _tried(run_recbole, _write(settings | {key: marker, "strict": False}))
    assert ended == (0 if key in FREE else 2)  # as a text it is an error, or the run goes to its end


@pytest.mark.slow
@pytest.mark.parametrize("command", ["search", "compare", "embed", "prompts"])
def test_a_value_in_the_configuration_file_of_a_command(marker, settings, command):
    extra = {"search": ["--trials=1"], "compare": ["--models=SharedBottom"], "embed": ["--name=k", "--encoder=random"]}
    for key in ("nobody_reads_this", "wandb_project"):
        given = {name: value for name, value in settings.items() if command != "compare" or name != "model"}
        _tried(main, command, _write(given | {key: marker, "strict": False}), *extra.get(command, []))


@pytest.mark.parametrize("key", KEYS)
def test_a_value_on_the_command_line(marker, settings, key):
    _tried(run_recbole, _write(settings), f"--{key}={marker}")


def test_keys_and_names(marker, settings):
    _tried(run_recbole, _write(settings | {marker: 1, "strict": False}))
    _tried(run_recbole, _write(settings | {"tasks": {marker: {"field": "rating", "at_least": 4}}}))
    _tried(run_recbole, _write(settings | {"scenario": {"field": marker}}))
    _tried(run_recbole, _write(settings | {"lightning": {"logger": marker}}))
    _tried(run_recbole, _write(settings | {"lr_scheduler": {"name": marker}}))


@pytest.mark.parametrize("tag", ["name:os.getcwd", "object/apply:os.getcwd []", "object/new:os.getcwd []"])
def test_tags_of_python(marker, settings, tag, capsys):
    Path("given.yaml").write_text(f"epochs: !!python/{tag}\n", encoding="utf-8")
    assert run_recbole(["--model=HiNet", "--config_files", "given.yaml"]) == 2
    assert "only plain values are read" in capsys.readouterr().err


def test_what_a_search_reads(marker, settings):
    _write(settings)
    for space in (
        {"search": {"learning_rate": {"type": "categorical", "choices": [marker, 0.1]}}},
        {"search": {"nobody": {"type": "categorical", "choices": [marker]}}, "fixed": {"learning_rate": marker}},
        {"search": {"learning_rate": {"type": "float", "low": marker, "high": 1}}},
    ):
        Path("space.yaml").write_text(yaml.safe_dump(space), encoding="utf-8")
        words = ("--config_files=given.yaml", "--space=space.yaml", "--trials=1", "--final-seeds=0", "--strict=False")
        _tried(main, "search", *words)
        shutil.rmtree("searches", ignore_errors=True)
    Path("hyper.test").write_text(f"learning_rate choice [{marker}]\n", encoding="utf-8")
    _tried(main, "search", "--config_files=given.yaml", "--space=hyper.test", "--trials=1")
    _tried(main, "search", "--config_files=given.yaml", "--trials=1", f"--sampler={{name: tpe, seed: {marker}}}")


def test_what_a_comparison_reads(marker, settings):
    _write({key: value for key, value in settings.items() if key != "model"})
    Path("models.yaml").write_text(
        yaml.safe_dump({"A": {"model": "SharedBottom", "dropout": marker}, marker: {"model": "SharedBottom"}}),
        encoding="utf-8",
    )
    _tried(main, "compare", "--models=models.yaml", "--config_files=given.yaml", "--strict=False")
    _tried(main, "compare", "--models=SharedBottom", "--config_files=given.yaml", f"--vary={{dropout: [{marker}]}}")
    _tried(main, "compare", "--models=SharedBottom", "--config_files=given.yaml", f"--vary={{dropout: ['{marker}']}}")


def test_what_a_finished_run_leaves_and_is_read_again(marker, settings):
    run = recbole_msr.run(config=settings | {"output_dir": "run"})
    checkpoint = run.folder / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    for key in ("nobody_reads_this", "learning_rate", "wandb_project", "metrics"):
        torch.save(content | {"config": content["config"] | {key: marker}}, checkpoint)
        Path("rows.csv").write_text("user_id,item_id\nu1,i1\n", encoding="utf-8")
        _tried(main, "predict", "--run=run", "--data=rows.csv", "--out=scores.csv")
        _tried(main, "explain", "--run=run")
        with contextlib.suppress(Exception):
            from recbole.quick_start import load_data_and_model

            load_data_and_model(str(checkpoint))
    config = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    (run.folder / "result.json").unlink()
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config | {"nobody_reads_this": marker}), encoding="utf-8")
    _tried(run_recbole, "--resume", "--output_dir=run")
    (run.folder / "config.yaml").write_text(yaml.safe_dump(config | {"metrics": marker}), encoding="utf-8")
    _tried(run_recbole, "--resume", "--output_dir=run")


def test_templates_and_stores(marker, settings):
    _write(settings)
    inner = "''.__class__.__mro__[1].__subclasses__()"
    for text in ("{{ " + marker + " }}", "{{ " + inner + " }}", "{{ cycler.__init__.__globals__.os.getcwd() }}"):
        template = {"version": 1, "languages": {"en": {"user": text, "scenario": text}}}
        Path("mine.yaml").write_text(yaml.safe_dump(template), encoding="utf-8")
        _tried(main, "prompts", "--config_files=given.yaml", "--template=./mine.yaml")
    store = Path("stores", "mine")
    store.mkdir(parents=True)
    (store / "knowledge.json").write_text(json.dumps({"levels": marker, "dtype": marker, "key": marker}))
    _tried(run_recbole, "--config_files=given.yaml", "--model=LLM4MSR", "--knowledge=mine", "--knowledge_dir=stores")


def test_recboles_own_configuration(marker, tiny_data):
    from recbole.config import Config

    Path("given.yaml").write_text(f'learning_rate: "{marker}"\n', encoding="utf-8")
    given = {"data_path": str(tiny_data), "metrics": "['AUC']", "valid_metric": "AUC", "topk": "[5, 10]"}
    given |= {"eval_args": "{'mode': 'labeled', 'split': {'RS': [0.8, 0.1, 0.1]}}", "threshold": "{'rating': 4}"}
    given |= {"weight_decay": "1e-3", "shuffle": "False", "load_col": "None", "nobody": marker, "gpu_id": "0,1"}
    config = Config(model="DeepFM", dataset="tiny", config_file_list=["given.yaml"], config_dict=given)
    assert config["metrics"] == ["AUC"]
    assert config["topk"] == [5, 10]
    assert config["threshold"] == {"rating": 4}
    assert config["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}
    assert config["weight_decay"] == 0.001
    assert config["shuffle"] is False
    assert config["load_col"] is None
    assert config["gpu_id"] == "0,1"
    assert config["nobody"] == config["learning_rate"] == marker


def test_recboles_own_parameter_file(marker):
    pytest.importorskip("hyperopt")
    from recbole.trainer import HyperTuning

    Path("hyper.test").write_text(f"learning_rate choice {marker}\n", encoding="utf-8")
    with pytest.raises(recbole_msr.InputError, match="learning_rate choice"):
        HyperTuning._build_space_from_file("hyper.test")
    Path("hyper.test").write_text("mlp_hidden_size choice ['[64]', '[8, 8]']\n", encoding="utf-8")
    assert set(HyperTuning._build_space_from_file("hyper.test")) == {"mlp_hidden_size"}


def test_recboles_model_that_evaluates_its_teachers_name(marker, settings):
    given = settings | {"model": "KD_DAGFM", "teacher": marker, "phase": "teacher_training", "strict": False}
    _tried(run_recbole, _write({k: v for k, v in given.items() if "hidden" not in k}))
