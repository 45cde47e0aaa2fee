"""One root seed, split by purpose, so that two algorithms see the same clients, cohorts and batches."""

import hashlib


def derive(root: int, *purpose: str | int) -> int:
    """A seed in [0, 2**62) for a purpose, e.g. ``derive(1, "cohort", 17)``; independent for different purposes."""
    text = "/".join(str(part) for part in (root, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2
