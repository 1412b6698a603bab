"""Runs a command that must not outlive whoever started it.

``python -m results.compare.leash LOCK COMMAND…`` holds its standard input open for reading. Whoever
started it holds the other end, so the operating system closes it when that process ends in
whatever way, kill -9 included. Then the whole process group goes: without this a federation that
nobody waits for would write into the folder of the one that takes its place. That one waits for
the lock, since on a busy machine an end takes seconds.
"""

import os
import signal
import subprocess
import sys
import threading

from filelock import FileLock


def main(lock: str, command: list[str]) -> int:
    """Run the command as soon as nobody else holds the lock, and return its status."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    with FileLock(lock):
        return abs(subprocess.call(command, stdin=subprocess.DEVNULL))  # noqa: S603


def _end_with_starter() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
