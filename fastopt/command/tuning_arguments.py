"""The arguments of `fastopt diagnose`, `fastopt range-test` and `fastopt sweep`, with their help."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..definitions.specs import SPECS
from ..tuning.plans import MAX_LR, MIN_LR, MODES, POINTS
from ..tuning.sources import BUNDLED
from ..tuning.suggestions import SUGGESTIONS
from .arguments import natural_number, positive_integer, positive_number, setting

PROBLEM_HELP = "a bundled problem, or module:function of your own"

OWN_CODE = """\
your own code:
  PROBLEM is module:function: my_training:train is the function train in the file my_training.py
  of the current directory, or in a package that is installed.
"""

TRAINING_OF_EPOCHS = """\
  A function that takes lr trains by itself. It yields metrics after each epoch, or returns the
  metrics of all epochs, as Keras' model.fit does. It may also take epochs and optimizer:

      def train(lr, seed):
          ...
          for epoch in range(10):
              ...
              yield {"loss": 0.3, "val_loss": 0.4}
"""

TRAINING = """\
  A function that takes lr trains by itself. It returns the final loss, a dict of metrics, or the
  metrics of each epoch. It may also take epochs and optimizer:

      def train(lr, seed):
          ...
          return {"loss": 0.3, "val_loss": 0.4}
"""

PROBLEM_CODE = """\
  {begin} makes a problem, and fastopt runs the training loop:

      class Line:
          epochs = 10

          def __init__(self, seed):
              self.x = np.random.default_rng(seed).normal(size=(50, 32))
              self.params = {{"slope": np.zeros(1)}}

          def batches(self, epoch):
              return self.x

          def loss_and_gradients(self, x):
              error = (self.params["slope"] - 3) * x
              return np.mean(error**2), {{"slope": np.mean(2 * error * x, keepdims=True)}}
"""


FILES = """\
files:
  The same command again uses the same folder. Other settings get a folder of their own,
  {output}-2 and so on, so that no result is lost. In a folder that you name with --output,
  the results of other settings are an error, unless you give --overwrite.
"""


def plot_path(value: str) -> Path:
    from ..tuning.plots import check_path

    try:
        return check_path(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# --- arguments --------------------------------------------------------------------------------------------------------

SEED_HELP = "for weights and batches (%(default)s)"


def _add_shared(parser: argparse.ArgumentParser, output: str, own_code: str, examples: str) -> None:
    listed = "".join(f"  {name:<12}{summary}\n" for name, summary in BUNDLED.items())
    files = FILES.format(output=output)
    parser.epilog = f"bundled problems:\n{listed}\n{OWN_CODE}\n{own_code}\nexamples:\n{examples}\n{files}"
    parser.add_argument(
        "problem", nargs="?", default="digits-mlp", metavar="PROBLEM", help=f"{PROBLEM_HELP} (%(default)s)"
    )
    parser.add_argument("--optimizer", metavar="NAME", help=f"one of {', '.join(SPECS)} (Adam)")
    parser.add_argument(
        "--set", action="append", type=setting, default=[], metavar="NAME=VALUE", dest="settings",
        help="a hyperparameter or option of the optimizer, such as betas=0.9,0.99; can be repeated",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"folder for files ({output}; see the end)")
    parser.add_argument("--overwrite", action="store_true", help="replace what another run left in the folder")
    parser.add_argument("--plot", type=plot_path, metavar="FILE", help="the plot: PNG, SVG or PDF (in DIR, a PNG)")
    parser.add_argument("--quick", action="store_true", help="a smaller run of a few seconds")


def add_diagnose_arguments(parser: argparse.ArgumentParser) -> None:
    examples = (
        "  fastopt diagnose --lr 1e-3        # too high, too low, oscillating, premature, diverged or good?\n"
        "  fastopt diagnose digits --optimizer SGD --set momentum=0.9 --lr 0.1 --epochs 20\n"
        "  fastopt diagnose my_training:train --lr 3e-4 --plot curves.svg\n"
    )
    own_code = TRAINING_OF_EPOCHS + "\n" + PROBLEM_CODE.format(begin="A function or class that does not take lr")
    _add_shared(parser, "fastopt-diagnose", own_code, examples)
    parser.add_argument(
        "--lr",
        type=positive_number,
        metavar="RATE",
        help="the rate of each step (the optimizer's default)",
    )
    parser.add_argument("--epochs", type=positive_integer, metavar="N", help="at least 3 (the problem's own)")
    parser.add_argument("--seed", type=natural_number, default=0, metavar="N", help=SEED_HELP)


def add_range_test_arguments(parser: argparse.ArgumentParser) -> None:
    examples = (
        "  fastopt range-test\n"
        "  fastopt range-test char-rnn --optimizer RMSprop --set alpha=0.95 --points 200\n"
        "  fastopt range-test my_training:make_problem --min-lr 1e-6 --max-lr 1 --method minimum\n"
    )
    own_code = PROBLEM_CODE.format(begin="The function, or class,")
    _add_shared(parser, "fastopt-range-test", own_code, examples)
    parser.add_argument("--min-lr", type=positive_number, default=1e-7, metavar="RATE", help="first rate (%(default)s)")
    parser.add_argument("--max-lr", type=positive_number, default=10.0, metavar="RATE", help="last rate (%(default)s)")
    parser.add_argument("--points", type=positive_integer, metavar="N", help="number of steps (100; --quick: 40)")
    parser.add_argument(
        "--method", choices=SUGGESTIONS, default="steepest", metavar="NAME",
        help=f"method of suggestion, {' or '.join(SUGGESTIONS)} (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=natural_number, default=0, metavar="N", help=SEED_HELP)


def add_sweep_arguments(parser: argparse.ArgumentParser) -> None:
    examples = (
        "  fastopt sweep\n"
        "  fastopt sweep digits --optimizer SGD --set momentum=0.9 --min-lr 1e-3 --max-lr 10\n"
        "  fastopt sweep my_training:train --seeds 5 --metric val_accuracy --workers 4 --refine 5\n\n"
        "To continue an interrupted sweep, give the same command again. A sweep with more points, seeds or wider\n"
        "bounds reuses the finished runs. When your code or data changed, give --overwrite.\n"
    )
    own_code = TRAINING + "\n" + PROBLEM_CODE.format(begin="A function or class that does not take lr")
    _add_shared(parser, "fastopt-sweep", own_code, examples)
    parser.add_argument(
        "--min-lr", type=positive_number, default=MIN_LR, metavar="RATE", help="lowest rate (%(default)s)"
    )
    parser.add_argument(
        "--max-lr", type=positive_number, default=MAX_LR, metavar="RATE", help="highest rate (%(default)s)"
    )
    parser.add_argument("--points", type=positive_integer, metavar="N", help=f"number of rates ({POINTS}; --quick: 6)")
    parser.add_argument("--seeds", type=positive_integer, metavar="N", help="runs at each rate (3; --quick: 1)")
    parser.add_argument("--epochs", type=positive_integer, metavar="N", help="(the problem's own)")
    parser.add_argument("--metric", metavar="NAME", help="metric to compare rates by (val_loss, or else loss)")
    parser.add_argument("--mode", choices=MODES, default="auto", help="whether lower or higher is better (auto)")
    parser.add_argument(
        "--workers", type=natural_number, metavar="N", help="number of processes; 0: only this one (one per core)"
    )
    parser.add_argument(
        "--refine", type=natural_number, default=0, metavar="N", help="further rates around the best one (0)"
    )
