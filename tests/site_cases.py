"""Results folders to make leaderboards of: an honest one, and one in which every text of a record is an attack."""

import json
from pathlib import Path
from typing import Any

import fake_environments
import fake_records
import pandas as pd

ATTACK = '"><script>pwned=1</script><img src=x onerror=pwned=1>'
IN_A_NAME = "'\"><img src=x onerror=pwned=1>"
"""A folder's name has no slash."""
HIDDEN = "‮</pre></script><script>pwned=1</script><!-- ]]> javascript:pwned=1"
"""Also turns the direction of text."""


def honest(results: Path) -> Path:
    """Three algorithms on two datasets, and three in new environments, two seeds each."""
    suite = results / "small"
    fake_records.write_suite(suite, ["femnist", "sent140"], ["fedavg", "maml", "local"], seeds=2, clients=20)
    for seed in (1, 2):
        for label, before in (("few_round", 0.6), ("fedavg", 0.5), ("learned_start", 0.7)):
            score = fake_environments.level(before, before + 0.05)
            fake_environments.write_record(results / "entered", label, seed, score)
    return results


def malicious(results: Path) -> Path:
    """The same attack wherever a record may hold text; one of them diverged."""
    config = {
        "dataset": {"name": IN_A_NAME, "options": {HIDDEN: HIDDEN}},
        "model": ATTACK,
        "algorithm": {"name": ATTACK, "hyperparameters": {HIDDEN: [HIDDEN, ATTACK]}},
        "protocol": {"rounds": ATTACK},
    }
    made_by: dict[str, Any] = {
        "git": {"revision": HIDDEN, "dirty": ATTACK},
        "device": {HIDDEN: ATTACK},
        "versions": {ATTACK: HIDDEN},
        "timing": {"started": f"javascript:{ATTACK}"},
    }
    texts = {"config": config, "title": ATTACK, "dataset": IN_A_NAME, "algorithm": IN_A_NAME, "config_hash": IN_A_NAME}
    for seed, status in enumerate(("finished", "diverged")):
        changes: dict[str, Any] = texts | made_by | {"tuning": {"chosen": {ATTACK: HIDDEN}, "trials": HIDDEN}}
        if status == "diverged":
            changes |= {"status": status, "reason": HIDDEN, "scores": {}}
        suite = results / IN_A_NAME
        path = change(fake_records.write_record(suite, "femnist", "maml", seed, clients=12), **changes)
        clients = pd.read_csv(path.with_suffix(".clients.csv"))
        clients["client"] = clients["client"] + ATTACK
        clients.assign(environment=HIDDEN).to_csv(path.with_suffix(".clients.csv"), index=False)
        move(path, suite / IN_A_NAME / IN_A_NAME / IN_A_NAME)
    score = fake_environments.level(0.5, 0.6)
    path = fake_environments.write_record(results / "entered", IN_A_NAME, 1, score, plugin=ATTACK)
    change(path, dataset=IN_A_NAME, title=ATTACK, config_hash=IN_A_NAME, **made_by)
    move(path, results / "entered" / IN_A_NAME / IN_A_NAME / IN_A_NAME)
    return results


def move(record: Path, folder: Path) -> Path:
    """Move a record and its tables into another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in record.parent.glob(f"{record.stem}.*"):
        path.rename(folder / path.name)
    return folder / record.name


def change(path: Path, **changes: Any) -> Path:
    """Overwrite keys of a record."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path
