"""Each process has its share of the cores that it may use: by affinity, by quota, by what else runs."""

import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from pytorch_lightning import Callback

torch = pytest.importorskip("torch")
from recbole_msr import threads  # noqa: E402


def _groups(tmp_path, own, **files):
    """A folder of control groups, and the list of a process's own; the keys of `files` are paths with __ for /."""
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        path = tmp_path / "groups" / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "groups", tmp_path / "own"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu_max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu_max": "max 100000\n"}, float("inf")),
        ("0::/\n", {}, float("inf")),
        # the narrowest of a group and those above it
        ("0::/a/b\n", {"cpu_max": "max 100000", "a__cpu_max": "300000 100000", "a__b__cpu_max": "max 1"}, 3.0),
        ("0::/a/b\n", {"a__cpu_max": "800000 100000", "a__b__cpu_max": "50000 100000"}, 0.5),
        # in a container: the host's path, and the container's group mounted at the top
        ("0::/docker/f00\n", {"cpu_max": "200000 100000"}, 2.0),
        ("0::/../../other\n", {"cpu_max": "200000 100000"}, 2.0),
        # version 1: two files, -1 for no limit, and groups of other controllers that say nothing
        (
            "9:memory:/a\n4:cpu,cpuacct:/a\n",
            {"cpu,cpuacct__a__cpu_cfs_quota_us": "250000", "cpu,cpuacct__a__cpu_cfs_period_us": "100000"},
            2.5,
        ),
        ("4:cpu:/\n", {"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}, float("inf")),
        ("3:cpuset:/\n", {"cpuset__cpu_max": "100000 100000"}, float("inf")),
        ("0::/\n", {"cpu_max": "nonsense"}, float("inf")),
    ],
)
def test_quota_of_control_groups(tmp_path, own, files, expected):
    assert threads.quota(*_groups(tmp_path, own, **files)) == expected


def test_no_control_groups_no_limit(tmp_path):
    assert threads.quota(tmp_path / "no", tmp_path / "none") == float("inf")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
@pytest.mark.parametrize(
    ("allowed", "limit", "siblings", "expected"),
    [
        (range(8), "max 100000", None, 8),
        (range(8), "350000 100000", None, 3),
        (range(8), "50000 100000", None, 1),
        ((5,), "350000 100000", None, 1),
        (range(8), "max 100000", ["0,4", "1,5", "2,6", "3,7"] * 2, 4),
        ((0, 1, 4), "max 100000", ["0,4", "1,5", "2,6", "3,7"] * 2, 2),
    ],
)
def test_cores_are_those_of_affinity_and_quota_without_hyperthreads(
    tmp_path, monkeypatch, allowed, limit, siblings, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed))
    for number, line in enumerate(siblings or []):
        (tmp_path / f"cpu{number}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{number}" / "topology" / "thread_siblings_list").write_text(f"{line}\n")
    groups = _groups(tmp_path, "0::/\n", cpu_max=limit)
    assert threads.cores(*groups, cpus=tmp_path) == expected


@pytest.mark.parametrize(
    ("processes", "environment", "expected"),
    [(1, "", 8), (2, "", 4), (3, "", 2), (9, "", 1), (1, "2", 2), (8, "4", 1), (1, "0", 8), (1, "2,3", 8)],
)
def test_share_is_even_and_at_most_what_the_environment_allows(monkeypatch, processes, environment, expected):
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert threads.share(processes) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, 1), ({}, 1), ({"devices": 3}, 3), ({"devices": "3"}, 3), ({"devices": [0, 2]}, 2),
        ({"devices": "0,2,3"}, 3), ({"devices": "auto"}, 1), ({"devices": -1, "accelerator": "cpu"}, 1),
    ],
)  # fmt: skip
def test_processes_that_train_together(monkeypatch, options, expected):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert threads.local_processes(options) == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    assert threads.local_processes(options) == 5


