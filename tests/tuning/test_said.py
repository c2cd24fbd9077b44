"""A search says what it did: trials cut off, killed, done again, and two at once in one process."""

import json
import re
import threading
from pathlib import Path

import pytest
import yaml

import recbole_msr
from recbole_msr.comparison.options import CompareOptions
from recbole_msr.errors import InputError
from recbole_msr.jobs.python_call import python_call
from recbole_msr.tracking.wandb import artifact_name
from recbole_msr.tuning.options import SearchOptions
from recbole_msr.tuning.study import candidates

from .conftest import up_after_reports
from .test_trials import ended, kill, work


@pytest.mark.usefixtures("pages")
def test_a_trial_cut_off_by_the_timeout_keeps_its_best_epoch_and_is_gone_on_with(search, monkeypatch, caplog):
    """The time is up after the second of three epochs of the first trial."""
    with monkeypatch.context() as patch:
        up_after_reports(2, patch)
        first = search(trials=1, timeout=1000)
    best = first.summary["best"]
    trial = first.study.trials[0]  # the next one is to be tried again
    history = [row["auc"] for row in trial.user_attrs["history"]] if "auc" in trial.user_attrs["history"][0] else None
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["epochs"] == 2
    assert best["values"] == trial.user_attrs["values_so_far"]
    assert history is None or best["values"] == [max(history)]
    assert best["cut_off"] == "the time was up after epoch 2 of 3"
    text = Path("out/best.yaml").read_text(encoding="utf-8")
    assert "trains it to its end, to this value or a better one, and tests it: the time was up after epoch 2" in text
    assert first.trials["auc"][0] == best["values"][0]
    assert "has not ended (the time was up after epoch 2 of 3)" in Path("out/report.html").read_text(encoding="utf-8")
    again = recbole_msr.run(config_files=["out/best.yaml"], config={"output_dir": "r", "show_progress": False})
    assert again.summary["best_valid_score"] >= best["values"][0]

    second = search(trials=1, final_seeds=0)
    assert second.summary["best"]["number"] == 1
    assert second.summary["best"]["cut_off"] is None
    assert second.summary["best"]["values"] == [again.summary["best_valid_score"]]
    assert [one.number for one in candidates(second.study)] == [1]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
@pytest.mark.parametrize("suggest", [(), ("a", "b")])
@pytest.mark.parametrize("kills", [1, 2])
def test_the_same_trials_come_after_a_kill(tmp_path, sampler, suggest, kills):
    options = {"sampler": {"name": sampler, **({"n_startup_trials": 2} if sampler == "tpe" else {})}}
    whole = work(tmp_path / "whole", wanted=6, **options)
    work(tmp_path / "killed", wanted=3, **options)
    for _ in range(kills):
        kill(tmp_path / "killed", suggest, options["sampler"])
    killed = work(tmp_path / "killed", wanted=6, **options)
    assert [trial.params for trial in ended(killed)] == [trial.params for trial in ended(whole)]


@pytest.mark.slow
def test_two_searches_in_two_threads_find_what_they_find_alone(search, config):
    space = {"search": {"learning_rate": [0.01, 0.05], "dropout": [0.1, 0.3]}}
    alone = [search(trials=2, space=space, output=f"alone{n}", config={"seed": n, "epochs": 1}) for n in range(2)]
    found, threads = {}, []
    for n in range(2):

        def go(n=n):
            found[n] = search(trials=2, space=space, output=f"both{n}", config={"seed": n, "epochs": 1})

        threads.append(threading.Thread(target=go))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [list(found[n].trials["auc"]) for n in range(2)] == [list(one.trials["auc"]) for one in alone]


def test_the_call_in_python_has_every_key_and_is_read_by_python(search, config):
    result = search(trials=1, study="a 'study'", pruner={"name": "median", "n_startup_trials": 2}, tolerance=0.02)
    called = {}
    code = result.summary["command"].removeprefix("from recbole_msr import search; ")
    exec(code, {"search": lambda **given: called.update(given)})
    assert called["config"] == config
    assert called["space"]["search"]["dropout"] == {"type": "float", "low": 0.0, "high": 0.4}
    assert (called["model"], called["dataset"], called["trials"]) == ("SharedBottom", "tiny", 1)
    assert (called["study"], called["tolerance"], called["final_seeds"]) == ("a 'study'", 0.02, 0)
    assert called["pruner"] == {"name": "median", "n_startup_trials": 2}


def test_the_call_has_paths_as_text_and_no_password():
    options = CompareOptions(("A", "B"), trials=3, config_files=[Path("a.yaml")])
    assert python_call("compare", options) == (
        "from recbole_msr import compare; compare(models=['A', 'B'], trials=3, config_files=['a.yaml'])"
    )


@pytest.mark.parametrize("name", ["HiNet-ml-100k-best", "SharedBottom loss_weighting=dwa-best", "x" * 200, "a/b", "ä"])
def test_names_of_artifacts_are_those_that_weights_and_biases_allows(name):
    import wandb

    made = artifact_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", made)
    assert wandb.Artifact(made, "search").name == made
    assert (made == name) == bool(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name))


def test_names_that_differ_stay_different():
    names = ["a b", "a_b", "a/b", "a=b", "x" * 128, "x" * 129, "x" * 130]
    assert len({artifact_name(name) for name in names}) == len(names)


def test_the_run_of_a_study_with_any_name_is_kept_with_its_true_name(search):
    from tests.tracking.read_back import runs

    name = "SharedBottom loss_weighting=dwa: ä " + "x" * 120
    search(trials=1, study=name, wandb="offline", config={"epochs": 1})
    (study,) = [run for run in runs("out/wandb") if run.about.get("job_type") == "study"]
    assert json.loads(json.dumps(study.config))["study"] == name
    assert study.exit_codes == [0]


