"""Runs of Weights & Biases, read back with wandb's own reader."""

import json
import subprocess
from pathlib import Path


class Run:
    """A run's file as wandb's own reader (`wandb leet inspect`) shows it."""

    def __init__(self, folder):
        from wandb.util import get_core_path

        (file,) = Path(folder).glob("*.wandb")
        options = ["--no-observability", "--json", "--run-file", str(file.resolve()), str(file.resolve().parents[1])]
        command = [get_core_path(), "leet", "inspect", *options]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        self.records = [json.loads(line) for line in shown.splitlines()]
        self.about = next(iter(self.all("run")), {"config": {"update": {}}})  # none was written if wandb was killed
        self.config = {k: v for k, v in self.about["config"]["update"].items() if not k.startswith("_")}
        self.history = [item["item"] for item in self.all("history")]
        self.summary = {key: value for part in self.all("summary") for key, value in part.get("update", {}).items()}
        self.exit_codes = [part.get("exit_code", 0) for part in self.all("exit")]
        self.folder = Path(folder)

    def all(self, kind):
        return [record[kind] for record in self.records if record["type"] == kind]

    def curve(self, key):
        return {row["_step"]: row[key] for row in self.history if key in row}

    def table(self, name):
        return json.loads((self.folder / "files" / self.summary[f"{name}.path"]).read_text(encoding="utf-8"))


def runs(folder):
    """All runs in a folder, but for those that were killed before their file was begun."""
    return [Run(file.parent) for file in sorted(Path(folder).glob("offline-run-*/*.wandb"))]
