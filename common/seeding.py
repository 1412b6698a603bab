"""Seeds that are derived from what they are used for, not from the order of calls."""

import hashlib


def derive_seed(*parts: str | int) -> int:
    """Return a 32-bit seed that is a function of ``parts`` alone.

    A site's training in round t is seeded by (run seed, site, t), so a resumed run, a run in
    simulation and one over gRPC draw the same numbers.
    """
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
