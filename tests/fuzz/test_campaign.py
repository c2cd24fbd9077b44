import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_case_is_refused_in_one_line_or_runs_to_its_result():
    """64 cases beside those that every campaign has; `python -m tests.fuzz --case FAMILY/SEED/NUMBER` shows one."""
    command = [sys.executable, "-m", "tests.fuzz", "--cases=64", "--seed=1"]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
