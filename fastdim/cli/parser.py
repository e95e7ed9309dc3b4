"""The options of every command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from fastdim.backends import faiss_index
from fastdim.errors import InputError
from fastdim.plan_scale import CARDS
from fastdim.query_error import query_count
from fastdim.sweeps.definition import installed_version
from fastdim.sweeps.filters import FILTERS
from fastdim.sweeps.options import FORMATS, Defaults
from fastdim.sweeps.plan import BYTES
from fastdim.track import ENGINES

EXIT_CODES = """\
exit codes:
  0    everything was computed
  1    finished, but some rows of the table have status "failed" (their reason is in the table)
  2    wrong usage or input: option, text, model, file, or a missing optional package
  3    on disk: a folder locked, of another run or of none, a damaged file, no space left
  4    another process of a run on several ended, cannot be reached, or differs
  70   internal error (a bug; --debug shows the traceback)
  130  interrupted; the same command goes on where it stopped
"""


class Parser(argparse.ArgumentParser):
    """argparse's parser with errors in one line, as those of the rest of the program."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"fastdim: error: {message}; see `{self.prog} --help`\n")


def _checked(
    read: Callable[[str], float], check: Callable[[float], bool], rule: str
) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = read(text)
        except ValueError:
            number = float("nan")
        if not check(number):
            raise argparse.ArgumentTypeError(f"must be {rule}, got {text!r}")
        return number

    return parse


# "20000", "20_000" and "20,000" are the same count.
count = _checked(
    lambda text: int(text.replace(",", "").replace("_", "")),
    lambda number: number >= 1,
    "a whole number of at least 1",
)


