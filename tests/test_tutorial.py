"""The commands of docs/tutorial.md do what it says, one after the other, in an empty folder."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from recbole_msr import cli

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
SHORTER = {"--timeout=1m": "--trials=3 --epochs=1 --final-seeds=1", "--output_dir": "--epochs=1 --output_dir"}
"""What makes the commands shorter than on the page."""


@pytest.mark.slow
def test_every_step_works(tmp_path, monkeypatch, capsys, no_pages):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    for kind, block in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        if kind == "python":
            exec(compile(block, "table.py", "exec"), {})
        elif kind == "yaml":
            Path(re.match(r"# (\S+)", block)[1]).write_text(block, encoding="utf-8")
        for line in block.splitlines() if kind == "sh" else ():
            for long, short in SHORTER.items():
                line = line.replace(long, short)
            words = shlex.split(line)
            if words[0] == "curl":
                answered(json.loads(words[words.index("-d") + 1]), Path("runs/first"))
            elif words[1] != "serve":
                if words[1] == "export":
                    pytest.importorskip("onnxruntime")
                run = {"run_recbole": cli.run_recbole, "recbole-msr": cli.main}[words[0]]
                assert run(words[1:]) == 0, capsys.readouterr().err
    lists = pd.read_csv("lists.csv")
    assert lists.groupby("user_id").size().to_dict() == {1: 10, 2: 10, 3: 10}
    assert json.loads(Path("runs/second/result.json").read_text())["rows"]["train"] == 16_000


def answered(body, folder):
    """Post a body to a server of the run: two lists of ten."""
    testclient = pytest.importorskip("fastapi.testclient")
    from recbole_msr.runs.serve import Server

    answer = testclient.TestClient(Server(folder, exported="exported").app).post("/recommend", json=body)
    assert [len(one) for one in answer.json()["lists"]] == [10, 10]
