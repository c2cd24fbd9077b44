"""Small real data, as atomic files, and models on them."""

import gc
import os
import random
import signal
import socket
import subprocess
import sys
from collections import deque
from contextlib import suppress
from functools import cache

# The tests run in several processes, and start more: with PyTorch's default number of threads they would slow each
# other down ten times and more.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

import recbole_msr  # before RecBole: makes it importable
from recbole_msr import registry
from recbole_msr.memory import no_collections

with no_collections():
    import pandas as pd
    import torch

SETTINGS = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender"],
        "item": ["item_id", "class", "price"],
    },
    "tasks": {"click": {"field": "rating", "at_least": 4}, "like": {"field": "rating", "at_least": 5}},
    "packed_cache": False,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
}
SCENARIOS = {
    1: None,
    2: {"field": "age", "bins": [30]},
    3: {"field": "age", "bins": [25, 35], "names": ["young", "mid", "old"]},
}

_FROZEN = {"modules": 0}
"""How many modules were imported when the garbage collector was last told to leave what there is."""


def pytest_addoption(parser):
    parser.addoption(
        "--all-models", action="store_true", help="dear tests of every model go through all of them, not through some"
    )


def _atomic(path, header, rows):
    path.write_text("\n".join("\t".join(map(str, row)) for row in [header, *rows]) + "\n", encoding="utf-8")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage while the tests are imported: there is none."""
    with no_collections():
        return (yield)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(config, items):
    """Mark the tests in a browser, and order the tests."""
    if not config.getoption("--all-models"):
        left = [item for item in items if item.get_closest_marker("more_models")]
        items[:] = [item for item in items if not item.get_closest_marker("more_models")]
        config.hook.pytest_deselected(items=left)
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker("browser")
    items[:] = _slow_ones_first(items, getattr(config, "workerinput", {"workercount": 1})["workercount"])


def _slow_ones_first(items, processes):
    """Order tests so that each process begins with its share of the slow ones: none is left alone with one at the end.

    `worksteal` begins with as many tests for each process, the first process with those at the front; later it moves
    tests from the back of one's to another. A file with slow tests stays whole, as they share what they make. But those
    that start commands, each of several processes, are together: two of them at once would take turns on few cores.
    """

    def is_slow(item):
        return item.get_closest_marker("slow") is not None

    def starts_commands(item):
        return is_slow(item) and "start" in item.fixturenames

    def weight(group):
        return sum(60 if starts_commands(item) else 10 if is_slow(item) else 1 for item in group)

    files = {item.path for item in items if is_slow(item)}
    slow, quick = {}, deque()
    for item in items:
        if item.path in files:
            slow.setdefault("commands" if starts_commands(item) else item.path, []).append(item)
        else:
            quick.append(item)
    shares = [[] for _ in range(processes)]
    for group in sorted(slow.values(), key=weight, reverse=True):
        min(shares, key=weight).extend(group)
    ordered, left = [], len(items)
    for index, share in enumerate(shares):
        size = left // (processes - index)
        left -= size
        ordered += share + [quick.popleft() for _ in range(min(len(quick), size - len(share)))]
    return ordered + list(quick)


@pytest.fixture(autouse=True)
def quick_collections():
    """Keep the garbage collector away from what has been imported: a search has a full collection after every trial.

    With PyTorch, Lightning and 6,000 tests in memory each of them takes a quarter of a second and more.
    """
    if len(sys.modules) > _FROZEN["modules"] + 100:
        gc.collect()  # else what a test has left behind would stay for ever
        gc.freeze()
        _FROZEN["modules"] = len(sys.modules)


@pytest.fixture(autouse=True, scope="session")
def no_waiting_for_the_disk():
    """Let the tests' own process not wait for the disk: a study's journal does so 20 times a trial, 4 ms each time.

    What a killed process has written is there all the same; only a machine that loses its power would lose it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def plugins_of_lightning():
    """Look once for the plugins of Lightning that are installed: each trainer goes through all packages for them."""
    from lightning_fabric.utilities import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "entry_points", cache(registry.entry_points))
        yield


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Prepared datasets of the tests are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECBOLE_MSR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_anomaly_detection():
    """RecBole's SINE turns it on for the whole process when it is imported: tests would depend on their order."""
    torch.autograd.set_detect_anomaly(False)


@pytest.fixture(autouse=True)
def own_processes(monkeypatch):
    """Processes that train together are those of one test.

    Lightning leaves variables that say which of several processes this is; with them the next training would start no
    other one, and wait for it. And it takes a port of those that a system hands out to connections, which another
    test's process may have by the time it is used: here is one below them.
    """
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            monkeypatch.setenv("MASTER_PORT", str(port))
            return
    raise OSError("no free port")


