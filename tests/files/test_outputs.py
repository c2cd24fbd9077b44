"""What commands write into: names, paths, folders of another kind, somebody's files, and disks that are full."""

import os
import resource
import sys
from pathlib import Path

import pandas as pd
import pytest

import recbole_msr
from recbole_msr.cli import main, run_recbole
from recbole_msr.errors import InputError
from recbole_msr.files import outputs
from recbole_msr.files.atomic import write_atomically
from recbole_msr.files.outputs import (
    COMPARISON,
    RUN,
    SEARCH,
    FolderChanges,
    check_folder,
    check_name,
    check_path,
    check_result,
)

DECLARED = ["--tasks={click: {field: rating, at_least: 4}}", "--scenario={field: age, bins: [30]}"]
SMALL = ["--dataset=tiny", "--threads=1", "--epochs=1", "--show_progress=False", "--use_gpu=False", *DECLARED]
SEARCH_COMMAND = ["search", "--model=SharedBottom", *SMALL, "--trials=1", "--final-seeds=0", "--wandb=disabled"]
COMPARE = ["compare", "--models=SharedBottom", *SMALL, "--seeds=1", "--wandb=disabled"]
RUN_COMMAND = ["--model=SharedBottom", *SMALL]
EMBED = ["embed", *SMALL, "--encoder=random", "--levels=[scenario]", "--replace"]


def _files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refused(command, capsys, code=2):
    assert (main if command[0][0] != "-" else run_recbole)(command) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture
