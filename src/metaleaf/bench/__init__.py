"""Speed: the same work by metaleaf, by a plain PyTorch loop and by a peer, interleaved (``metaleaf bench``).

`workloads` says what a round computes, `contenders` runs it with metaleaf or with the loops of `loops`, `pfl` with
Apple's pfl-research in its own Python; `compare` times them in turn, beside what the hardware could do (`limit`).
`footprint` has what is not a rate: start-up, memory, loading, and the cost of a growing federation. `check` compares
the engines' numbers, `scaling` draws how cost grows, `report` makes the table.
"""