@pytest.mark.parametrize("devices", [-1, "-1", "auto"])
@pytest.mark.parametrize("more", [{}, {"accelerator": "auto"}, {"accelerator": "gpu"}, {"accelerator": "cpu"}])
def test_all_gpus_of_a_machine_train_together_unless_the_processor_is_asked_for(monkeypatch, devices, more):
    """Else each of them would take itself for the first, and write into the same folder."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    for name in ("LOCAL_WORLD_SIZE", "RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    of_cpu = more == {"accelerator": "cpu"}
    assert threads.local_processes({"devices": devices} | more) == (1 if of_cpu else 4)
    assert threads.process_rank({"devices": devices} | more) == (0 if of_cpu else 3)


def _in_a_process(code, cpus=None, **environment):
    """The output of a program that may use `cpus` only and has no other limit of threads."""
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    code = textwrap.dedent(code)
    if cpus is not None:
        code = f"import os; os.sched_setaffinity(0, {cpus})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


needs_two = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="this process has one core"
)


@needs_two
def test_threads_are_set_and_put_back_for_torch_and_pyarrow():
    pytest.importorskip("pyarrow")
    told = _in_a_process(
        """
        import pyarrow, torch
        from recbole_msr.threads import torch_threads

        def now():
            print(torch.get_num_threads(), pyarrow.cpu_count())

        torch.set_num_threads(2)
        pyarrow.set_cpu_count(2)
        with torch_threads():
            now()
            with torch_threads(1):
                now()
                with torch_threads():  # no more than there are already
                    now()
                with torch_threads(2):
                    now()
            with torch_threads(processes=2):
                now()
                print(os.environ["OMP_NUM_THREADS"])
            now()
        try:
            with torch_threads(1):
                raise KeyError
        except KeyError:
            now()
        print("OMP_NUM_THREADS" in os.environ)
        """,
        cpus=sorted(os.sched_getaffinity(0))[:2],
    )
    assert told.split("\n")[:-1] == ["2 2", "1 1", "1 1", "2 2", "1 1", "1", "2 2", "2 2", "False"]


@needs_two
def test_one_allowed_core_leaves_one_thread():
    told = _in_a_process(
        """
        import torch
        from recbole_msr.threads import cores, share, torch_threads
        torch.set_num_threads(2)  # as PyTorch might that counts the machine's
        with torch_threads():
            print(cores(), share(), torch.get_num_threads())
        """,
        cpus=sorted(os.sched_getaffinity(0))[:1],
    )
    assert told == "1 1 1\n"


def test_more_threads_or_workers_than_cores_are_told(monkeypatch, caplog):
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    caplog.set_level(logging.INFO, logger="recbole_msr.threads")
    torch.set_num_threads(1)
    threads.log_threads()
    torch.set_num_threads(3)
    threads.log_threads()
    torch.set_num_threads(before)
    for workers, each in ((1, 2), (2, 1), (2, 2), (3, 1)):
        threads.log_worker_threads(workers, each)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "threads: 1 of 2 cores"),
        ("WARNING", "threads: 3 on 2 cores: that can be many times slower than 2"),
        ("INFO", "threads: 2 of 2 cores"),
        ("INFO", "2 workers share 2 cores, 1 thread each"),
        ("WARNING", "2 workers share 2 cores, 2 threads each: that can be many times slower than --threads=1"),
        ("WARNING", "3 workers share 2 cores, 1 thread each: they take turns, and are not faster than --workers=2"),
    ]


_TINY = {
    "load_col": {
        "inter": ["user_id", "item_id", "rating", "timestamp"],
        "user": ["user_id", "age", "gender"],
        "item": ["item_id", "price"],
    },
    "tasks": {"click": {"field": "rating", "at_least": 4}},
    "scenario": {"field": "age", "bins": [30], "names": ["young", "old"]},
    "use_gpu": False,
    "epochs": 1,
    "train_batch_size": 256,
    "show_progress": False,
    "bottom_hidden_sizes": [8],
    "tower_hidden_sizes": [],
}


@pytest.mark.slow
@needs_two
def test_a_run_takes_its_share_and_tells_it(tiny_data, tmp_path):
    runs = [(2, {}), (1, {}), (2, {"threads": 1}), (1, {"threads": 2})]
    told = _in_a_process(
        f"""
        import pytorch_lightning, torch, recbole_msr
        torch.set_num_threads(2)

        class Look(pytorch_lightning.Callback):
            def on_train_start(self, *_):
                print("threads", torch.get_num_threads(), end=" ")

        for number, (cores, changes) in enumerate({runs}):
            os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))}[:cores])
            config = {_TINY | {"data_path": str(tiny_data)}} | changes | {{"output_dir": f"{tmp_path}/{{number}}"}}
            recbole_msr.run("SharedBottom", "tiny", config=config, callbacks=[Look()])
            print(torch.get_num_threads())
        """,
        cpus=sorted(os.sched_getaffinity(0))[:2],
    )
    assert [line for line in told.splitlines() if "threads" in line] == [
        f"threads {inside} 2" for inside in (2, 1, 1, 2)
    ]
    logs = [(tmp_path / str(number) / "run.log").read_text() for number in range(4)]
    assert [log.count("threads: ") for log in logs] == [1] * 4
    for log, line in zip(
        logs,
        (
            "INFO threads: 2 of 2 cores",
            "INFO threads: 1 of 1 core",
            "INFO threads: 1 of 2 cores",
            "WARNING threads: 2 on 1 core: that can be many times slower than 1",
        ),
        strict=True,
    ):
        assert line in log


@pytest.mark.slow
@needs_two
def test_recboles_own_trainer_keeps_pytorchs_choice(tiny_data, tmp_path):
    config = {key: _TINY[key] for key in ("load_col", "use_gpu", "epochs", "train_batch_size", "show_progress")}
    config |= {"data_path": str(tiny_data), "output_dir": str(tmp_path / "out"), "threshold": {"rating": 4}}
    config |= {"train_neg_sample_args": None, "metrics": ["AUC"], "valid_metric": "AUC"}
    config |= {"eval_args": {"mode": "labeled"}}
    told = _in_a_process(
        f"""
        import torch, recbole_msr
        from recbole.model.context_aware_recommender.fm import FM

        before, calculate_loss = torch.get_num_threads(), FM.calculate_loss

        def looked(self, interaction):
            print("threads", before == torch.get_num_threads() == 2)
            return calculate_loss(self, interaction)

        FM.calculate_loss = looked
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[:1]})
        recbole_msr.run("FM", "tiny", config={config})
        """,
        cpus=sorted(os.sched_getaffinity(0))[:2],
        OMP_NUM_THREADS="2",
    )
    seen = [line for line in told.splitlines() if line.startswith("threads")]
    assert set(seen) == {"threads True"}
    assert "WARNING threads: 2 on 1 core" in (tmp_path / "out" / "run.log").read_text()


@pytest.mark.slow
@needs_two
def test_two_processes_of_one_run_share_the_cores_and_the_knowledge_that_the_first_one_builds(tiny_data, tmp_path):
    script = tmp_path / "train.py"  # Lightning starts the second process by running the same script again
    config = _TINY | {"data_path": str(tiny_data), "output_dir": str(tmp_path / "out")}
    config |= {"lightning": {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}}
    config |= {"knowledge": "random/full", "knowledge_dir": str(tmp_path / "stores"), "knowledge_features": ["user"]}
    script.write_text(
        textwrap.dedent(f"""
        import os, pathlib
        import pytorch_lightning, torch, recbole_msr

        class Look(pytorch_lightning.Callback):
            def on_train_start(self, trainer, _):
                pathlib.Path("{tmp_path}", f"rank-{{trainer.global_rank}}").write_text(str(torch.get_num_threads()))

        recbole_msr.run("SharedBottom", "tiny", config={config}, callbacks=[Look()])
        """)
    )
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
    start = f"import os, runpy; os.sched_setaffinity(0, [{cpus}]); runpy.run_path({str(script)!r}, run_name='__main__')"
    script.with_name("start.py").write_text(start)
    clean = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "start.py"], cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"rank-{rank}").read_text() for rank in range(2)] == ["1", "1"]
    assert "threads: 1 of 2 cores" in (tmp_path / "out" / "run.log").read_text()
    assert [store.name for store in (tmp_path / "stores").iterdir()] == ["tiny-random-full"]
    assert done.stderr.count("Encoded") + done.stdout.count("Encoded") <= 1


@pytest.mark.slow
@needs_two
def test_two_workers_of_a_search_have_one_thread_each(tiny_data, tmp_path):
    pytest.importorskip("optuna")
    config = {key: value for key, value in _TINY.items() if key not in ("bottom_hidden_sizes", "show_progress")}
    told = _in_a_process(
        f"""
        import torch
        from recbole_msr import search

        if __name__ == "__main__":
            found = search(
                "SharedBottom", "tiny", 3, config={config | {"data_path": str(tiny_data)}!r},
                space={{"model": "SharedBottom", "search": {{"bottom_hidden_sizes": [[4], [8], [16]]}}}},
                output={str(tmp_path / "out")!r}, workers=2, final_seeds=1, wandb="disabled", progress=False,
                first="off", ensemble="off",
            )
            trials = [trial for trial in found.study.trials if trial.state.name == "COMPLETE"]
            print([trial.user_attrs["threads"] for trial in trials], found.best_config["threads"])
        """,
        cpus=sorted(os.sched_getaffinity(0))[:2],
    )
    assert told.splitlines()[-1] == "[1, 1, 1] 1"
    logs = {path.stem: path.read_text() for path in Path(tmp_path, "out", "workers").glob("*.log")}
    assert {name.split("-")[0] for name in logs} == {"worker", "final"}
    assert all("threads: 1 of 2 cores" in log for log in logs.values())


def _is_flushed(n=10):
    """Whether products that are denormal numbers are 0; by their bits, as a comparison may flush as well."""
    product = torch.full((n,), 1e-38) * torch.full((n,), 0.1)
    return [bool(part) for part in (product.view(torch.int32) == 0).view(10, -1).all(dim=1)]


def test_denormal_numbers_are_flushed_within_the_outermost_of_nested_blocks_alone():
    with threads.flushing_denormals():
        with threads.flushing_denormals():
            assert all(_is_flushed())
        assert all(_is_flushed())
    assert not any(_is_flushed())


def test_all_threads_of_a_training_flush_them():
    script = """
        from tests.test_threads import _is_flushed, threads
        with threads.torch_threads(2, trains=True), threads.flushing_denormals():
            assert all(_is_flushed(2_000_000)), "PyTorch shares the elements among its threads"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, cwd=Path(__file__).parents[1])


def test_a_training_flushes_them_and_what_follows_does_not(tiny_data, tmp_path):
    import recbole_msr

    found = []

    class Look(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            found.append(all(_is_flushed()))

    tasks = {"click": {"field": "rating", "at_least": 4}}
    given = {"data_path": str(tiny_data), "tasks": tasks, "epochs": 1, "threads": 1, "show_progress": False}
    recbole_msr.run("SharedBottom", "tiny", config={**given, "output_dir": str(tmp_path / "run")}, callbacks=[Look()])
    assert found == [True]
    assert not any(_is_flushed())
