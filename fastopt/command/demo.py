"""`fastopt demo`: train a character-level network with every optimizer; print and plot the losses.

It needs the extra `cli`. The network and its training are in `examples/char_rnn.py`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from .. import optimizers
from ..definitions.specs import SPECS
from ..examples import char_rnn
from ..examples.char_rnn import SETTINGS, Corpus, Training, bits
from ..optimizers.base import Optimizer

MAIN = "RMSprop"
"""The optimizer that trains longest and generates the sample."""

SAMPLE_LENGTH = 500

LOSS_COLUMNS = ("loss", "bits per\ncharacter", "held-out\nloss", "held-out\nbits per\ncharacter")
STEP_COLUMN = "ms per\nstep"


@dataclass(frozen=True)
class Preset:
    """The amount of work."""

    n_hidden: int
    max_characters: int
    training: Training
    comparison_epochs: int


FULL = Preset(96, 600_000, Training(epochs=6), 1)
QUICK = Preset(48, 40_000, Training(2, sequence=16), 1)


@dataclass
class Run:
    """One training: the loss of each step, and the held-out loss after each epoch."""

    name: str
    network: char_rnn.CharacterNetwork
    optimizer: Optimizer
    losses: list[float] = field(default_factory=list)
    held_out_losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def steps_per_epoch(self) -> int:
        return len(self.losses) // len(self.held_out_losses)

    def table_cells(self, epoch: int) -> list[str]:
        """The loss and bits per character of an epoch, in training and held out."""
        trained = self.losses[epoch * self.steps_per_epoch : (epoch + 1) * self.steps_per_epoch]
        losses = (statistics.fmean(trained), self.held_out_losses[epoch])
        return [f"{each:.3f}" for loss in losses for each in (loss, bits(loss))]

    @property
    def step_cell(self) -> str:
        """The mean time of a training step, mostly the work of the network."""
        return f"{1e3 * self.seconds / len(self.losses):.2f}"


# --- what is printed --------------------------------------------------------------------------------------------------


NARROW = 72
"""Columns of a terminal in which a table of losses has room between its columns."""


def new_table(console: Console, title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    made.padding = (0, 1) if console.width >= NARROW else 0
    for number, column in enumerate(columns):  # a narrow terminal breaks titles and numbers, and no name
        made.add_column(column, justify="right" if number else "left", no_wrap=not number, overflow="fold")
    return made


def new_progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", style="cyan"),
        TimeRemainingColumn(),
    )


@contextlib.contextmanager
def shown(console: Console, *renderables: Table | Progress) -> Iterator[None]:
    """Update the display while it changes; if the output is not a terminal, print it once at the end."""
    with Live(Group(*renderables), console=console):
        yield
    if not console.is_terminal:
        console.line()


def print_introduction(console: Console, text_name: str, corpus: Corpus, preset: Preset, run: Run) -> None:
    grid = Table.grid(padding=(0, 2))
    counts = f"{len(corpus.training):,} characters to train on, {len(corpus.held_out):,} held out"
    grid.add_row("Text", f"{escape(text_name)}: {counts}, {len(corpus.characters):,} different ones")
    network = f"long short-term memory, {preset.n_hidden} cells, {run.network.flat.size:,} parameters"
    grid.add_row("Network", f"{network}; a step reads {preset.training.batch} x {preset.training.sequence} characters")
    baseline = f"{bits(corpus.unigram_loss()):.3f} bits per held-out character"
    grid.add_row("To beat", f"{baseline}, by knowing the frequency of each character and no more")
    console.print(grid, "", highlight=False)


def print_sample(console: Console, run: Run, corpus: Corpus, seed: int) -> None:
    written = run.network.generate(SAMPLE_LENGTH, int(corpus.training[0]), seed)
    text = "".join(corpus.characters[number] for number in written)
    printable = "".join(each if each.isprintable() or each == "\n" else " " for each in text)
    console.print(Panel(Text(printable), title=f"What the network writes after {run.name}", title_align="left"), "")


COLORS = [color for color in matplotlib.color_sequences["tab10"] if len({*color}) > 1]
"""The colours of optimizers, without grey, which is the baseline's."""

