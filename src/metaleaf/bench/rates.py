"""Rounds of a workload by metaleaf and by its baselines, interleaved."""

from contextlib import ExitStack
from dataclasses import replace
from statistics import median

from metaleaf.bench.compare import Contender, interleaved, ratio, stopwatch
from metaleaf.bench.contenders import Loop, Metaleaf
from metaleaf.bench.limit import Limit
from metaleaf.bench.pfl import Pfl
from metaleaf.bench.rows import Row, Settings
from metaleaf.bench.workloads import CPU, CUDA, Goal, Workload, quick


def workloads(settings: Settings) -> dict[str, Workload]:
    """The device's workloads by name."""
    found = CPU if settings.device == "cpu" else CUDA
    return {work.name: quick(work) if settings.quick else work for work in found}


def rates(work: Workload, settings: Settings, limit: Limit) -> list[Row]:
    """A row for each baseline: the plain loop, and pfl if its Python is given and the work is FedAvg's with SGD."""
    ours = Metaleaf(work, settings.device)
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {
            "metaleaf": stopwatch(ours, settings.device),
            "loop": stopwatch(Loop(work, settings.device), settings.device),
            "limit": stopwatch(limit, settings.device),
        }
        if settings.pfl and work.is_fedavg and settings.device == "cpu":
            contenders["pfl"] = stack.enter_context(Pfl(settings.pfl, work, settings.threads))
        seconds = interleaved(contenders, settings.repeats)
    samples, flops = int(work.sizes().sum()), work.flops(ours.cohort)
    peak = limit.flops / median(seconds.pop("limit"))
    share = flops / median(seconds["metaleaf"]) / peak
    speed = {name: samples / median(times) for name, times in seconds.items()}
    goals = {goal.against: goal for goal in work.goals}
    row = Row(
        work.name,
        "samples/s",
        speed["metaleaf"],
        share=share,
        limit=peak / 1e9,
        engine=ours.engine.mode,
        seconds=seconds,
    )

    def against(name: str) -> Row:
        goal = goals.get(name, Goal(name, (0, 0)))
        found = ratio(seconds[name], seconds["metaleaf"])
        wanted = goal.ratio if name in goals else None
        return replace(row, against=name, theirs=speed[name], ratio=found, goal=wanted, share_goal=goal.share)

    return [against(name) for name in seconds if name != "metaleaf"]
