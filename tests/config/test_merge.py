"""Settings of several files and of the caller become one mapping, and folders keep their meaning elsewhere."""

from pathlib import Path

import pytest

from recbole_msr.config.merge import absolute, make_folders_absolute, merge_settings
from recbole_msr.errors import InputError


def test_later_files_win_and_the_caller_wins_over_all_files(tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 1\nseed: 1\nlearner: sgd\n")
    (tmp_path / "b.yaml").write_text("seed: 2\nlearner: ~\n")
    config = {"learner": "adam"}
    merged = merge_settings([tmp_path / "a.yaml", str(tmp_path / "b.yaml")], config)
    assert merged == {"epochs": 1, "seed": 2, "learner": "adam"}
    assert merge_settings([tmp_path / "a.yaml", tmp_path / "b.yaml"])["learner"] is None
    merged["seed"] = 3
    assert config == {"learner": "adam"}


def test_nothing_is_merged_into_nothing():
    assert merge_settings() == {}


@pytest.mark.parametrize(
    ("files", "config", "options", "message"),
    [
        (["there/is/none.yaml"], {}, {}, r"none\.yaml"),
        (["a\0b.yaml"], {}, {}, "config_files: .* is no path"),
        ([], {"data_path": "a\0b"}, {}, "data_path: .* is no path"),
        ([], {}, {"output": ""}, "--output: '' is no path"),
    ],
)
def test_a_path_that_cannot_be_read_is_named(files, config, options, message):
    with pytest.raises(InputError, match=message):
        merge_settings(files, config, **options)


def test_folders_are_absolute_whatever_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    settings = {"data_path": "data", "knowledge_dir": "~/kn", "cache_dir": None, "output_dir": "out"}
    make_folders_absolute(settings)
    assert settings == {
        "data_path": str(tmp_path.resolve() / "data"),
        "knowledge_dir": "/home/ann/kn",
        "cache_dir": None,
        "output_dir": "out",
    }
    assert absolute(Path("data") / ".." / "data") == settings["data_path"]


def test_only_the_named_folders_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"data_path": "data", "cache_dir": "cache"}
    make_folders_absolute(settings, ("data_path",))
    assert settings == {"data_path": str(tmp_path.resolve() / "data"), "cache_dir": "cache"}
