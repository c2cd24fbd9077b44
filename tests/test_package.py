"""What gets installed: the wheel and the source distribution hold the properties, and work without the checkout."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    pytest.importorskip("hatchling", reason="the build backend is in the dev extra")
    folder = tmp_path_factory.mktemp("dist")
    for kind in ("wheel", "sdist"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder


def test_properties_are_in_wheel_and_sdist(distributions):
    (wheel,) = distributions.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for path in ROOT.glob("properties/**/*.yaml"):
        assert f"recbole_msr/{path.relative_to(ROOT).as_posix()}" in names
    assets = [path for path in ROOT.glob("recbole_msr/report/html/*.*") if path.suffix != ".py"]
    assert {path.suffix for path in assets} == {".css", ".js", ".j2"}  # of pages
    assert {path.relative_to(ROOT).as_posix() for path in assets} <= set(names)
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = [name.split("/", 1)[1] for name in archive.getnames()]
    assert "properties/overall.yaml" in inside
    assert "pyproject.toml" in inside
    assert {path.relative_to(ROOT).as_posix() for path in assets} <= set(inside)


def test_the_unpacked_wheel_finds_its_own_properties_and_builds_a_model_config(distributions, tmp_path):
    (wheel,) = distributions.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import recbole_msr\n"
        "from recbole_msr.registry import properties\n"
        "from recbole.config import Config\n"
        "sys.argv = ['x']\n"
        "config = Config(model='HiNet', dataset='ml-100k')\n"
        "print(recbole_msr.__file__, properties('overall.yaml'), config['sub_experts'], config['main_task'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    module, settings, sub_experts, main_task = done.stdout.splitlines()[-1].split()
    assert Path(module).is_relative_to(tmp_path)
    assert Path(settings) == tmp_path / "recbole_msr" / "properties" / "overall.yaml"
    assert (int(sub_experts), main_task) == (5, "click")
