"""The commands as they are typed."""

import json

import numpy as np
import pytest
import yaml

from recbole_msr import load
from recbole_msr.cli import main, run_recbole
from recbole_msr.prompts.store import Knowledge

BINS = "--scenario={field: age, bins: [25, 35], names: [young, mid, old]}"
TASKS = "--tasks={click: {field: rating, at_least: 4}, like: {field: rating, at_least: 5}}"


@pytest.fixture
def arguments(titled, tmp_path):
    return [
        "--dataset=tiny",
        f"--data_path={titled}",
        BINS,
        TASKS,
        f"--knowledge_dir={tmp_path / 'kn'}",
        "--show_progress=False",
    ]


def test_prompts_prints_some(arguments, capsys):
    assert main(["prompts", *arguments, "--template=brief", "--level=user", "--n=3"]) == 0
    out = capsys.readouterr().out
    assert out.count("--- user u") == 3
    assert "the user liked" in out
    assert main(["prompts", *arguments]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("--- ")] == [
        "scenario",
        "user",
        "item",
    ]


def test_embed_builds_once(arguments, tmp_path, capsys):
    command = ["embed", *arguments, "--encoder=random", "--template=brief", "--name=k", "--size=8"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Encoded 73 prompts" in out
    assert "3 scenario, 40 user, 30 item vectors of size 8, float16" in out
    assert "run_recbole --model=LLM4MSR --dataset=tiny --knowledge=k" in out
    key = Knowledge.open("k", tmp_path / "kn").key
    assert main(command) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert main([*command, "--encoder_seed=5"]) == 2
    assert "exists and was made otherwise (what differs: encoder)" in capsys.readouterr().err
    assert Knowledge.open("k", tmp_path / "kn").key == key
    assert main([*command, "--encoder_seed=5", "--replace"]) == 0
    assert Knowledge.open("k", tmp_path / "kn").key != key
    assert main([*command[:-2], "--name=twin", "--size=8", "--encoder_seed=5"]) == 0
    assert "'k' was built from the same prompts and encoder" in capsys.readouterr().out


def test_one_store_serves_all_scenarios_and_each_alone(arguments, tmp_path, capsys):
    command = ["embed", *arguments, "--encoder=random", "--template=brief", "--name=k", "--size=8"]
    assert main([*command, "--only_scenario=old"]) == 0
    assert "3 scenario, 40 user, 30 item vectors" in capsys.readouterr().out
    assert main(command) == 0
    assert main([*command, "--only_scenario=mid"]) == 0
    assert capsys.readouterr().out.count("Nothing to do") == 2
    run = ["--model=LLM4MSR", *arguments, "--knowledge=k", "--backbone=SharedBottom", "--epochs=1", "--use_gpu=False"]
    for name in (None, "mid"):
        alone = [f"--only_scenario={name}"] if name else []
        assert run_recbole([*run, *alone, f"--output_dir={tmp_path / str(name)}"]) == 0
        found = load(tmp_path / str(name)).explain()
        assert [view.name for view in found.scenarios] == ([name] if name else ["young", "mid", "old"])
        assert all(view.prompt is not None and view.strength for view in found.scenarios)
        assert not [note for note in found.notes if "no prompts" in note or "no numbers" in note]


def test_one_command_builds_the_store_and_trains_on_it(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [*arguments, "--use_gpu=False", "--epochs=1", "--backbone=SharedBottom", "--bottom_hidden_sizes=[8]"]
    command = ["--model=LLM4MSR", *given, "--knowledge=random/brief", "--knowledge_reduction=none"]
    assert run_recbole([*command, "--output_dir=one"]) == 0
    store = Knowledge.open("tiny-random-brief", tmp_path / "kn")
    made = store.path.stat().st_mtime_ns
    assert yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())["knowledge"] == "tiny-random-brief"
    assert run_recbole([*command, "--output_dir=two"]) == 0
    assert Knowledge.open("tiny-random-brief", tmp_path / "kn").path.stat().st_mtime_ns == made
    results = [json.loads((tmp_path / run / "result.json").read_text())["test"] for run in ("one", "two")]
    assert results[0] == results[1]
    capsys.readouterr()
    assert run_recbole([*command[:-2], "--knowledge=hf:some/model/full"]) == 2
    assert "neither a store's name nor ENCODER/TEMPLATE" in capsys.readouterr().err


def test_settings_may_stand_in_a_file(arguments, tmp_path, capsys):
    path = tmp_path / "k.yaml"
    path.write_text(
        yaml.safe_dump({"encoder": "random", "size": 4, "levels": ["user"], "template": "keywords", "max_items": 1})
    )
    assert main(["embed", *arguments, f"--config_files={path}", "--name=k"]) == 0
    knowledge = Knowledge.open("k", tmp_path / "kn")
    assert (knowledge.levels, knowledge.size) == (["user"], 4)
    assert knowledge.meta["template"]["items"] == 1


def test_the_training_split_of_a_run_passes_the_check(arguments, tmp_path, titled):
    """Knowledge embedded on the command line fits the dataset that a model of the same settings gets."""
    from recbole.data import create_dataset

    from recbole_msr.config.build import build_config

    assert main(["embed", *arguments, "--encoder=random", "--name=k"]) == 0
    settings = {
        "data_path": str(titled),
        "scenario": yaml.safe_load(BINS.split("=", 1)[1]),
        "tasks": yaml.safe_load(TASKS.split("=", 1)[1]),
        "load_col": {"inter": ["user_id", "item_id", "rating"], "user": ["user_id", "age"], "item": ["item_id"]},
        "state": "ERROR",
    }
    train = create_dataset(build_config("HiNet", "tiny", settings)).build()[0]
    knowledge = Knowledge.open("k", tmp_path / "kn")
    knowledge.check(train)
    known = knowledge.rows("user", train.field2id_token["user_id"])
    assert known[0] == -1
    assert (known[1:] >= 0).all()


def test_long_prompts_are_reported(arguments, tmp_path, capsys):
    command = ["embed", *arguments, "--encoder=random", "--name=k", "--max_tokens=60"]
    assert main(command) == 0
    assert "user prompts are longer than 60 tokens and are cut at a whole item." in capsys.readouterr().out
    meta = Knowledge.open("k", tmp_path / "kn").meta
    assert 0 < meta["levels"]["user"]["truncated"] <= 40
    assert meta["levels"]["user"]["longest"] <= 60


def test_a_language_model_end_to_end(arguments, tiny_llama, tmp_path, capsys):
    options = [
        "--mode=generate",
        "--max_new_tokens=5",
        "--layer=2",
        "--pooling=mean",
        "--template=brief",
        "--levels=scenario",
    ]
    assert main(["embed", *arguments, f"--encoder=hf:{tiny_llama}", "--name=k", *options]) == 0
    knowledge = Knowledge.open("k", tmp_path / "kn")
    assert knowledge.vectors("scenario").shape == (3, 32)
    assert np.isfinite(knowledge.vectors("scenario")).all()
    assert all(isinstance(answer, str) for answer in knowledge.texts("scenario")["answer"])
    meta = json.loads((knowledge.path / "knowledge.json").read_text())
    for part in ("layer=-2", "pooling=mean", "mode=generate", "sha256="):
        assert part in meta["encoder"]
    assert meta["levels"]["scenario"]["longest"] <= 251
    capsys.readouterr()
    shown = [option for option in options if option != "--levels=scenario"]
    assert main(["prompts", *arguments, f"--encoder=hf:{tiny_llama}", "--level=scenario", *shown]) == 0
    written = capsys.readouterr().out.split(f"--- written by hf:{tiny_llama} of scenario young\n")[1]
    assert written.strip() == (knowledge.texts("scenario")["answer"][0] or "(nothing)")


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--name=k", "--encoder=minlm"], "no encoder 'minlm'; did you mean 'minilm'"),
        (["--encoder=random"], "--name=NAME"),
        (["--name=random", "--encoder=random"], "'random' is no name for knowledge"),
        (["--name=k", "--encoder=random", "--levels=usr"], "no level 'usr'; did you mean 'user'"),
        (["--name=k", "--encoder=random", "--max_items=few"], "max_items must be a whole number"),
        (["--name=k", "--encoder=random", "--batch_size=0"], "batch_size must be a whole number of at least 1"),
        (["--name=k", "--encoder=random", "--store_dtype=int8"], "store_dtype must be one of float16, float32"),
        (["--name=k", "--encoder=random", "--pooling=last"], "encoder 'random' has no option 'pooling'"),
        (["--name=k", "--encoder=random", "--title_field=[x]"], "title_field must be the name of a field"),
        (["--name=k", "--encoder=random", "--language=[en]"], "language must be the name of a language"),
        (["--name=k", "--encoder=random", "--sort_by_length=7"], "sort_by_length must be True or False"),
        (["--name=k", "--encoder=random", "--titel_field=x"], "'titel_field'"),
        (["--name=k", "--encoder=random", "--title_field=x"], "no field 'x'; tiny.item has item_id"),
        (["--name=k", "--encoder=random", "--template=none.yaml"], "no template file none.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, more, told, capsys):
    assert main(["embed", *arguments, *more]) == 2
    err = capsys.readouterr().err
    assert told in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("--lightning={devcies: 2}", "devcies"),
        ("--wandb=onlin", "wandb must be online, offline or disabled, got 'onlin'"),
        ("--lr_scheduler={name: Nope}", "Nope"),
    ],
)
def test_settings_of_a_training_are_refused_before_anything_is_encoded(setting, told, arguments, tmp_path, capsys):
    assert main(["embed", *arguments, "--encoder=random", "--name=k", setting]) == 2
    assert told in capsys.readouterr().err
    run = ["--model=LLM4MSR", "--dataset=tiny", *[word for word in arguments if "dataset" not in word]]
    assert run_recbole([*run, "--knowledge=random/full", setting]) == 2
    assert told in capsys.readouterr().err
    assert not any(tmp_path.rglob("meta.json"))
