"""What a site keeps of a run between rounds, for methods that do not send everything.

The site keeps it in its cache folder, so that a SuperNode that is started again goes on where it
ended. Every run has a folder of its own, as several may go on at a time.
"""

import hashlib
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from common.config import RunConfig
from common.errors import UserError
from common.tensor_files import read_tensors, write_tensors

OWN = "own"
"""Kind: the site's adapter after its training; the number is the round."""
FOLDED = "folded"
"""Kind: what is folded into the base, dense; the number is that of the merges in it."""
KEPT = 2
"""How many numbers of a kind are kept: a run that is resumed may repeat its last round."""
FORGOTTEN_S = 30 * 24 * 3600.0
"""Age at which a run's folder is removed when another run begins."""


class Memory:
    """Tensors by kind and number, in the files of a folder; see :func:`memory_folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, kind: str, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors to disk; of their kind only this and the ``KEPT`` - 1 numbers before stay.

        Higher numbers are of rounds that a run which went back to an older checkpoint repeats.
        """
        self.begin()
        write_tensors(self._path(kind, number), tensors)
        held = self._held(kind)
        stay = [known for known in held if known <= number][:KEPT]
        for known in set(held) - set(stay):
            self._path(kind, known).unlink(missing_ok=True)

    def load(self, kind: str, number: int) -> dict[str, Tensor] | None:
        """Return the tensors of a kind and number; None where they are missing or broken."""
        try:
            return read_tensors(self._path(kind, number), "tensors of a run", sealed=True)[0]
        except UserError:
            return None

    def latest(self, kind: str, first: int, last: int) -> dict[str, Tensor] | None:
        """Return the tensors of the highest number in [``first``, ``last``], if there are any."""
        for number in self._held(kind):
            if first <= number <= last and (found := self.load(kind, number)) is not None:
                return found
        return None

    def begin(self) -> None:
        """Remove the folders of runs that ended long ago, before this run's own is made."""
        if self.folder.is_dir():
            return
        for folder in self.folder.parent.glob("*/"):
            with suppress(OSError):  # another process may have removed it
                if folder.stat().st_mtime < time.time() - FORGOTTEN_S:
                    shutil.rmtree(folder)

    def _held(self, kind: str) -> list[int]:
        """Return the numbers of a kind that there are files of, the highest first."""
        names = (path.stem.removeprefix(f"{kind}-") for path in self.folder.glob(f"{kind}-*"))
        known = {int(name) for name in names if name.isdecimal()}
        return sorted((n for n in known if self._path(kind, n).is_file()), reverse=True)

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:06d}.safetensors"


def memory_folder(config: RunConfig, run_id: str, site: str) -> Path:
    """Return the folder of one run and site, within the ``cache-dir`` of ``config``."""
    digest = hashlib.sha256(f"{run_id} {site}".encode()).hexdigest()[:16]
    return config.path(config.data.cache_dir) / "memory" / digest