def queries(text: str) -> float:
    """A count, or as many query rows as the wanted relative error takes, as in "1%"."""
    if "%" not in text:
        return count(text)
    try:
        return query_count(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


factor = _checked(float, lambda number: 1 < number < float("inf"), "a number above 1")
share = _checked(float, lambda number: 0 <= number <= 1, "a share from 0 to 1")
_amount = _checked(float, lambda number: 0 <= number < float("inf"), "a number of at least 0")
_positive = _checked(float, lambda number: 0 < number < float("inf"), "a number above 0")
probability = _checked(float, lambda number: 0 < number < 1, "a number between 0 and 1")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(
        prog="fastdim",
        description="Intrinsic dimension, anisotropy and cosine statistics of the layers of a"
        " neural network, from exact neighbour distances.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=installed_version("fastdim"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    _add_sweep(command("sweep", "measure every layer of one or more models"))
    _add_profile(command("profile", "measure activations that were written elsewhere"))
    _add_track(command("track", "measure checkpoints of one training on the same tokens"))
    _add_attention(command("attention", "measure every attention head of a model"))
    _add_causes(command("causes", "say how much of each layer's numbers is whose work"))
    _add_plan(command("plan", "say what a sweep takes on many GPUs (operations, bytes, time)"))
    _add_report(command("report", "rebuild table, report and plot from saved runs (no torch)"))
    ls = command("ls", "list the runs in folders (no torch)")
    ls.add_argument("folders", nargs="*", default=["."], metavar="DIR")
    doctor = command("doctor", "say what this machine can run, and what to install")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_sweep(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="hub name, local folder, .gguf file, or package:NAME (a model inside an installed"
        " Python package)",
    )
    sub.add_argument("--model", dest="model", nargs="+", metavar="MODEL", help="the same")
    sub.add_argument("--config", metavar="FILE.yaml", help=_CONFIG)
    sub.add_argument("--revision", help="branch, tag or commit of a hub model")
    _add_texts(sub)
    sub.add_argument("--output", metavar="DIR", help="folder of the run; started again, it goes on")
    _add_model(sub)
    _add_sample(sub)
    _add_analysis(sub)
    _add_search(sub)
    _add_output(sub)
    sub.add_argument(
        "--keep-activations",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the hidden states on disk after the analysis",
    )
    sub.add_argument(
        "--dry-run", action="store_true", help="load the model, print the plan, compute nothing"
    )
    sub.add_argument(
        "--rank-timeout",
        type=_positive,
        default=1800.0,
        metavar="SECONDS",
        help="under torchrun: the longest that a process waits for another; " + _DEFAULT,
    )


_CONFIG = "options from a file; unknown keys fail"


def _add_texts(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--texts",
        metavar="TEXTS",
        help="file, folder of .txt/.md, .jsonl, - (standard input), or docstrings (of the Python"
        " standard library)",
    )
    sub.add_argument("--text-field", default="text", help="key of the text in a .jsonl file")


def _add_model(sub: argparse.ArgumentParser) -> None:
    model = sub.add_argument_group("model")
    model.add_argument("--dtype", help="float32, float16 or bfloat16 (default: the model's own)")
    model.add_argument("--device", default=Defaults.device, help="default: %(default)s")
    model.add_argument("--batch-size", type=count, default=Defaults.batch_size, help=_DEFAULT)
    model.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="let the model's repository run its own Python code (off unless asked for)",
    )


def _add_tokens(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--max-tokens", type=count, default=Defaults.max_tokens, help=_DEFAULT)
    group.add_argument(
        "--context", type=count, default=Defaults.context, help="tokens a document; " + _DEFAULT
    )
    group.add_argument(
        "--pack",
        action=argparse.BooleanOptionalAction,
        default=Defaults.pack,
        help="documents are packed contexts of consecutive text; --no-pack: one text a document",
    )


def _add_sample(sub: argparse.ArgumentParser) -> None:
    sample = sub.add_argument_group("sample")
    _add_tokens(sample)
    sample.add_argument(
        "--tokens-per-document", type=count, help="keep at most this many of each document's tokens"
    )
    sample.add_argument(
        "--layers",
        default=Defaults.layers,
        help='"all", or numbers in the order of the forward pass, 0 = the embedding, 1 = the output'
        ' of block 0 and so on ("0,5,10-20"); also "embedding", "blocks", "final_norm"',
    )
    sample.add_argument(
        "--store-dtype", help="float16 or bfloat16 on disk (default: as the model computes)"
    )


_DEFAULT = "default: %(default)s"


def _add_analysis(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("analysis")
    group.add_argument(
        "--filter",
        dest="filters",
        nargs="+",
        metavar="NAME",
        help=f"token filters, from: {', '.join(FILTERS)} (default: all that apply)",
    )
    group.add_argument(
        "--outlier-factor",
        type=factor,
        default=Defaults.outlier_factor,
        help="no_outliers leaves out rows with a norm over this many medians; " + _DEFAULT,
    )
    group.add_argument("--queries", type=queries, default=Defaults.queries, help=_QUERIES)
    group.add_argument("--pairs", type=count, default=Defaults.pairs, help=_PAIRS)
    group.add_argument("--exact", action="store_true", help="every row a query, every pair")
    _add_interval(group)


def _add_search(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("search of neighbours")
    group.add_argument(
        "--backend",
        choices=("cpu", *faiss_index.BACKENDS),
        help="cpu: exact (default); faiss: approximate, audited on rows searched exactly",
    )
    group.add_argument(
        "--index", choices=faiss_index.KINDS, help="of faiss; default: flat, or ivf from 10^6 rows"
    )
    group.add_argument(
        "--target-recall",
        type=share,
        metavar="R",
        help="tune nprobe, efSearch or search_L of faiss until this share of neighbours is found",
    )


def _add_interval(group: argparse._ActionsContainer) -> None:
    group.add_argument("--confidence", type=probability, default=0.95, help=_DEFAULT)
    group.add_argument("--seed", type=int, default=0, help=_DEFAULT)


_QUERIES = (
    "rows sampled as queries, each against all rows, or the error of TwoNN that is wanted, as in"
    " 1%%; " + _DEFAULT
)
_PAIRS = "pairs sampled for the distribution of the cosine; " + _DEFAULT


def _add_output(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("running")
    _add_threads(group)
    group.add_argument(
        "--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="files to write"
    )
    _add_quiet(group)


def _add_threads(group: argparse._ActionsContainer) -> None:
    group.add_argument("--threads", type=count, help="default: FASTDIM_NUM_THREADS or all cores")


def _add_quiet(group: argparse._ActionsContainer) -> None:
    group.add_argument("-q", "--quiet", action="store_true", help="print errors only")


def _add_profile(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help=".npy, .npz, .safetensors, or the folder of shards that a sweep wrote; each matrix"
        " (rows, columns) is one layer",
    )
    sub.add_argument("--config", metavar="FILE.yaml", help=_CONFIG)
    sub.add_argument("--name", help="what the table calls the model (default: the file's name)")
    sub.add_argument("--output", metavar="DIR", help="folder to write to (default: print only)")
    _add_analysis(sub)
    _add_search(sub)
    _add_output(sub)


def _add_track(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="hub name with --revisions; with --checkpoints, what the table calls the model; "
        "several: each has these revisions, or the checkpoints with its name for {model}",
    )
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "--revisions", nargs="+", metavar="NAME", help="of a hub model, such as step1000"
    )
    which.add_argument(
        "--checkpoints",
        nargs="+",
        metavar="DIR",
        help="local folders, such as out/checkpoint-*, or out/{model}/checkpoint-* for several",
    )
    sub.add_argument(
        "--steps", nargs="+", type=int, metavar="N", help="one each, where names tell none"
    )
    sub.add_argument(
        "--keep",
        choices=("none", "stats", "rows"),
        default="stats",
        help="left on disk of each checkpoint beside its metrics: nothing, what documents add and"
        " the strongest rows, or the activations too; " + _DEFAULT,
    )
    engine = sub.add_argument_group("engine")
    engine.add_argument(
        "--engine",
        choices=ENGINES,
        default="local",
        help="ray: each checkpoint is a task of a Ray cluster; " + _DEFAULT,
    )
    engine.add_argument(
        "--ray-address", metavar="ADDRESS", help="of a running cluster (default: start Ray here)"
    )
    engine.add_argument(
        "--gpus-per-checkpoint", type=_amount, default=0.0, metavar="N", help=_DEFAULT
    )
    engine.add_argument(
        "--memory-per-checkpoint", type=_amount, default=0.0, metavar="GB", help=_DEFAULT
    )
    engine.add_argument(
        "--retries",
        type=_checked(int, lambda number: number >= 0, "a whole number of at least 0"),
        default=3,
        help="starts again of a checkpoint whose worker ended; " + _DEFAULT,
    )
    sub.add_argument("--config", metavar="FILE.yaml", help=_CONFIG)
    _add_texts(sub)
    sub.add_argument(
        "--output", metavar="DIR", help="folder of the track; started again, it goes on"
    )
    _add_model(sub)
    _add_sample(sub)
    _add_analysis(sub)
    _add_search(sub)
    _add_output(sub)


def _add_one_model(sub: argparse.ArgumentParser, output: str) -> argparse._ArgumentGroup:
    """One model and its texts, for a command beside the sweep; the group of its sample."""
    sub.add_argument("model", metavar="MODEL", help="as for a sweep")
    sub.add_argument("--config", metavar="FILE.yaml", help=_CONFIG)
    sub.add_argument("--revision", help="branch, tag or commit of a hub model")
    _add_texts(sub)
    sub.add_argument("--output", metavar="DIR", help=output)
    _add_model(sub)
    sample = sub.add_argument_group("sample")
    _add_tokens(sample)
    _add_interval(sub)
    _add_quiet(sub)
    return sample


def _add_attention(sub: argparse.ArgumentParser) -> None:
    _add_one_model(sub, "folder for attention.csv")


def _add_causes(sub: argparse.ArgumentParser) -> None:
    sample = _add_one_model(sub, "folder of the run; started again, it goes on")
    sample.add_argument("--layers", default=Defaults.layers, help="as for a sweep")
    sample.add_argument("--queries", type=queries, default=1000, help=_QUERIES)
    _add_search(sub)
    _add_threads(sub)


def _add_plan(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", metavar="MODEL", help="as for a sweep; its config alone is read")
    sub.add_argument("--revision", help="branch, tag or commit of a hub model")
    sub.add_argument("--trust-remote-code", action="store_true", help="as for a sweep")
    sub.add_argument("--tokens", type=float, required=True, metavar="N", help="such as 1e9")
    sub.add_argument("--gpus", type=count, help="ranks, one GPU each (default: this CPU alone)")
    group = sub.add_argument_group("machines")
    group.add_argument("--card", choices=sorted(CARDS), default="h100", help=_DEFAULT)
    group.add_argument("--cores-per-gpu", type=count, default=16, help=_DEFAULT)
    group.add_argument(
        "--core-gflops", type=_positive, help="float32 product of one core (default: measured here)"
    )
    group.add_argument(
        "--network", type=_positive, default=25.0, help="GB/s into a rank; " + _DEFAULT
    )
    group.add_argument("--disk", type=_positive, default=2.0, help="GB/s of a rank; " + _DEFAULT)
    group = sub.add_argument_group("sweep")
    group.add_argument("--context", type=count, default=Defaults.context, help=_DEFAULT)
    group.add_argument(
        "--dtype", choices=sorted(BYTES), default="bfloat16", help="of the rows; " + _DEFAULT
    )
    group.add_argument("--filter", dest="filters", nargs="+", metavar="NAME", help="as for a sweep")
    group.add_argument("--queries", type=queries, default=Defaults.queries, help=_QUERIES)
    group.add_argument("--pairs", type=count, default=Defaults.pairs, help=_PAIRS)
    group.add_argument("--exact", action="store_true", help="every row a query, every pair")
    sub.add_argument("--json", action="store_true", help="print JSON")


def _add_report(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "folders", nargs="+", metavar="DIR", help="runs, or folders that hold runs; several in one"
    )
    sub.add_argument("-o", "--output", metavar="DIR", help="default: DIR, if there is one DIR")
    sub.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    _add_quiet(sub)
