"""What a site keeps of a run between rounds, for methods in which not everything is sent.

It stays at the site, in its cache folder, so that a SuperNode that starts again goes on where it
was. A new run clears what an earlier one of the same configuration left.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from common.config import RunConfig
from common.files import write_text
from common.tensor_files import write_tensors

OWN = "own"
"""The site's adapter after its training of a round."""
FOLDED = "folded"
"""What is folded into its base after so many merges, dense."""
KEPT = 2
"""How many of a kind are kept: a run that is resumed may repeat its last round."""
NOT_THE_RUN = frozenset(("resume", "rounds", "sites", "min-sites", "wait-s", "round-timeout-s"))
"""Keys that a resumed run may have otherwise."""


class Memory:
    """Tensors by kind and number, on disk.

    Parameters
    ----------
    folder
        Of this site and run; see :func:`memory_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, kind: str, number: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors, and the ``KEPT`` latest of the kind."""
        write_tensors(self._path(kind, number), tensors)
        for path in sorted(self.folder.glob(f"{kind}-*.safetensors"))[:-KEPT]:
            path.unlink()

    def load(self, kind: str, number: int) -> dict[str, Tensor] | None:
        """Return what was saved under a number; None where it is missing or broken."""
        try:
            return load_file(self._path(kind, number))
        except (OSError, SafetensorError):
            return None

    def latest(self, kind: str, before: int) -> dict[str, Tensor] | None:
        """Return what was saved last under a number below ``before``."""
        names = sorted(self.folder.glob(f"{kind}-*.safetensors"), reverse=True)
        numbers = (int(path.stem.rpartition("-")[2]) for path in names)
        return next((self.load(kind, number) for number in numbers if number < before), None)

    def begin(self, run: int) -> None:
        """Forget what another run left; within a run a site may be asked who it is again.

        Parameters
        ----------
        run
            Flower's number of the run.
        """
        marker = self.folder / "run"
        if not marker.is_file() or marker.read_text("utf-8") != str(run):
            self.clear()
            write_text(marker, str(run))

    def clear(self) -> None:
        """Forget everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, kind: str, number: int) -> Path:
        return self.folder / f"{kind}-{number:06d}.safetensors"


def memory_folder(config: RunConfig, site: str) -> Path:
    """Return where a site keeps what belongs to a run.

    Parameters
    ----------
    config
        As it came from the server, with the site's own ``cache-dir`` in it.
    site
        Name of the site.
    """
    keys = {key: value for key, value in config.to_flat().items() if key not in NOT_THE_RUN}
    content = json.dumps([site, keys], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return config.path(config.data.cache_dir) / "memory" / digest