def place(tiny_data, monkeypatch):
    """The current folder, with the dataset "tiny" and a folder of every kind."""
    monkeypatch.chdir(tiny_data)
    for name in (
        *("run/config.yaml", "run/result.json", "run/best.ckpt", "run/metrics.csv", "search/workers/search.json"),
        *("search/best.yaml", "search/trials.csv", "search/study.journal", "comparison/workers/comparison.json"),
        *("comparison/leaderboard.csv", "comparison/report.html", "knowledge/k/knowledge.json", "mine/report.html"),
        *("mine/final/notes.txt", "mine/runs/notes.txt", "page.html", "log.txt", "notes/todo.txt"),
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("the last line has no end", encoding="utf-8")
    return tiny_data


OVER = {
    "compare into a search": ([*COMPARE, "--output=search"], "search holds a search"),
    "compare into a run": ([*COMPARE, "--output=run"], "run holds a run"),
    "compare into knowledge": ([*COMPARE, "--output=knowledge/k"], "knowledge/k holds knowledge"),
    "compare into a folder with files of these names": ([*COMPARE, "--output=mine"], "mine holds no comparison, but"),
    "search into a comparison": ([*SEARCH_COMMAND, "--output=comparison"], "comparison holds a comparison"),
    "search into a run": ([*SEARCH_COMMAND, "--output=run"], "run holds a run"),
    "search into a dataset": ([*SEARCH_COMMAND, "--output=tiny"], "tiny holds a dataset"),
    "search into a folder with files of these names": ([*SEARCH_COMMAND, "--output=mine"], "report.html, final"),
    "run into a search": ([*RUN_COMMAND, "--output_dir=search"], "search holds a search"),
    "run into a comparison": ([*RUN_COMMAND, "--output_dir=comparison"], "comparison holds a comparison"),
    "run into knowledge": ([*RUN_COMMAND, "--output_dir=knowledge/k"], "knowledge/k holds knowledge"),
    "run into a dataset": ([*RUN_COMMAND, "--output_dir=tiny"], "tiny holds a dataset"),
    "explain over a checkpoint": (
        ["explain", "--run=run", "--out=run/best.ckpt"],
        "run/best.ckpt exists and is no page",
    ),
    "explain several runs over a page": (
        ["explain", "--runs=run,search", "--out=page.html"],
        "page.html exists and is no page",
    ),
    "explain over a page": (["explain", "--run=run", "--out=page.html"], "page.html exists and is no page"),
    "a text as journal": (
        [*SEARCH_COMMAND, "--storage=journal:log.txt"],
        "journal log.txt is damaged",
    ),
    "a checkpoint as journal": ([*SEARCH_COMMAND, "--storage=journal:run/best.ckpt"], "no journal of Optuna"),
    "knowledge over a run": ([*EMBED, "--name=run", "--knowledge_dir=."], "run is the folder of a run"),
    "knowledge over somebody's folder": ([*EMBED, "--name=notes", "--knowledge_dir=."], "notes is no knowledge"),
    "knowledge into a search": ([*EMBED, "--name=final", "--knowledge_dir=search"], "search holds a search"),
    "a study outside": ([*SEARCH_COMMAND, "--study=../x"], "--study: '../x' cannot name a folder"),
    "a dataset outside": ([*SEARCH_COMMAND, "--dataset=../tiny"], "dataset: '../tiny' cannot name a folder"),
    "a run's dataset outside": ([*RUN_COMMAND, "--dataset=../tiny"], "dataset: '../tiny' cannot name a folder"),
    "a comparison's dataset outside": ([*COMPARE, "--dataset=.."], "dataset: '..' cannot name a folder"),
    "knowledge outside": ([*EMBED, "--name=../x"], "knowledge: '../x' cannot name a folder"),
}


@pytest.mark.parametrize("case", OVER.values(), ids=OVER)
def test_nothing_is_written_over_what_is_of_another_kind(case, place, capsys):
    command, told = case
    before = _files(place)
    command = command if command[0] == "explain" else [*command, f"--data_path={place}"]
    if command[0] == "embed" and "--knowledge_dir" not in str(command):
        command.append("--knowledge_dir=knowledge")
    assert told in _refused(command, capsys)
    assert _files(place) == before


def test_a_search_is_not_written_over_by_another_one(place, capsys):
    record = place / "search" / "workers" / "search.json"
    command = [*SEARCH_COMMAND, f"--data_path={place}", "--output=search"]
    record.write_text('{"study": "a", "storage": null}', encoding="utf-8")
    before = _files(place)
    assert "holds the search 'a', whose results 'b' would write over" in _refused([*command, "--study=b"], capsys)
    line = _refused([*command, "--study=a", "--storage=sqlite:///study.db"], capsys)
    assert "holds the search 'a', kept in a journal there" in line
    assert _files(place) == before


def test_a_run_goes_below_a_folder_with_a_file_that_it_would_write_over(tiny_data, tmp_path):
    from recbole_msr.runs.folder import RunFolder

    for name in ("metrics.csv", "predictions.parquet", "vocabulary", "last.ckpt", "explain.html"):
        out = tmp_path / f"out-{name}"
        out.mkdir()
        (out / name).write_text("mine")
        folder = RunFolder(out, "HiNet-tiny")
        folder.close()
        assert folder.path == out / "run-2"
    free = tmp_path / "free"
    free.mkdir()
    (free / "notes.txt").write_text("mine")
    folder = RunFolder(free, "HiNet-tiny")
    folder.close()
    assert folder.path == free
    folder.discard()
    assert _files(free) == {"notes.txt": b"mine"}


# Scores.


def test_scores_go_over_older_scores_and_nothing_else(tmp_path):
    data, run = tmp_path / "rows.csv", tmp_path / "run"
    run.mkdir()
    data.write_text("user_id,item_id\n1,2\n")
    (tmp_path / "link.csv").symlink_to(data)
    os.link(data, tmp_path / "hard.csv")
    (tmp_path / "other.csv").write_text("user_id,mine\n1,2\n")
    (tmp_path / "scored.csv").write_text("user_id,item_id,click\n1,2,0.5\n")
    pd.DataFrame({"user_id": [1], "click": [0.5]}).to_parquet(tmp_path / "scored.parquet")
    (tmp_path / "text.parquet").write_text("mine")
    for name in ("result.json", "metrics.csv", "predictions.parquet"):
        (run / name).write_text("click\n")
    (tmp_path / "scored-run.csv").symlink_to(run / "metrics.csv")
    for out, told in {
        "rows.csv": "is the file of the rows",
        "link.csv": "is the file of the rows",
        "hard.csv": "is the file of the rows",
        f"../{tmp_path.name}/rows.csv": "is the file of the rows",
        "other.csv": "exists and holds no scores .*'click'",
        "text.parquet": "exists and holds no scores",
        "run/metrics.csv": "is a file of a run",
        "run/predictions.parquet": "is a file of a run",
        "scored-run.csv": "is a file of a run",
        "run": "is a folder",
    }.items():
        with pytest.raises(InputError, match=told):
            check_result(tmp_path / out, {"the rows (--data)": data, "more": None}, ["click"], "scores")
    for out in ("scored.csv", "scored.parquet", "new.csv", "run/new.csv"):
        check_result(tmp_path / out, {"the rows (--data)": data, "more": None}, ["click"], "scores")


# Names and paths.


@pytest.mark.parametrize("name", ["shop", "ml-100k", "A B", "é", "a=1,b.c", "x" * 200])
def test_a_name_names_a_folder(name, tmp_path):
    assert check_name("dataset", name) == name
    (tmp_path / f"{name}.lock").mkdir()


@pytest.mark.parametrize(
    "name",
    ["", " ", ".", "..", ".x", "-x", "a/b", "../x", "/x", "a\\b", "a\0b", "a\n", "\udcff", "x" * 201, "é" * 101, 5],
)  # fmt: skip
def test_what_names_no_folder_is_refused(name):
    with pytest.raises(InputError, match="name") as error:
        check_name("dataset", name)
    str(error.value).encode("utf-8")


@pytest.mark.parametrize("path", ["", " ", "a\0b", "\udcff", "x" * 256, "a/" * 2100, 5])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(InputError, match=r"output_dir: .* is no path") as error:
        check_path("output_dir", path)
    str(error.value).encode("utf-8")


@pytest.mark.parametrize("path", ["a\0b", "\udcff"])
def test_every_path_of_every_call_is_looked_at(path, place):
    from recbole_msr.data.public import convert
    from recbole_msr.report.run.explain_page import write_explanation
    from recbole_msr.runs.knowledge_commands import embed, show_prompts
    from recbole_msr.runs.predict import predict_file

    given = {"data_path": str(place), "tasks": {"click": {"field": "rating", "at_least": 4}}, "use_gpu": False}
    run = lambda **keys: recbole_msr.run("SharedBottom", "tiny", config=given | keys)  # noqa: E731
    search = lambda **options: recbole_msr.search("SharedBottom", "tiny", 1, **{"config": given, **options})  # noqa: E731
    compare = lambda **options: recbole_msr.compare(["LR"], "tiny", **{"config": given, **options})  # noqa: E731
    own = {"encoder": "random", "name": "k"}
    before = _files(place)
    for call in (
        *(lambda key=key: run(**{key: path}) for key in ("output_dir", "data_path", "cache_dir", "knowledge_dir")),
        lambda: recbole_msr.run("SharedBottom", "tiny", [path], given),
        lambda: recbole_msr.run("SharedBottom", path, config=given),
        *(lambda key=key: search(**{key: path}) for key in ("output", "space", "study")),
        lambda: search(storage=f"journal:{path}"),
        lambda: search(config_files=[path]),
        lambda: search(config=given | {"data_path": path}),
        lambda: compare(output=path),
        lambda: compare(config_files=[path]),
        lambda: compare(config=given | {"cache_dir": path}),
        lambda: recbole_msr.compare({path: {"model": "LR"}}, "tiny", config=given),
        lambda: recbole_msr.compare(f"{path}.yaml", "tiny", config=given),
        lambda: predict_file(path, "a.csv", "b.csv"),
        lambda: predict_file("run", f"{path}.csv", "b.csv"),
        lambda: predict_file("run", "a.csv", f"{path}.csv"),
        lambda: write_explanation(path),
        lambda: write_explanation("run", path),
        lambda: write_explanation("run", "x.html", knowledge_dir=path),
        lambda: convert("ml-1m", path, "out"),
        lambda: convert("ml-1m", "mine", path),
        *(
            lambda key=key: list(embed("tiny", [], given | own | {key: path}))
            for key in ("name", "knowledge_dir", "template", "encoder")
        ),
        lambda: list(embed("tiny", [path], given | own)),
        lambda: list(show_prompts("tiny", [path], given)),
    ):
        with pytest.raises(InputError):
            call()
    assert _files(place) == before


# Folders.


def test_what_a_command_made_is_undone_and_nothing_else(tmp_path):
    there = tmp_path / "there"
    (there / "workers").mkdir(parents=True)
    (there / "best.yaml").write_text("mine")
    (there / "workers" / "old.log").write_text("mine")
    before = _files(tmp_path)
    for folder in (there, tmp_path / "a" / "b"):
        made = FolderChanges(folder, SEARCH)
        (folder / "workers").mkdir(parents=True, exist_ok=True)
        (folder / "final" / "x").mkdir(parents=True)
        for name in ("workers/search.json", "trials.csv", "study.journal", "final/x/y"):
            (folder / name).write_text("ours")
        made.undo()
        assert _files(tmp_path) == before
    assert not (tmp_path / "a").exists()
    made = FolderChanges(tmp_path / "a" / "b", SEARCH)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "notes.txt").write_text("somebody's, since")
    made.undo()
    assert (tmp_path / "a" / "b" / "notes.txt").exists()