@pytest.fixture
def pages():
    """Ask for this where a search or a comparison is to write its page."""


@pytest.fixture
def no_pages(request, monkeypatch):
    """Have searches and comparisons in this process write no page, which takes a third of a small one's time."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr("recbole_msr.tuning.run.write_search_page", lambda *_: None)
        monkeypatch.setattr("recbole_msr.comparison.run.write_compare_page", lambda *_: None)


@pytest.fixture
def start(tmp_path):
    """Start a command in a process group of its own; what is left of all groups is killed after the test."""
    started = []

    def go(command):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True,
            # Where the tests themselves run in the background, a shell has had them ignore interruptions.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        started.append(process)
        return process

    yield go
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def tiny_data(tmp_path):
    """A data_path with the dataset "tiny", which the test may change; see `write_tiny_data`."""
    return write_tiny_data(tmp_path)


@pytest.fixture(scope="session")
def shared_tiny_data(tmp_path_factory):
    """The same data for all tests that only read it."""
    return write_tiny_data(tmp_path_factory.mktemp("shared-tiny"))


def write_tiny_data(data_path):
    """Return a data_path with the dataset "tiny": 40 users, 30 items, 600 ratings (1 to 5) of different pairs.

    tiny.user has age and gender, tiny.item the token_seq class (empty for the last item) and the float price.
    """
    draw = random.Random(20)
    folder = data_path / "tiny"
    folder.mkdir()
    users = [(f"u{u}", draw.randint(16, 60), draw.choice("FM")) for u in range(40)]
    items = [
        (
            f"i{i}",
            " ".join(draw.sample(["drama", "comedy", "war", "noir"], draw.randint(1, 3))),
            draw.randint(1, 9) / 2,
        )
        for i in range(29)
    ]
    items.append(("i29", "", 2.5))
    pairs = draw.sample([(u, i) for u in range(40) for i in range(30)], 600)
    taste = [draw.gauss(0, 1) for _ in range(70)]
    ratings = [min(5, max(1, round(3.4 + taste[u] + taste[40 + i] + draw.gauss(0, 1)))) for u, i in pairs]
    inter = [(f"u{u}", f"i{i}", r, 1000 + n) for n, ((u, i), r) in enumerate(zip(pairs, ratings, strict=True))]
    _atomic(folder / "tiny.user", ["user_id:token", "age:token", "gender:token"], users)
    _atomic(folder / "tiny.item", ["item_id:token", "class:token_seq", "price:float"], items)
    _atomic(folder / "tiny.inter", ["user_id:token", "item_id:token", "rating:float", "timestamp:float"], inter)
    return data_path


@pytest.fixture
def tiny_frames(tiny_data):
    """The tables of "tiny" as data frames: inter, user, item; the item's class is a list."""
    read = {}
    for suffix in ("inter", "user", "item"):
        frame = pd.read_csv(tiny_data / "tiny" / f"tiny.{suffix}", sep="\t", keep_default_na=False)
        read[suffix] = frame.rename(columns=lambda column: column.split(":")[0])
    read["item"]["class"] = read["item"]["class"].map(str.split)
    return read


@pytest.fixture
def make_dataset(tiny_data):
    """make_dataset(scenarios=3, model="HiNet", **settings) -> a Config and the train split of "tiny".

    What several tests ask for alike is prepared once, as by default.
    """
    from recbole.config import Config
    from recbole.data import create_dataset

    def make(scenarios=3, model="HiNet", **settings):
        given = SETTINGS | {"data_path": str(tiny_data), "scenario": SCENARIOS[scenarios], "packed_cache": True}
        given |= settings
        config = Config(model=model, dataset="tiny", config_dict=given)
        return config, create_dataset(config).build()[0]

    return make


@pytest.fixture
def make_model(make_dataset):
    """make_model(scenarios=3, model="HiNet", **settings) -> a model in training mode, all training rows.

    `model` is a name or a class.
    """

    def make(scenarios=3, model="HiNet", **settings):
        from recbole.utils import get_model

        config, train = make_dataset(scenarios, model if isinstance(model, str) else "HiNet", **settings)
        torch.manual_seed(1)
        made = (get_model(model) if isinstance(model, str) else model)(config, train)
        return made, train[torch.arange(len(train))]

    return make


@pytest.fixture
def register(monkeypatch):
    """`recbole_msr.register`, undone after the test."""
    before = set(registry.registered_models())
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield recbole_msr.register
    for name in set(registry.registered_models()) - before:
        sys.modules.pop(f"{registry.RECBOLE_PACKAGE}.{name.lower()}", None)
