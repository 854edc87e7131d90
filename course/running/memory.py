"""The most memory that a kernel held, cell by cell."""

import threading
import time

import psutil

EVERY_S = 0.02  # a peak shorter than this can be missed
CHILDREN_EVERY_S = 0.5  # listing all processes costs a thousand times more than reading one


class MemoryWatch:
    """Samples the resident memory of a process and its children until the process ends.

    Pages that parent and child share are counted in both: the sum is an upper bound for forked workers.
    """

    def __init__(self, pid: int):
        self._process = psutil.Process(pid)
        self._peak = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._run, name="memory of the kernel", daemon=True).start()

    def take(self) -> int:
        """Bytes: the peak since the last call; at least what is held now, however busy the machine is."""
        now = _resident_bytes(self._process)
        with self._lock:
            peak, self._peak = max(self._peak, now), 0
            return peak

    def _run(self) -> None:
        family, listed = [self._process], 0.0
        while self._process.is_running() and self._process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() - listed > CHILDREN_EVERY_S:
                family, listed = [self._process, *_children(self._process)], time.monotonic()
            total = sum(_resident_bytes(process) for process in family)
            with self._lock:
                self._peak = max(self._peak, total)
            time.sleep(EVERY_S)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:  # it ended meanwhile
        return []


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0
