"""How a round's cost grows: with clients, with samples a client, with threads; and where its time goes."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity, profile

from metaleaf.bench.compare import interleaved, stopwatch, warm_up
from metaleaf.bench.contenders import Metaleaf
from metaleaf.bench.rates import workloads
from metaleaf.bench.rows import Settings
from metaleaf.bench.workloads import Workload
from metaleaf.files.whole_files import write_atomically
from metaleaf.report.figures.style import DOUBLE, as_files, looks

CLIENTS = {"cnn": (1, 2, 5, 10, 20, 50), "logistic": (1, 3, 10, 30, 100, 300, 1000)}
SAMPLES = {"cnn": (20, 50, 100, 200, 500), "logistic": (20, 50, 100, 200, 500, 1000)}
LABELS = {"clients": "clients a round", "samples": "samples a client (mean)", "threads": "threads"}
BASE = {"cnn": "fedavg-cnn-10", "logistic": "fedavg-logistic"}
OPERATORS = 10
"""Operators that a profile lists."""
WAITING = {"_Product", "_ProductBackward"}
"""Operators whose own time clients spend on waiting for one another (`metaleaf.engine.lockstep`)."""


def measure(settings: Settings) -> pd.DataFrame:
    """Rows of (sweep, model, clients, samples, threads, engine, samples_per_s, low, high); FedAvg."""
    rows = []
    for sweep, work, threads in _points(settings):
        torch.set_num_threads(threads)
        ours = Metaleaf(work, settings.device)
        times = interleaved({"": stopwatch(ours, settings.device)}, settings.repeats)[""]
        rates = work.sizes().sum() / pd.Series(times)
        facts = (sweep, work.model, work.clients, work.mean, threads, ours.engine.mode)
        rows.append((*facts, rates.median(), rates.min(), rates.max()))
    torch.set_num_threads(settings.threads)
    columns = ["sweep", "model", "clients", "samples", "threads", "engine", "samples_per_s", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _points(settings: Settings) -> Iterator[tuple[str, Workload, int]]:
    known = workloads(replace(settings, device="cpu"))
    for model, name in BASE.items():
        work, few = known[name], 2 if settings.quick else None
        for clients in CLIENTS[model][:few]:
            yield "clients", replace(work, clients=clients), settings.threads
        for samples in SAMPLES[model][:few]:
            yield "samples", replace(work, mean=samples), settings.threads
        threads = 1
        while threads <= settings.threads:
            yield "threads", work, threads
            threads *= 2


def operators(settings: Settings) -> pd.DataFrame:
    """Where a round's time goes: the operators with the largest shares of the processor's time, on one thread."""
    torch.set_num_threads(1)
    rows: list[tuple[Any, ...]] = []
    known = workloads(replace(settings, device="cpu"))
    for name in (*BASE.values(), "fedavg-lstm", "maml-cnn-4"):
        ours = Metaleaf(known[name])
        warm_up(stopwatch(ours))
        every = _ExperimentalConfig(profile_all_threads=True)  # clients have threads of their own
        with profile(activities=[ProfilerActivity.CPU], experimental_config=every) as found:
            ours()
        events = [event for event in found.key_averages() if event.key not in WAITING]
        events.sort(key=lambda event: -event.self_cpu_time_total)
        total = sum(event.self_cpu_time_total for event in events)
        rows += [(name, e.key, e.count, e.self_cpu_time_total / total) for e in events[:OPERATORS]]
    torch.set_num_threads(settings.threads)
    return pd.DataFrame(rows, columns=["work", "operator", "calls", "share"])


def draw(frame: pd.DataFrame) -> Figure:
    """Samples a second against each of the sweeps."""
    figure = Figure(figsize=(DOUBLE, 2.2), layout="constrained")
    look = looks(sorted(BASE))
    for axes, (sweep, label) in zip(figure.subplots(1, 3, sharey=True), LABELS.items(), strict=True):
        for model, points in frame[frame["sweep"] == sweep].groupby("model"):
            style = look[str(model)]
            x = points[sweep]
            axes.plot(x, points["samples_per_s"], color=style.colour, marker=style.marker, label=str(model))
            axes.fill_between(x, points["low"], points["high"], color=style.colour, alpha=0.15, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel=label)
        for axis in (axes.xaxis, axes.yaxis):  # the usual labels of a logarithmic axis are formulas
            axis.set_major_formatter(EngFormatter(sep=""))
            axis.set_minor_formatter(NullFormatter())
        if sweep == "threads":
            axes.set_xticks(sorted(set(frame["threads"])))
    figure.axes[0].set_ylabel("samples a second")
    figure.axes[0].legend()
    return figure


def write(settings: Settings, folder: Path) -> list[Path]:
    """Measure, and write scaling.csv, profile.csv and the figure scaling.{png,svg,pdf}."""
    frame, profiles = measure(settings), operators(settings)
    contents = {"scaling.csv": frame.to_csv(index=False).encode(), "profile.csv": profiles.to_csv(index=False).encode()}
    for kind, data in as_files({"scaling": lambda: draw(frame)})["scaling"].items():
        contents[f"scaling.{kind}"] = data
    for name, data in contents.items():
        write_atomically(folder / name, partial(Path.write_bytes, data=data))
    return [folder / name for name in contents]