@pytest.mark.parametrize(
    ("option", "value"),
    [("timeout", v) for v in (0, -1, float("nan"), float("inf"), True, "x")]
    + [("tolerance", v) for v in (-0.1, 1, 2, float("nan"), float("inf"), True, None)]
    + [("trials", v) for v in (0, -1, 1.5, True)]
    + [(name, v) for name in ("workers", "trial_seeds", "final_seeds") for v in (-1, 10**9, 0.5)]
    + [("max_failures", 0)],
)
def test_nonsense_is_refused(option, value):
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} must be"):
        SearchOptions("M", "d", **{"trials": 3, option: value})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("1h", 3600),
        ("1h30m", 5400),
        ("2.5m", 150),
        ("45", 45),
        ("1e2", 100),
        (7, 7),
        ("1d", 86400),
    ],
)
def test_times_are_seconds_or_have_units(text, seconds):
    assert SearchOptions("M", "d", timeout=text).timeout == seconds
    assert CompareOptions(["M"], "d", trials=1, timeout=text).timeout == seconds


@pytest.mark.parametrize("text", ["1 hour", "h", "-5m", "0s", "5x", "", "30m1", "nan", "1e999", "9" * 50])
def test_times_that_are_none_are_refused_in_one_line(text):
    with pytest.raises(
        InputError, match=r"--timeout must be a time above 0, in seconds or as in 90s, 30m or 1h, got '"
    ):
        SearchOptions("M", "d", timeout=text)


BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("search: {a: {type: int, low: 0, high: 1.0e+23}}", "between -2^53 and 2^53"),
        ("search: {a: {type: float, low: 0, high: 1.0e+308}}", "is too large"),
        ("search: {a: {type: float, low: 0, high: .inf}}", "is too large"),
        ("search: {a: {type: float, low: .nan, high: 1}}", "'low' of 'a' must be a number"),
        ("search: {a: {type: float, low: 2, high: 1}}", "must be below 'high'"),
        ("search: {a: {type: float, low: 0, high: 1, step: 1.0e-12}}", "is too small"),
        ("search: {a: {type: float, low: 0, high: 1, step: 0.3}}", "is not reached in steps"),
        (f"search: {{a: {list(range(1001))}}}", "has 1,001 choices"),
        ("search: {a: [x, x]}", "twice"),
        ("search: {a: {type: layers, depth: [1, 1000000000], width: [8]}}", "at most 100 layers"),
        ("search: {a: [1, 2], a: [3, 4]}", "'a' stands here already"),
        ("search: {a: [{b: 1, b: 2}]}", "'b' stands here already"),
        ("search: {? [a] : [1]}", "a key is a word"),
        ("search: {a: " + "[" * 5000 + "]" * 5000 + "}", "nested deeper than 64 levels"),
        ("search: {a: " + "[" * 70 + "]" * 70 + "}", "nested deeper than 64 levels"),
        (BOMB + "search: {x: [1, 2]}", "its anchors stand for"),
        ("search: {a: &a [*a]}", "an anchor contains itself"),
        ("search: {a: 2024-13-45}", "must be a list of choices"),
    ],
)
def test_spaces_that_hang_or_cannot_be_are_refused(tmp_path, text, told):
    from recbole_msr.tuning.space.space import Space

    path = tmp_path / "space.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        Space.load(path)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "line",
    [
        "a loguniform 0,1000",
        "a quniform 0,1,0",
        "a quniform 0,1e23,1e-9",
        "a choice " + "[" * 5000 + "]" * 5000,
        "a choice __import__('os').system('touch marker')",
        "a uniform 0,1e400",
        "a uniform 5,1",
    ],
)
def test_lines_of_recboles_file_that_cannot_be_are_refused(tmp_path, monkeypatch, line):
    from recbole_msr.tuning.space.space import Space

    monkeypatch.chdir(tmp_path)
    Path("hyper.test").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        Space.load("hyper.test")
    assert "hyper.test:1" in str(caught.value)
    assert len(str(caught.value)) < 400
    assert not Path("marker").exists()


def test_text_among_choices_is_never_evaluated(tmp_path, monkeypatch):
    from recbole_msr.tuning.space.space import Space

    monkeypatch.chdir(tmp_path)
    evil = "__import__('os').system('touch marker')"
    Path("hyper.test").write_text(f"a choice [{evil!r}, '[64, 64]']\n", encoding="utf-8")
    assert Space.load("hyper.test").parameters[0].values() == [evil, [64, 64]]
    Path("space.yaml").write_text(yaml.safe_dump({"search": {"a": [evil, "b"]}}), encoding="utf-8")
    assert Space.load("space.yaml").parameters[0].values() == [evil, "b"]
    assert not Path("marker").exists()


def test_a_large_integer_is_searched_and_a_large_grid_is_refused():
    from recbole_msr.tuning.space.space import Space

    space = Space.load({"search": {"a": {"type": "int", "low": 0, "high": 10**15}}})
    assert space.params_of({"a": 5})[0] == {"a": 5}
    assert space.parameters[0].values() is None
    body = {"type": "int", "low": 0, "high": 999}
    with pytest.raises(InputError, match="this grid has 1,000,000 points"):
        Space.load({"search": {"a": body, "b": body}}).grid()


def test_a_search_without_tasks_is_refused_since_its_rows_would_change_with_the_seed(monkeypatch, tmp_path):
    from recbole_msr.tuning.run import search

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a search needs to know what is learnt: declare tasks"):
        search("LR", "ml-100k", 1, wandb="disabled", progress=False)
    assert list(tmp_path.iterdir()) == []