STYLES = [(color, style) for style in ("-", "--", ":") for color in COLORS]


def plot_losses(path: Path, runs: Mapping[str, Run], unigram_loss: float, text_name: str) -> None:
    figure_of_losses(runs, unigram_loss, text_name).savefig(path, dpi=110)


def figure_of_losses(runs: Mapping[str, Run], unigram_loss: float, text_name: str) -> Figure:
    """Draw training losses as lines, each point the mean of the steps around it, and held-out losses as dots.

    One panel has the whole training of the main optimizer, the first of `runs`; another the epochs that all have.
    """
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    title = textwrap.shorten(f"A character-level network learns {text_name}", 100, placeholder="...")
    figure.suptitle(title, x=0.01, horizontalalignment="left", parse_math=False)
    main, *others = runs.values()
    shared = max((len(run.losses) for run in others), default=len(main.losses))
    panels = [(f"{main.name}, the whole training", [main], len(main.losses)), ("All optimizers", runs.values(), shared)]
    lowest = unigram_loss
    first: Axes | None = None
    for number, (heading, drawn, end) in enumerate(panels):
        axes = figure.add_subplot(1, 2, number + 1, xlabel="training step", sharey=first)
        axes.axhline(bits(unigram_loss), color="gray", linestyle="-.", label="character frequencies alone")
        for run, (color, style) in zip(drawn, itertools.cycle(STYLES), strict=False):
            lowest = min(lowest, _draw(axes, run, end, color, style))
        axes.set_title(heading, loc="left", fontsize="medium")
        axes.set_xlim(0, end * 1.03)
        axes.grid(alpha=0.3)
        first = first or axes
    figure.axes[0].set_ylabel("bits per character")
    axes.set_ylim(bits(lowest) - 0.2, bits(unigram_loss) + 1)  # of both, which share it
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", title="lines: in training, dots: held out")
    return figure