def test_a_folder_of_its_own_kind_a_new_one_and_an_empty_one_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for kind in (RUN, SEARCH, COMPARISON):
        folder = tmp_path / kind.content.removeprefix("a ")
        (folder / kind.marks[0]).parent.mkdir(parents=True)
        (folder / kind.marks[0]).write_text("")
        for path in (folder, tmp_path / "new", tmp_path / "empty"):
            check_folder(path, kind, "--output")


# A full disk.


@pytest.fixture
def small_files():
    """small_files(n): no file of this process grows beyond n bytes, as if the disk were full."""
    if sys.platform == "win32":
        pytest.skip("Windows has no such limit")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_file_that_cannot_be_written_is_named(tmp_path, small_files):
    import torch

    content = {"weight": torch.arange(10_000)}
    writers = {
        "text": lambda path: Path(path).write_text("x" * 9000),
        "tensors": lambda path: outputs.save_tensors(content, path),
        "table": lambda path: pd.DataFrame({"a": range(9000)}).to_csv(path),
        "parquet": lambda path: pd.DataFrame({"a": range(9000)}).to_parquet(path),
    }
    small_files(4096)
    for name, write in writers.items():
        with pytest.raises(InputError, match=f"{name} cannot be written: .*File too large") as error:
            write_atomically(tmp_path / name, write)
        assert isinstance(error.value, OSError)
        assert error.value.filename == str(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    small_files(1 << 20)
    outputs.save_tensors(content, tmp_path / "whole")
    assert torch.equal(torch.load(tmp_path / "whole", weights_only=True)["weight"], content["weight"])


@pytest.mark.parametrize(("size", "file"), [(500, "config.yaml"), (5000, "best.ckpt"), (15_000, "last.ckpt")])
def test_a_run_on_a_full_disk_ends_with_one_line(size, file, tiny_data, small_files, capsys, monkeypatch):
    monkeypatch.chdir(tiny_data)
    command = [
        *RUN_COMMAND,
        f"--data_path={tiny_data}",
        "--output_dir=out",
        "--packed_cache=False",
        "--embedding_size=4",
        "--bottom_hidden_sizes=[8]",
        "--tower_hidden_sizes=[4]",
    ]
    small_files(size)
    assert f"out/{file} cannot be written: File too large" in _refused(command, capsys)


def test_a_log_that_cannot_be_written_ends_the_run_without_a_traceback(tmp_path, small_files, capsys):
    import logging

    from recbole_msr.runs.folder import RunFolder
    from recbole_msr.runs.run_log import log_to_folder

    folder = RunFolder(tmp_path / "out", "HiNet-tiny")
    folder.close()
    small_files(100)
    with log_to_folder(folder), pytest.raises(InputError, match=r"run\.log cannot be written: File too large"):
        logging.getLogger("recbole_msr.tests").warning("a long line of a log " * 20)
    assert "Logging error" not in capsys.readouterr().err
