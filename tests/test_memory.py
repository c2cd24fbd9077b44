"""Freed memory stays with the process, and large tensors lie in large pages."""

import os
import subprocess
import sys
import textwrap

import pytest

from recbole_msr import memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its pages")

FAULTS = """
    import resource, sys
    import torch
    from recbole_msr.memory import retain_freed_memory, trim_memory
    torch.set_num_threads(1)

    def faults(megabytes=20, times=20):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            together = [torch.empty(megabytes << 20, dtype=torch.uint8).fill_(1) for _ in range(6)]
            del together
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

    torch.empty(1)
    trim_memory()
    kept = retain_freed_memory()
    faults(times=1)
    found, held = faults(), resident()
    trim_memory()
    print(int(kept), found, held - resident())
"""


def _run(script, **environment):
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "THP_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env={**own, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_freed_memory_is_used_again_without_asking_the_system():
    kept, faults, returned = _run(FAULTS, THP_MEM_ALLOC_ENABLE="0")
    if not kept:
        pytest.skip("another C library than glibc")
    assert faults < 3 * 6 * 5120, "20 MiB are 5,120 pages; not kept, they are asked for 20 times"
    assert returned >= 100, "trim_memory returns what is not used"


@pytest.mark.parametrize(
    ("pages", "expected"), [("always [madvise] never", "1"), ("always madvise [never]", None), (None, None)]
)
def test_large_pages_are_asked_for_where_there_are_any(tmp_path, monkeypatch, pages, expected):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "")  # noted, and put back
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    monkeypatch.setattr(memory, "_PAGES", tmp_path / "enabled")
    if pages is not None:
        (tmp_path / "enabled").write_text(pages + "\n")
    memory.use_huge_pages()
    assert os.environ.get("THP_MEM_ALLOC_ENABLE") == expected
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    memory.use_huge_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


def test_a_user_who_has_set_malloc_is_left_alone():
    kept, *_ = _run(FAULTS, MALLOC_ARENA_MAX="2")
    assert not kept


@pytest.mark.skipif(
    not memory._PAGES.exists() or "[never]" in memory._PAGES.read_text(),
    reason="this system has no transparent huge pages",
)
@pytest.mark.parametrize(("environment", "huge"), [({}, True), ({"RECBOLE_MSR_NO_SPEEDUPS": "1"}, False)])
def test_large_tensors_ask_for_large_pages(environment, huge):
    script = """
        import recbole_msr, torch
        table = torch.ones(64 << 18)
        asked = at = False
        for line in open("/proc/self/smaps"):
            first = line.split()[0]
            if not first.endswith(":"):
                low, high = (int(part, 16) for part in first.split("-"))
                at = low <= table.data_ptr() + (8 << 20) < high
            elif at and first == "VmFlags:":
                asked |= "hg" in line.split()
        print(int(asked))
    """
    assert _run(script, **environment) == [int(huge)]