def _draw(axes: Axes, run: Run, end: int, color: Any, style: str) -> float:
    """Draw the losses of a run up to a step; the lowest of them."""
    width = max(1, run.steps_per_epoch // 20)
    losses = run.losses[:end]
    smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    held_out = run.held_out_losses[: end // run.steps_per_epoch]
    epochs = len(held_out)
    label = f"{run.name}: {bits(held_out[-1]):.2f} held out, epoch {epochs}" if epochs else run.name
    steps = np.arange(smooth.size) + (width + 1) / 2
    axes.plot(steps, bits(1) * smooth, style, linewidth=2.2 if run.name == MAIN else 1.2, color=color, label=label)
    ends = run.steps_per_epoch * np.arange(1, epochs + 1)
    axes.plot(ends, [bits(loss) for loss in held_out], "o", color=color, markersize=5)
    return min(filter(math.isfinite, [*smooth, *held_out]), default=math.inf)


# --- training ---------------------------------------------------------------------------------------------------------


def start_run(name: str, corpus: Corpus, preset: Preset, seed: int) -> Run:
    """A new network, with the same weights for every optimizer, and an optimizer over it."""
    network = char_rnn.CharacterNetwork(len(corpus.characters), preset.n_hidden, seed)
    create = getattr(optimizers, name)
    optimizer = create(network.flat, grads=network.flat_gradients, **SETTINGS.get(name, {}))
    return Run(name, network, optimizer)


def train(run: Run, corpus: Corpus, training: Training, bar: Progress) -> Iterator[char_rnn.Progress]:
    """Train with a progress bar, keep the losses in `run`, and yield the progress at the end of each epoch."""
    n_steps = len(char_rnn.batches(corpus.training, training.batch, training.sequence)) * training.epochs
    task = bar.add_task(run.name, total=n_steps, state="")
    start = time.perf_counter()
    for progress in char_rnn.train(run.network, run.optimizer, corpus, training):
        run.losses.append(progress.loss)
        run.seconds = time.perf_counter() - start
        bar.update(task, advance=1, state=f"{bits(statistics.fmean(run.losses[-50:])):.2f} bits per character")
        if progress.held_out_loss is not None:
            run.held_out_losses.append(progress.held_out_loss)
            yield progress
    bar.remove_task(task)


def train_main(console: Console, run: Run, corpus: Corpus, training: Training) -> None:
    """Train with the main optimizer, with a rate that decays after each epoch."""
    title = f"{run.name}, its rate times {training.decay_rate:g} after each epoch"
    table, bar = new_table(console, title, "epoch", "rate", *LOSS_COLUMNS), new_progress_bar()
    with shown(console, table, bar):
        for progress in train(run, corpus, training, bar):
            table.add_row(str(progress.epoch + 1), f"{progress.learning_rate:.3g}", *run.table_cells(progress.epoch))


def train_others(console: Console, main: Run, corpus: Corpus, preset: Preset, seed: int) -> dict[str, Run]:
    """Train with the other optimizers, from the same weights; the table has the main one after as many epochs."""
    runs = {main.name: main}
    training = replace(preset.training, epochs=preset.comparison_epochs)
    epochs = min(training.epochs, preset.training.epochs)
    title = f"All optimizers, from the same weights, in epoch {epochs}"
    table, bar = new_table(console, title, "optimizer", "rate", *LOSS_COLUMNS, STEP_COLUMN), new_progress_bar()
    with shown(console, table, bar):
        for name in SPECS:
            if name not in runs:
                runs[name] = start_run(name, corpus, preset, seed)
                for _ in train(runs[name], corpus, training, bar):
                    pass
            table.add_row(
                name,
                f"{runs[name].optimizer.defaults['lr']:g}",
                *runs[name].table_cells(epochs - 1),
                runs[name].step_cell,
            )
    return runs


# --- all of it --------------------------------------------------------------------------------------------------------


def run_demo(
    text: tuple[str, str] | None,
    plot: Path,
    *,
    seed: int = 0,
    epochs: int | None = None,
    comparison_epochs: int | None = None,
    quick: bool = False,
) -> None:
    """Train with every optimizer, generate a sample, and plot the losses.

    Parameters
    ----------
    text: (str, str), optional
        A name and the text; default Python's documentation.
    plot: Path
        The file for the plot.

    Raises
    ------
    char_rnn.TextTooShortError
        The text does not fill one batch. Raised before anything else.
    """
    start, console = time.perf_counter(), Console()
    preset = QUICK if quick else FULL
    preset = replace(
        preset,
        training=replace(preset.training, epochs=epochs or preset.training.epochs),
        comparison_epochs=comparison_epochs or preset.comparison_epochs,
    )
    name, content = text or ("Python's documentation", char_rnn.python_documentation())
    if len(content) > preset.max_characters:
        name, content = f"{name}, its beginning", content[: preset.max_characters]
    corpus = Corpus.from_text(content)
    for part in (corpus.training, corpus.held_out):  # raises if it is too short
        char_rnn.batches(part, preset.training.batch, preset.training.sequence)
    with threadpool_limits(1, "blas"):  # with small matrices, more threads in NumPy's products are slower
        main = start_run(MAIN, corpus, preset, seed)
        print_introduction(console, name, corpus, preset, main)
        train_main(console, main, corpus, preset.training)
        print_sample(console, main, corpus, seed)
        runs = train_others(console, main, corpus, preset, seed)
    console.print(
        "`fastopt bench --quick` times the updates beside PyTorch's and others'.", "", style="dim", highlight=False
    )
    plot_losses(plot, runs, corpus.unigram_loss(), name)
    seconds = time.perf_counter() - start
    console.print(f"Losses plotted in {escape(str(plot))}; {seconds:.0f} seconds in all.", highlight=False)
