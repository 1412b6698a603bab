"""What a site keeps of a run between rounds, for methods in which not everything is sent.

It stays at the site, in its cache folder, so that a SuperNode that starts again goes on where it
was. Every run has a folder of its own, as several may be alive at a time.
"""

import hashlib
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.config import RunConfig
from common.tensor_files import write_tensors

OWN = "own"
"""The site's adapter after its training of a round."""
FOLDED = "folded"
"""What is folded into its base after so many merges, dense."""
KEPT = 2
"""How many of a kind are kept: a run that is resumed may repeat its last round."""
FORGOTTEN_S = 30 * 24 * 3600.0
"""A run's folder that was not written to for so long goes when another run begins."""


class Memory:
    """Tensors by kind and number, on disk.

    Parameters
    ----------
    folder
        Where this site keeps what belongs to this run; see :func:`memory_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, kind: str, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors, and the ``KEPT`` latest of the kind."""
        if not self.folder.is_dir():
            self._prune()
        write_tensors(self._path(kind, number), tensors)
        for path in sorted(self.folder.glob(f"{kind}-*.safetensors"))[:-KEPT]:
            path.unlink()

    def load(self, kind: str, number: int) -> dict[str, Tensor] | None:
        """Return what was saved under a number; None where it is missing or broken."""
        try:
            return load_file(self._path(kind, number))
        except (OSError, SafetensorError):
            return None

    def latest(self, kind: str, first: int, last: int) -> dict[str, Tensor] | None:
        """Return what was saved last under a number from ``first`` to ``last``, if anything."""
        for path in sorted(self.folder.glob(f"{kind}-*.safetensors"), reverse=True):
            number = int(path.stem.rpartition("-")[2])
            if first <= number <= last and (found := self.load(kind, number)) is not None:
                return found
        return None

    def _prune(self) -> None:
        """Remove the folders of runs that ended long ago."""
        for folder in self.folder.parent.glob("*/"):
            with suppress(OSError):  # another process may have removed it
                if folder.stat().st_mtime < time.time() - FORGOTTEN_S:
                    shutil.rmtree(folder)

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:06d}.safetensors"


def memory_folder(config: RunConfig, run_id: str, site: str) -> Path:
    """Return where a site keeps what belongs to a run.

    Parameters
    ----------
    config
        The run's configuration with the site's own ``cache-dir`` in it.
    run_id
        Tells the run from every other.
    site
        Name of the site.
    """
    digest = hashlib.sha256(f"{run_id} {site}".encode()).hexdigest()[:16]
    return config.path(config.data.cache_dir) / "memory" / digest
