"""A cache of prepared volumes that outlives a killed process."""

import hashlib
import json
from typing import Any

from monai.data import PersistentDataset


class VolumeCache(PersistentDataset):  # type: ignore[misc]
    """MONAI's dataset kept on disk, which by itself cannot get past a half-written file.

    MONAI moves its files into place; between file systems that is a copy, and what is killed
    half-way leaves half a file. Such a file is computed anew.
    """

    def _cachecheck(self, item: dict[str, Any]) -> Any:
        try:
            return super()._cachecheck(item)
        except (RuntimeError, EOFError, OSError):  # what torch says of a broken file
            if self.cache_dir is None:
                raise
            file = self.cache_dir / f"{self.hash_func(item).decode()}.pt"
            if not file.is_file():  # it is the item itself that cannot be prepared
                raise
            file.unlink()
            return super()._cachecheck(item)


def item_hash(item: object) -> bytes:
    """Return the name of an item's file: a hash of its JSON."""
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest().encode()
