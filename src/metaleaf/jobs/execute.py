"""Run the cells of a suite, in this process or in several; what is finished stays, whatever happens."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

from metaleaf.config.config import RunConfig
from metaleaf.config.sources import REMEDY, Choice, Making, differing, of_run
from metaleaf.data.prepare import load
from metaleaf.engine.engine import Mode
from metaleaf.errors import ConfigError, StaleError, UserError, of_system, unknown
from metaleaf.metrics import ACCURACY, Metric
from metaleaf.runs.rounding import AS_EVER, Rounding
from metaleaf.runs.run import OnRound, Run
from metaleaf.runs.store import Cell, write_json
from metaleaf.terminal.display import Display
from metaleaf.terminal.interrupts import never_dropped


@dataclass(frozen=True)
class Settings:
    """How to compute, which does not decide the numbers (beyond rounding)."""

    root: Path
    mode: Mode = "auto"
    device: str = "cpu"
    workers: int = 1
    threads: int | None = None
    raw: Path | None = None
    save: bool = False
    """Keep the trained models beside the records (`metaleaf.runs.saved`)."""
    stale: Choice = "refuse"
    """What becomes of what other code has made."""
    rounding: Rounding = AS_EVER

    def checked(self) -> "Settings":
        """The same; ConfigError for what this machine cannot do."""
        for what, value, known in ("engine", self.mode, get_args(Mode)), ("stale", self.stale, get_args(Choice)):
            if value not in known:
                raise unknown(what, str(value), known)
        if self.device != "cpu" and not self.device.startswith("cuda"):
            raise ConfigError(f"device {self.device}: choose cpu or cuda.")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {self.device}: this machine has no CUDA device; use cpu.")
        if self.workers < 1 or (self.threads is not None and self.threads < 1):
            raise ConfigError(f"workers and threads must be at least 1, got {self.workers} and {self.threads}.")
        return self

    def threads_per_worker(self) -> int:
        """Threads of each process: as given, or the machine's shared out."""
        return self.threads or max(1, torch.get_num_threads() // self.workers)


class Outcome(NamedTuple):
    """How a job ended, in a few words; `note`: what it has in common with others, to be counted at the end."""

    text: str
    note: str | None = None


UNKNOWN = "that do not say what code made them"
SEARCHED = "whose search was made by other code"
KEPT = "kept though made by other code or from other data"

Job = Callable[[Settings, RunConfig, OnRound], Outcome]
"""Does one cell's work and says in a few words how it ended; importable by name, so that workers can run it."""


def runner(config: RunConfig) -> type[Run]:
    """What runs a configuration: that of its track."""
    # Only here: those of environments import pandas, which takes half a second.
    if config.protocol.environments and config.protection:
        from metaleaf.environments.protected import ProtectedEnvironmentRun

        return ProtectedEnvironmentRun
    if config.protocol.environments:
        from metaleaf.environments.run import EnvironmentRun

        return EnvironmentRun
    if config.protection:
        from metaleaf.runs.protected import ProtectedRun

        return ProtectedRun
    return Run


def compute(settings: Settings, config: RunConfig, on_round: OnRound) -> Outcome:
    """The job of a suite: one run, unless its record exists or another process is at it."""
    cell, kind = Cell(settings.root, config), runner(config)
    store = load(config.dataset, config.build_dataset(), raw=settings.raw, stale=settings.stale)
    now = Making(store.about["data_hash"], of_run(config, kind.__module__, store.about))
    if finished := _finished(cell, config, now, settings):
        cell.tidy()
        return finished
    with cell.claimed() as mine:
        if not mine:
            return Outcome("left to the process that is computing it")
        if finished := _finished(cell, config, now, settings):
            return finished
        note = _of_its_search(config, now, settings.stale)
        mode, device, rounding = settings.mode, settings.device, settings.rounding
        run = kind(config, store, mode=mode, device=device, rounding=rounding, stale=settings.stale)
        record = run.execute(cell, on_round, save=settings.save)
    return Outcome(_in_words(record, config), note)


def _finished(cell: Cell, config: RunConfig, now: Making, settings: Settings) -> Outcome | None:
    """What is said of a record that is taken for finished, under the title, at the place and of the search of now.

    None if there is none, or it is to be made again; StaleError if it is of another making, or lacks the model that is
    to be saved, and nobody has chosen.
    """
    if not cell.done():
        return None
    record = cell.record()
    unlike = now.unlike(record["data"]["data_hash"], record.get("sources")) or now.unreadable()
    lacks = "without its model beside it" if settings.save and not cell.has_model(record) else ""
    differs = " and ".join(filter(None, [unlike, lacks]))
    if differs and settings.stale == "refuse":
        raise StaleError(f"the record {cell.record_path} was made {differs}: {REMEDY}")
    if differs and settings.stale == "again":
        return None
    as_now = {"title": config.title, "tuning": config.tuning} | ({"place": config.place} if "place" in record else {})
    if {**record, **as_now} != record:
        write_json(cell.record_path, {**record, **as_now})
    if differs:
        return Outcome(f"kept, though made {differs}", KEPT if unlike else None)
    return Outcome("already finished", None if record.get("sources") else UNKNOWN)


def _of_its_search(config: RunConfig, now: Making, stale: Choice) -> str | None:
    """What is to be said of the trials that chose a run's hyper-parameters; StaleError as for a record."""
    if not (parts := differing((config.tuning or {}).get("sources") or {}, now.sources)):
        return None
    if stale == "refuse":
        raise StaleError(
            f"its hyper-parameters were searched by other code than what is here ({', '.join(parts)}): search again "
            f"with `metaleaf tune {config.suite} --again`, or add --keep to take them as they are."
        )
    return SEARCHED


def _in_words(record: Mapping[str, Any], config: RunConfig) -> str:
    if record["status"] == "diverged":
        return f"diverged ({record['reason']})"
    scores, metric = record["scores"]["selected"], Metric(**record["metrics"][0])
    named = "" if metric == ACCURACY else f"{metric.name} "
    if config.protocol.environments:
        found = ", ".join(f"{metric.text(scores[r]['before']['pooled'])} after {r}" for r in scores)
        return f"new environments {named}{found} rounds"
    sides = scores[str(config.protocol.test_supports[0])]
    before, after, constant = (metric.text(sides[side]["pooled"]) for side in ("before", "after", "majority"))
    found = f"test {named}{before} before, {after} after adaptation"
    if "participants" in record:
        found += f"; participants {metric.text(record['participants']['selected']['after']['pooled'])}"
    if metric.better(sides["majority"]["pooled"], sides["after"]["pooled"]):
        found += f"; worse than a constant answer ({constant})"
    return found


def named(configs: Sequence[RunConfig]) -> list[tuple[str, RunConfig]]:
    """The runs with the names that a display has for them."""
    return [(f"{c.dataset_label} {c.algorithm_label} seed {c.seed}", c) for c in configs]


def run_all(jobs: Sequence[tuple[str, RunConfig]], job: Job, settings: Settings, display: Display) -> None:
    """Do every named job and show how each ended. One that fails does not stop the others; then UserError is raised.

    What the system refuses to one it refuses to the next: that ends them all, at once.
    """
    failures: list[str] = []
    first: Exception | None = None
    notes: Counter[str] = Counter()
    run = _in_processes if settings.workers > 1 else _here
    with closing(run(jobs, job, settings, display)) as outcomes:
        for name, outcome in outcomes:
            if isinstance(outcome, OSError):
                raise of_system(outcome) from outcome
            if isinstance(outcome, Outcome):
                display.done(name, outcome.text)
                notes.update([outcome.note] if outcome.note else [])
                continue
            if not isinstance(outcome, UserError):
                display.say("".join(traceback.format_exception(outcome)).rstrip())
            first = first or outcome
            failures.append(f"{name} failed: {outcome or type(outcome).__name__}")
            display.done(name, f"failed: {outcome}")
    for note, count in notes.items():
        display.say(f"{display.what} {note}: {count}")
    if failures:
        others = f" ({len(failures) - 1} more failed; the others are kept)" if len(failures) > 1 else ""
        raise UserError(f"{failures[0]}{others}") from first


Outcomes = Generator[tuple[str, Outcome | Exception]]


def _here(jobs: Sequence[tuple[str, RunConfig]], job: Job, settings: Settings, display: Display) -> Outcomes:
    torch.set_num_threads(settings.threads_per_worker())
    for name, config in jobs:

        def report(number: int, rounds: int, row: dict[str, float], name: str = name) -> None:
            display.round(name, number, rounds, row)

        try:
            outcome: Outcome | Exception = job(settings, config, report)
        except Exception as error:  # a plugin may fail in any way; the other jobs go on
            outcome = error
        yield name, outcome


def _in_processes(jobs: Sequence[tuple[str, RunConfig]], job: Job, settings: Settings, display: Display) -> Outcomes:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    pool = ProcessPoolExecutor(settings.workers, context, _start_worker, (settings, queue))
    with _listening(queue, display):
        try:
            futures: dict[Future[Outcome], str] = {
                pool.submit(_in_worker, job, settings, name, config): name for name, config in jobs
            }
            for future in as_completed(futures):
                try:
                    outcome: Outcome | Exception = future.result()
                except BrokenProcessPool:
                    raise UserError(
                        "a worker process was killed (out of memory?) or could not start (a script needs "
                        "`if __name__ == '__main__':`); finished runs are kept: start again with fewer workers."
                    ) from None
                except Exception as error:  # a plugin may fail in any way; the other jobs go on
                    outcome = error
                yield futures[future], outcome
        except BaseException:
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


class _Worker:
    """What a worker process knows of itself."""

    rounds: Any = None
    """The queue that takes its rounds to the process that shows them."""
    busy = False
    stopping = False


def _start_worker(settings: Settings, queue: Any) -> None:
    _Worker.rounds = queue
    queue.cancel_join_thread()  # rounds that nobody shows any more must not keep an interrupted worker alive
    torch.set_num_threads(settings.threads_per_worker())
    # Ctrl-C in a terminal and its end reach every process; only the parent acts, and passes it on once, as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    _die_with_parent()


def _stop(number: int, frame: Any) -> None:
    """Interrupt the run under way, which then saves a checkpoint; start no other."""
    first, _Worker.stopping = not _Worker.stopping, True
    if first and _Worker.busy:
        raise KeyboardInterrupt


def _stop_again(interrupt: KeyboardInterrupt) -> None:
    _Worker.stopping = False
    os.kill(os.getpid(), signal.SIGTERM)


def _die_with_parent() -> None:
    """Workers of a killed process would otherwise go on through the whole queue, unseen."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_worker(job: Job, settings: Settings, name: str, config: RunConfig) -> Outcome:
    if _Worker.stopping:
        raise KeyboardInterrupt
    _Worker.busy = True
    try:
        with never_dropped(_stop_again):
            return job(settings, config, lambda number, rounds, row: _Worker.rounds.put((name, number, rounds, row)))
    finally:
        _Worker.busy = False


@contextmanager
def _listening(queue: Any, display: Display) -> Iterator[None]:
    """Show the rounds that workers put into the queue."""

    def listen() -> None:
        for message in iter(queue.get, None):
            display.round(*message)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        queue.put(None)
        thread.join()
