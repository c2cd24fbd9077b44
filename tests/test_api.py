"""The Python API at the top of the package: complete, documented, and light to import."""

import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_msr
from recbole_msr import CompareOptions, InputError, SearchOptions
from recbole_msr.cli import main
from recbole_msr.jobs.options import declared_options

COMMANDS = {"search": SearchOptions, "compare": CompareOptions}
PYTHON_ONLY = {"config_files", "config", "wandb_project", "progress", "command"}
"""Options without an argument of their own: any --key=value is part of `config`."""


def test_every_public_name_can_be_imported_and_is_documented():
    for name in recbole_msr.__all__:
        value = getattr(recbole_msr, name)
        assert value is getattr(recbole_msr, name)
        assert name in dir(recbole_msr)
        if name != "__version__":
            assert inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        recbole_msr.serach  # noqa: B018


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, json, recbole_msr; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    heavy = {"torch", "pytorch_lightning", "recbole", "optuna", "wandb", "pandas", "sklearn", "plotly"}
    assert not heavy & set(json.loads(done.stdout))


def test_python_m_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recbole-msr", "models"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("recbole_msr", run_name="__main__")
    assert end.value.code == 0
    assert "HiNet" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_function_has_every_option_as_an_argument_with_its_default(name):
    function, options = getattr(recbole_msr, name), COMMANDS[name]
    arguments = inspect.signature(function).parameters
    made = options()
    assert {key: argument.default for key, argument in arguments.items()} == vars(made)
    positional = [key for key, argument in arguments.items() if argument.kind is not argument.KEYWORD_ONLY]
    assert (
        positional
        == {
            "search": ["model", "dataset", "trials"],
            "compare": ["models", "dataset", "trials", "seeds"],
        }[name]
    )
    assert arguments["workers"].annotation is int
    for key in arguments:
        assert f"\n    {key}: " in function.__doc__


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_has_every_option_with_its_description(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for option in declared_options(COMMANDS[name]):
        assert option.description, option.name
        assert (option.argument is None) == (option.name in PYTHON_ONLY)
        if option.argument is not None:
            assert option.flag in shown
            assert option.summary[1:].rstrip(".") in shown
    assert "(default: 1)" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_given_one_by_one_or_as_an_object_with_changes(name):
    function, options = getattr(recbole_msr, name), COMMANDS[name]
    given = {"dataset": "none", "config": {"trainer": "recbole"}}  # refused before anything is computed
    first = {"search": "model", "compare": "models"}[name]
    messages = set()
    for call in (
        lambda: function("HiNet", "none", trials=2, config=given["config"]),
        lambda: function(options(**{first: "HiNet"}, trials=2, **given)),
        lambda: function(options(**{first: "HiNet"}, config={"trainer": "lightning"}), trials=2, **given),
    ):
        with pytest.raises(InputError, match="'recbole'") as error:
            call()
        messages.add(str(error.value))
    assert len(messages) == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_misspelt_option_is_refused_with_the_nearest_ones(name):
    for make in (COMMANDS[name], getattr(recbole_msr, name)):
        with pytest.raises(InputError, match=r"there is no option 'worker'; did you mean 'workers'\?"):
            make(worker=2)
        with pytest.raises(TypeError, match="too many positional arguments"):
            make(*range(9))


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [("seeds", v, "a whole number of at least 1 and at most 10000") for v in (0, -1, 1.0, True, "3", 10**9)]
    + [("trials", v, "a whole number of at least 0") for v in (-1, 2.5, False)]
    + [
        ("timeout", v, "a time above 0, in seconds or as in 90s, 30m or 1h")
        for v in (0, -1, float("nan"), float("inf"), True, "x", 10**400)
    ]
    + [("alpha", v, "a number between 0 and 1") for v in (0, 1, float("nan"), True, None)]
    + [("single_scenario", v, "True or False") for v in (1, "yes")]
    + [("config", v, "a mapping such as") for v in ([1], "epochs=1")]
    + [("config_files", v, "a list of paths") for v in ("a.yaml", 1)],
)
def test_a_wrong_value_is_refused_with_the_right_ones(option, value, right):
    with pytest.raises(InputError, match=f"^(--)?{option.replace('_', '[-_]')} must be {right}.*, got "):
        CompareOptions("HiNet", "ml-100k", **{option: value})


def test_options_do_not_change():
    options = SearchOptions("HiNet", "ml-100k", trials=3)
    with pytest.raises(AttributeError):
        options.trials = 4
    assert options == SearchOptions(model="HiNet", dataset="ml-100k", trials=3)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_documentation_lists_every_option_with_its_default(name):
    text = (Path(__file__).parents[1] / "docs" / "python-api.md").read_text(encoding="utf-8")
    section = text.split(f"## `recbole_msr.{name}`")[1].split("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    documented = {key: row[1] for row in rows for key in re.findall(r"`(\w+)`", row[0])}
    for option in declared_options(COMMANDS[name]):
        if option.name in ("model", "dataset"):
            continue  # named in the sentence above the table
        assert option.name in documented, option.name
        if option.default not in (None, ()):
            assert str(option.default) in documented[option.name], option.name
