"""Workers of the confirmation when the command's time is up."""

import time

from recbole_msr.tuning import final_workers as module
from recbole_msr.tuning.final_workers import Group, run_finals

from .test_trials import open_


class Processes:
    """Processes that end when they are interrupted; the second one by itself, at the third look."""

    def __init__(self, *_):
        self.running, self.interrupted, self.looks = {}, [], 0

    def start(self, name, index, words):
        self.running[name] = words

    def interrupt(self, name):
        self.interrupted.append(name)

    def wait(self):
        self.looks += 1
        ended = dict.fromkeys(self.interrupted, -2) | ({"final-1": 0} if self.looks == 3 else {})
        return {name: code for name, code in ended.items() if self.running.pop(name, None) is not None}

    def stop(self):
        pass


def test_workers_that_have_trained_no_epoch_are_interrupted_when_the_time_is_up(tmp_path, monkeypatch):
    processes = Processes()
    monkeypatch.setattr(module, "WorkerProcesses", lambda *_: processes)
    _, settings, _ = open_(tmp_path, workers=2)
    groups = [Group(0, (2,), False, 5.0), Group(1, (2,), False, 5.0)]
    failed = run_finals(
        settings,
        groups,
        over=lambda run: run == (1, 2) and processes.looks >= 3,
        begun=lambda run: run == (1, 2),
        ended=lambda _: None,
        deadline=time.monotonic() - 1,
    )
    assert processes.interrupted == ["final-0"], "the other one ends after its epoch"
    assert failed == {}, "nothing is tried again, and nothing has failed: there was no time"
