"""Run a command, and end it some time after the process that wants it is gone: orphan_guard.py SECONDS COMMAND...

That process holds the other end of this one's standard input, which closes however it ends. A script of its own, so
that it needs neither this package nor wandb in memory.
"""

import contextlib
import os
import subprocess
import sys
import threading


def main() -> int:
    """Run the command that the arguments give, and return its exit code."""
    seconds, command = float(sys.argv[1]), sys.argv[2:]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def watch() -> None:
        while os.read(0, 1024):
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
            return
        child.kill()

    threading.Thread(target=watch, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main())
