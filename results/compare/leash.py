"""Runs a command that must not outlive the process that started it.

``python -m results.compare.leash LOCK COMMAND…`` reads its standard input, a pipe whose other end
the starter holds. However the starter ends, by kill -9 too, the operating system closes the pipe,
and the leash kills its whole process group. Otherwise an abandoned federation would go on writing
into the folder of the run that takes its place. That run waits for the lock, since on a busy
machine the killed processes need seconds to end.
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
