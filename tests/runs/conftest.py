"""Runs on small random data, with the `SETTINGS` of the file that asks for them."""

import pytest

import recbole_msr
from tests.runs.tiny import write_tiny


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """The data path of the dataset "tiny"; a file that needs other columns has a fixture of this name."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def run_tiny(request, data_path):
    """run_tiny(folder, model, **settings) -> a run on "tiny" with the file's `SETTINGS` and these."""

    def go(folder, model="SharedBottom", **settings):
        given = request.module.SETTINGS | {"data_path": str(data_path), "output_dir": str(folder)} | settings
        return recbole_msr.run(model, "tiny", config=given)

    return go
