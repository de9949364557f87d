"""The columns of a run's tables and what they mean; `RESULTS.md` is made from this file."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from nas.plugins import plugin_names, plugin_summary


class Column(NamedTuple):
    """One column of a table."""

    name: str
    dtype: str
    """The dtype in pandas."""
    meaning: str
    unit: str = ""
    """Empty for a column without a unit."""


TRIALS: Final = (
    Column("run", "str", "Name of the run folder."),
    Column("trial", "Int64", "Number in the order of proposal, from 0; missing for a skipped proposal."),
    Column("id", "str", "Id of the architecture; equal ids mean equal networks."),
    Column(
        "status",
        "str",
        "done; stopped (early, with its values so far); failed; running; interrupted (`nas resume` continues it); infeasible "
        "(skipped, as it misses a limit); duplicate (skipped, as its network already has a trial).",
    ),
    Column(
        "reason",
        "str",
        "Why a trial failed: oom, diverged, busy (the machine was too busy to measure a latency), crash, timeout or node; limit "
        "if a limit set later stopped it.",
    ),
    Column(
        "weights",
        "str",
        "trained (from new weights, with the whole settings); shared (its slice of the shared weights); fine-tuned (that slice, "
        "trained further); missing for a skipped proposal, and where no objective needs training.",
    ),
    Column(
        "from_trial",
        "Int64",
        "The trial by shared weights whose network this one fine-tunes or trains alone; missing for any other row.",
    ),
    Column(
        "source",
        "str",
        "search; repeat (a network of the search, trained again with another seed); reference (a published network, tried first "
        "or given with --baselines); start (given with --start, or on the front of the run that trained the shared weights, and "
        "scored again); reuse (the outcome of another run); front (a network of the front by shared weights).",
    ),
    Column(
        "name",
        "str",
        "A reference's published name, or `like` that name if width or resolution differ; what --start gave, or the id if that "
        "was a text; the run and trial that a result is reused from, or that scored the network before; the trial that "
        "a duplicate equals, or that scored a network of the front.",
    ),
    Column(
        "is_front",
        "bool",
        "Done, in the space and within the limits, and no other such row is as good on every objective and better on one; of the "
        "top-1 the believed one counts.",
    ),
    Column(
        "val_top1_pct_believed",
        "float64",
        "Top-1 that a surrogate expects of the network over all trainings of the run, which is less noisy than the one measured; "
        "the front goes by it. Missing before 8 trainings are done, for trials that are not done, baselines, and in a search by "
        "shared weights.",
        "%",
    ),
    Column("val_top1_pct_believed_sd", "float64", "Standard deviation of that expectation.", "%"),
    Column("within_limits", "bool", "In the space, and no value measured so far misses a limit of the run's last session."),
    Column("is_baseline", "bool", "Given with --baselines, so no result of the search."),
    Column("val_loss", "float64", "Mean cross-entropy on the images of the search validation part.", "nat"),
    Column("gain_pct", "float64", "Top-1 on these images minus that of `from_trial`, percentage points.", "%"),
    Column("epochs", "Int64", "Epochs trained: 0 with shared weights."),
    Column("seconds", "float64", "Time of building, training and validating.", "s"),
    Column("started", "datetime64[us]", "When it was proposed, UTC."),
    Column("ended", "datetime64[us]", "When its end was logged, UTC."),
    Column("fingerprint", "str", "Digest of the classes predicted for the validation images."),
    Column("device", "str", "Device of the training, with the number of threads on a CPU."),
    Column("precision", "str", "float32, bfloat16 or float16."),
    Column("peak_memory_mb", "float64", "Peak of the GPU's memory.", "10^6 bytes"),
    Column("retries", "Int64", "Restarts after the worker process or the machine was lost."),
    Column("crashes", "Int64", "Restarts after the worker process alone was lost."),
    Column("seed", "Int64", "Seed of the initial weights and of the batches."),
    Column("error", "str", "The failure in one sentence."),
    Column("architecture", "str", "Canonical text, which rebuilds the network; missing for a skipped proposal."),
    Column(
        "alone_val_top1_pct",
        "float64",
        "Mean top-1 on these images over further trainings with the search's settings: of networks scored by shared weights "
        "(`nas verify --shared`), or with the next seed of a front's (`nas verify`).",
        "%",
    ),
    Column("alone_seeds", "Int64", "Number of those seeds."),
    Column("full_val_top1_pct", "float64", "Mean validation top-1 of full trainings (`nas verify`) over their seeds.", "%"),
    Column(
        "full_test_top1_pct", "float64", "Mean test top-1 of the same trainings; each reads the test part once, at its end.", "%"
    ),
    Column(
        "full_test_sd_pct", "float64", "Standard deviation of `full_test_top1_pct` over the seeds; missing for one seed.", "%"
    ),
    Column("full_seeds", "Int64", "Number of seeds of the full trainings."),
    Column("full_epochs", "Int64", "Epochs of each full training."),
)
HISTORY: Final = (
    Column("run", "str", "Name of the run folder."),
    Column("trial", "Int64", "Number of the trial, as in the table of trials."),
    Column("epoch", "Int64", "Counted from 1."),
    Column(
        "train_loss",
        "float64",
        "Mean cross-entropy of the epoch's steps, with label smoothing and mixing; a teacher's share is the divergence from it.",
        "nat",
    ),
    Column("val_top1_pct", "float64", "Top-1 on the images of the search validation part after the epoch.", "%"),
    Column("val_images", "Int64", "Number of those images."),
    Column("seconds", "float64", "Time of the epoch's training and validation.", "s"),
)
TYPES: Final = {column.name: column.dtype for column in TRIALS}
SETTINGS: Final = "settings."
PARAM_PREFIXES: Final = ("params.", SETTINGS)  # how the columns of a trial's parameters begin
HISTORY_TYPES: Final = {column.name: column.dtype for column in HISTORY}


def documentation() -> str:
    """The text of `RESULTS.md`."""
    objectives = [
        Column(name, "float64", plugin_summary("objective", name).rstrip(".") + ".", _unit(name))
        for name in plugin_names("objective")
    ]
    parts = (
        "# The tables of a run\n",
        "Made by `python -m nas.runs.columns > RESULTS.md`. Missing values are NA, never 0.\n",
        "## `nas.results(run)`: a row for every trial and every skipped proposal\n",
        _listed(TRIALS),
        "\nEvery objective, optimised, limited or only to look at, is a float64 column under its name, which ends in its unit. "
        "The package has these:\n",
        _listed(objectives),
        "\nEvery parameter of the space is a column `params.NAME` with the space's own values, of a nullable pandas dtype; "
        "`nas space NAME` lists them. Every training setting that was searched with `--tune` is a column `settings.NAME`; it is "
        "missing where it has no effect.\n",
        "`attrs` of the DataFrame: `directions` (objective → minimize or maximize), `limits` (objective → low and high, None for "
        "no bound), `titles` (objective → words for axes), `learning_curve` (the objective that is the top-1 after each epoch, "
        "or None), `proxies` (the objectives that are only to look at) and `table_error_pct` (objective → mean error of the "
        "latency table that predicts it, if that was checked). Parquet keeps them; where `merge`, `concat` or a CSV file has "
        "lost them, give `directions` to `nas.front` and `nas.best`.\n",
        "## `nas.history(run)`: a row for every trial and epoch\n",
        _listed(HISTORY),
    )
    return "\n".join(parts)


def _unit(name: str) -> str:
    units = {"pct": "%", "ms": "ms", "mb": "10^6 bytes", "m": "10^6"}
    return units.get(name.rpartition("_")[2], "")


def _listed(columns: Sequence[Column]) -> str:
    lines = [f"| `{c.name}` | {c.dtype} | {c.unit} | {c.meaning} |" for c in columns]
    return "\n".join(["| column | type | unit | meaning |", "|---|---|---|---|", *lines])


if __name__ == "__main__":
    print(documentation())
