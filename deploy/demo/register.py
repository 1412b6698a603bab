"""Register the public keys of a folder at a SuperLink: ``register.py FOLDER CONNECTION``."""

import subprocess
import sys
from pathlib import Path


def main(folder: Path, connection: str) -> None:
    """Register every ``*.pub`` in the folder; skip keys that are registered already."""
    keys = sorted(folder.glob("*.pub"))
    if not keys:
        sys.exit(f"{folder}: holds no public key; has the container 'setup' been run?")
    for key in keys:
        command = ["flwr", "supernode", "register", str(key), connection]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        said = (done.stdout + done.stderr).strip()
        known = "already in use" in said
        print(f"{key.name}: {'known already' if known else said}", flush=True)
        if done.returncode and not known:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
