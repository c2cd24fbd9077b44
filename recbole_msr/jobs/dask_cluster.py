"""Workers of a search on a Dask cluster: started on every Dask worker, watched, started again when they were killed.

`distributed` moves work between machines; the study's storage decides who trains what, as between processes.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recbole_msr.errors import InputError, one_line
from recbole_msr.jobs.dask_worker import Order, run_order
from recbole_msr.jobs.processes import Crew, PatientUpdate, Restarts

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5
_POLL_SECONDS = 0.5
_FILES = ("sqlite", "journal:")
"""How addresses of storages begin that are files of one machine."""


@contextlib.contextmanager
def dask_client(address: str | None) -> Iterator[Any]:
    """Connect to the scheduler of a Dask cluster; None without an address.

    Args:
        address: tcp://HOST:PORT, HOST:PORT, or the path of a scheduler file (.json).

    Raises:
        InputError: `distributed` is not installed, or no scheduler answers there.
    """
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(f"--dask takes the package distributed ({error}): pip install 'recbole-msr[dask]'") from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is told here
    where: dict[str, Any] = {"address": address}
    if address.endswith(".json"):
        if not Path(address).is_file():
            raise InputError(f"--dask={address}: there is no such scheduler file (dask scheduler --scheduler-file)")
        where = {"scheduler_file": address}
    try:
        client = Client(**where, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise InputError(
            f"--dask={address}: no Dask scheduler answers ({one_line(error) or type(error).__name__}); start one by "
            "'dask scheduler', and give the address that it prints"
        ) from error
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            client.close(timeout=_CONNECT_SECONDS)


class _Orders:
    """The worker processes that run on a cluster, one on each Dask worker.

    Args:
        client: a connected `distributed.Client`.
        most: largest number of them; None for one on every Dask worker.
        make: returns the order for a process that starts now.
    """

    def __init__(self, client: Any, most: int | None, make: Callable[[], Order]) -> None:
        self._client, self._most, self._make = client, most, make
        self.running: dict[str, Any] = {}
        self.begun: set[str] = set()

    def look(self) -> list[str]:
        """Return the addresses of the Dask workers that are there, and forget the processes on those that are gone.

        Raises:
            InputError: the scheduler is gone.
        """
        try:
            there = list(self._client.nthreads())
        except (OSError, TimeoutError, RuntimeError, ValueError) as error:
            raise InputError(
                "the Dask scheduler does not answer any more: nothing that ended is lost, and the same command goes on"
            ) from error
        for address in [one for one in self.running if one not in there]:
            logger.warning("the Dask worker %s is gone; its trial is tried again elsewhere", address)
            self.take_back(address)
        return there

    def fill(self, there: list[str], left_out: set[str]) -> list[str]:
        """Start a process on every Dask worker that has none, up to the largest number; returns these workers."""
        free = [address for address in there if address not in self.running and address not in left_out]
        if self._most is not None:
            free = free[: max(0, self._most - len(self.running))]
        for address in free:
            self.running[address] = self._client.submit(
                run_order, self._make(), workers=[address], allow_other_workers=False, pure=False, retries=0
            )
        return free

    def ended(self) -> Iterator[tuple[str, int, str]]:
        """Give the processes that have ended: the Dask worker's address, exit code and last error.

        Raises:
            InputError: a Dask worker cannot run this package.
        """
        for address, future in list(self.running.items()):
            if future.status == "finished":
                code, error = future.result(timeout=_CONNECT_SECONDS)
                del self.running[address]
                yield address, code, error
            elif future.status == "error":
                failure = future.exception(timeout=_CONNECT_SECONDS)
                del self.running[address]
                if type(failure).__name__ != "KilledWorker":  # which `look` tells of
                    told = f"{type(failure).__name__}: {one_line(failure)}"
                    raise InputError(
                        f"the Dask worker {address} cannot run recbole-msr ({told}): install the same version there"
                    )
            elif future.status in ("cancelled", "lost"):
                del self.running[address]

    def take_back(self, address: str) -> None:
        """Take an order back: its process gives its trial back and ends."""
        future = self.running.pop(address)
        with contextlib.suppress(Exception):  # the scheduler may be gone
            self._client.cancel([future], force=True)

    def stop(self) -> None:
        """Take all orders back."""
        for address in list(self.running):
            self.take_back(address)


def run_on_cluster(
    crew: Crew,
    client: Any,
    module: str,
    settings_file: str,
    update: Callable[[], None],
    *,
    most: int | None = None,
    storage: str | None = None,
    deadline: float | None = None,
    count_ended: Callable[[], int] = lambda: 0,
) -> None:
    """Run workers on the Dask workers of a cluster, those that join later too, until one of them finds nothing to do.

    Args:
        crew: the search, which has written its settings into its folder.
        client: a connected `distributed.Client`.
        module: the module that a worker runs.
        settings_file: the file of the settings, below the folder.
        update: called again and again, to show the progress.
        most: largest number of workers; None for one on every Dask worker.
        storage: address of the study's storage; None for a file in the folder.
        deadline: `time.monotonic()` after which no trial begins.
        count_ended: returns the number of trials that have ended; a worker that ends early has failed again only if
            the number has not grown meanwhile.

    Raises:
        InputError: a worker was stopped by one, was killed again and again, or the scheduler is gone.
    """
    folder = crew.folder.resolve()

    def make() -> Order:
        return Order(
            module=module,
            folder=str(folder),
            settings_file=settings_file,
            settings=(folder / settings_file).read_text(encoding="utf-8"),
            seconds=None if deadline is None else deadline - time.monotonic(),
            threads=int(crew.config["threads"]),
            host=socket.gethostname(),
            only_there=storage is None or storage.startswith(_FILES),
            chooses_gpu="gpu_id" not in crew.config,
        )

    orders, restarts = _Orders(client, most, make), Restarts(count_ended)
    numbers: dict[str, int] = {}
    done: set[str] = set()
    show = PatientUpdate(update)
    waits = False
    try:
        while orders.running or not done:
            if deadline is not None and time.monotonic() > deadline and not orders.running:
                return
            there = orders.look()
            for address in [] if done else orders.fill(there, done):
                numbers.setdefault(address, len(numbers))
                restarts.note_start(address)
            if not there and not waits:
                logger.warning("there is no Dask worker: waiting for one to join")
            waits = not there
            time.sleep(_POLL_SECONDS)
            show()
            for address, code, error in orders.ended():
                if code == 0:
                    done.add(address)
                else:
                    restarts.wait_before(address, numbers[address], code, error)
    finally:
        orders.stop()
