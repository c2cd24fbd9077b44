"""What the README and docs/ say is what the code has: keys and defaults, commands, names of tests, links."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from recbole_msr import cli
from recbole_msr.config.build import build_config
from recbole_msr.data.public.catalog import SETS, preset_file
from recbole_msr.files.yaml import read_yaml
from recbole_msr.registry import properties
from recbole_msr.training.configure import training_config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language, page):
    """The code blocks of one language in a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands():
    """Every command line of ours in a shell block: (page, words)."""
    for page in PAGES:
        for line in "\n".join(blocks("sh", page)).splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                name = Path(words[0]).name if words else ""
                if name in ("run_recbole", "recbole-msr"):
                    yield pytest.param(name, words[1:], id=f"{page.stem}: {' '.join(words)[:70]}")


class Understood(BaseException):
    """Raised where the work would begin; no `except Exception` stops it."""


@pytest.fixture
def checked_only(tmp_path, monkeypatch):
    """Commands are read and their settings checked, in a folder with the YAML files that the docs show."""
    from recbole_msr.runs import run as runs

    def run(model=None, dataset=None, config_files=(), config=None, callbacks=()):
        settings = {}
        for path in config_files:
            settings |= read_yaml(Path(path))
        settings |= config
        asked = {key: settings.pop(key, None) for key in ("output_dir", "resume")}
        if asked["resume"] and model is None:
            assert asked["output_dir"]
        else:
            dataset = dataset or settings.pop("dataset", None) or Path(settings["data"]).stem
            training_config(model or settings.pop("model"), dataset, settings)
        raise Understood

    def work(given):
        raise Understood

    monkeypatch.setattr(runs, "run", run)
    monkeypatch.setattr(cli, "_COMMANDS", dict.fromkeys(cli._COMMANDS, work))
    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for text in blocks("yaml", page):
            named = re.match(r"# (\w+\.yaml)\n", text)
            if named:
                (tmp_path / named[1]).write_text(text, encoding="utf-8")
    for name, public in SETS.items():  # as `recbole-msr data NAME RAW data` writes it
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copyfile(preset_file(public.preset), tmp_path / "data" / name / f"{name}.yaml")


@pytest.mark.parametrize(("name", "arguments"), commands())
def test_a_command_in_the_docs_is_understood(name, arguments, checked_only):
    with pytest.raises(Understood):
        {"run_recbole": cli.run_recbole, "recbole-msr": cli.main}[name](arguments)


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=f"{page.stem}: {text[:50]}") for page in PAGES for text in blocks("yaml", page)]
)
def test_settings_in_the_docs_are_known_and_possible(text):
    from recbole_msr.schema import Schema

    settings = {"tasks": {"click": {"field": "rating", "at_least": 4}}} | yaml.safe_load(text)
    Schema.from_config(build_config("HiNet", "ml-100k", settings))


@pytest.mark.parametrize("file", [("overall.yaml",), ("model", "HiNet.yaml")])
def test_the_configuration_reference_has_every_key_with_its_default(file):
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", text, re.MULTILINE))
    for key, default in read_yaml(properties(*file)).items():
        assert key in documented, f"docs/configuration.md lacks {key}"
        assert yaml.safe_load(documented[key]) == default, key


def test_the_tests_that_the_docs_name_exist():
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    named = {name for page in PAGES for name in re.findall(r"::(test_\w+)", page.read_text(encoding="utf-8"))}
    assert named
    assert [name for name in sorted(named) if f"def {name}(" not in tests] == []


def test_the_files_that_the_docs_name_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (page.parent / link).is_file(), f"{page.name}: {link}"
        for path in re.findall(r"`((?:recbole_msr|tests|benchmarks|properties)/[\w/.-]+)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_ci_runs_the_readmes_own_test_command():
    (readme,) = re.findall(
        r"^python3 -m venv .*pytest$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace('"$venv/', ".venv/").replace('"', "")
    for part in readme.split(" && ")[1:]:
        assert part.replace("'", "") in script.replace("'", ""), part
