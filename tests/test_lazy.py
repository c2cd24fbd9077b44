"""What a process imports: nothing heavy that it does not use, and the real thing as soon as somebody uses it."""

import importlib
import json
import subprocess
import sys
import threading

import pytest

from recbole_msr import lazy
from tests.conftest import SCENARIOS, SETTINGS

# Processes of their own: in this one the modules are loaded already, or soon will be.

_RUN = """
import gc, json, sys
import recbole_msr
from recbole_msr import cli

light = [name for name in {heavy} if name in sys.modules]
try:
    cli.main(["--help"])
except SystemExit:
    pass
helped = [name for name in {heavy} if name in sys.modules]

import pytorch_lightning as pl
at_first_batch = []

class End(pl.Callback):
    def on_train_batch_start(self, *arguments):
        at_first_batch.extend(name for name in {unused} if loaded(name))

def loaded(name):
    return name in sys.modules and type(sys.modules[name]).__name__ != "_LazyModule"

collections = []
gc.callbacks.append(lambda phase, info: collections.append(phase))
recbole_msr.run  # imports what a run needs
gc.callbacks.clear()
collects_again = gc.isenabled()

config = {{"epochs": 1, "output_dir": "run", **json.loads(sys.argv[1])}}
recbole_msr.run("SharedBottom", "tiny", config=config, callbacks=[End()])
at_end = [name for name in {unused} if loaded(name)]

def torchmetrics_inner():
    import torchmetrics.aggregation  # loads the package, which imports this module itself

    return torchmetrics.aggregation.MeanMetric

import torch
import torchmetrics
parameter = torch.nn.Parameter(torch.zeros(2))
optimizer = torch.optim.SGD([parameter], lr=1.0)  # calls what is kept from TorchDynamo
before = loaded("torch._dynamo")
from lightning_fabric.wrappers import OptimizedModule
plain = torch.nn.Linear(2, 2)
compiled = torch.compile(plain, backend="eager")
import torch._dynamo
mean = torchmetrics_inner()
from torchmetrics import AUROC, Metric
kept = torch.optim.Optimizer.add_param_group.__wrapped__.__dynamo_disable
print("RESULT " + json.dumps({{
    "light": light,
    "helped": helped,
    "at_first_batch": at_first_batch,
    "at_end": at_end,
    "collections": collections.count("start"),
    "collects_again": collects_again,
    "before": before,
    "dynamo": [type(torch._dynamo).__name__, loaded("torch._dynamo"), torch._dynamo.__name__],
    "isinstance": [isinstance(compiled, OptimizedModule), isinstance(plain, OptimizedModule)],
    "same": bool((compiled(torch.ones(1, 2)) == plain(torch.ones(1, 2))).all()),
    "disabled": bool(getattr(kept, "_torchdynamo_disable", False)),
    "metrics": [
        Metric is pl.core.module.Metric,
        issubclass(AUROC(task="binary").__class__, Metric),
        mean is torchmetrics.MeanMetric and sys.modules["torchmetrics.aggregation"] is torchmetrics.aggregation,
        mean.__module__ == "torchmetrics.aggregation",
        float(mean()(torch.tensor([1.0, 3.0]))),
    ],
}}))
"""

HEAVY = [
    "torch",
    "pandas",
    "pyarrow",
    "scipy",
    "sklearn",
    "pytorch_lightning",
    "optuna",
    "wandb",
    "recbole",
    "transformers",
]
UNUSED = [
    *(
        "torch._dynamo",
        "torch._inductor",
        "torchmetrics",
        "torchmetrics.functional",
        "sympy",
        "transformers",
        "sklearn",
    ),
    *("scipy.signal", "scipy.stats", "scipy.special", "scipy.linalg", "jinja2", "optuna", "wandb", "plotly"),
    *("ray", "thop", "faiss", "matplotlib", "xgboost"),
    "recbole.model.general_recommender",
]


@pytest.fixture(scope="module")
def process(shared_tiny_data, tmp_path_factory):
    code = _RUN.format(heavy=HEAVY, unused=UNUSED)
    folder = tmp_path_factory.mktemp("process")
    settings = {**SETTINGS, "scenario": SCENARIOS[3], "packed_cache": True, "data_path": str(shared_tiny_data)}
    command = [sys.executable, "-c", code, json.dumps(settings)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])


def test_the_package_and_its_help_import_nothing_heavy(process):
    assert process["light"] == process["helped"] == []


def test_a_run_loads_nothing_that_it_does_not_use(process):
    assert process["at_first_batch"] == process["at_end"] == []


def test_no_garbage_is_looked_for_while_the_package_is_imported(process):
    assert process["collections"] <= 1, "the one that is due when they are allowed again"
    assert process["collects_again"]


def test_an_optimizer_needs_no_torchdynamo_and_a_compiled_model_gets_the_real_one(process):
    assert process["before"] is False
    assert process["dynamo"] == ["module", True, "torch._dynamo"]
    assert process["same"]


def test_lightning_recognises_a_compiled_model(process):
    assert process["isinstance"] == [True, False]


def test_what_was_to_be_kept_from_torchdynamo_is_kept_from_it_once_it_is_loaded(process):
    assert process["disabled"]


def test_torchmetrics_is_one_package_however_it_was_reached(process):
    assert process["metrics"] == [True, True, True, True, 2.0]


def test_threads_that_load_what_imports_each_other_do_not_wait_for_ever(tmp_path, monkeypatch):
    """One loads the lazy package, which imports `other`; one is importing `other`, which asks the lazy package."""
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text("import time; time.sleep(0.2)\nimport other\nvalue = 1\n")
    (tmp_path / "other.py").write_text(
        "import heavy, time\ntime.sleep(0.1)\nseen = getattr(heavy, 'value', None)\nvalue = 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(lazy._LAZY, "heavy", lazy._Unloaded)
    monkeypatch.setattr(sys, "meta_path", [lazy._Finder(), *sys.meta_path])
    for name in ("heavy", "other"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    heavy = importlib.import_module("heavy")
    assert "value" not in vars(heavy), "it is lazy"
    threads = [
        threading.Thread(target=lambda: importlib.import_module("other"), daemon=True),
        threading.Thread(target=lambda: heavy.value, daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    assert (heavy.value, importlib.import_module("other").value) == (1, 2)
