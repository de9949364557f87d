"""What every column of a run's tables means, in one place: `RESULTS.md` is made of it."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from nas.plugins import plugin_names, plugin_summary


class Column(NamedTuple):
    """One column of a table."""

    name: str
    dtype: str
    """Of pandas."""
    meaning: str
    unit: str = ""
    """Empty where it has none."""


TRIALS: Final = (
    Column("run", "str", "Name of the run folder."),
    Column("trial", "Int64", "Number in the order of proposal, from 0; none for a proposal that was skipped."),
    Column("id", "str", "Of the architecture: the same id is the same network."),
    Column(
        "status",
        "str",
        "done; stopped (early, with its values so far); failed; running; interrupted (`nas resume` continues it); of skipped "
        "proposals infeasible (it misses a limit) or duplicate (its network has a trial).",
    ),
    Column(
        "reason",
        "str",
        "Of a failure: oom, nan, busy (no latency could be measured), crash, timeout or node; limit for what a "
        "later limit stopped.",
    ),
    Column(
        "source",
        "str",
        "search; reference (a published network, tried first or given with --baselines); start (given with --start); reuse "
        "(its outcome is another run's).",
    ),
    Column(
        "name",
        "str",
        "Of a reference, as published, or `like` one whose choices it has at another width or size; of a start, what was given, "
        "but the id for a text; "
        "of a reuse, the run and its trial; of a duplicate, the trial of its network.",
    ),
    Column(
        "is_front",
        "bool",
        "Done, a point of the space within the limits, and no other such row is as good on every objective and better on one.",
    ),
    Column(
        "within_limits", "bool", "A point of the space that meets the limits of the run's last session, as far as they are known."
    ),
    Column("is_baseline", "bool", "Given with --baselines, not found by the search."),
    Column("epochs", "Int64", "Passes over the training part."),
    Column("seconds", "float64", "Of building, training and validating.", "s"),
    Column("started", "datetime64[us, UTC]", "When it was proposed."),
    Column("ended", "datetime64[us, UTC]", "When its end was logged."),
    Column("fingerprint", "str", "Of the classes predicted for every validation image."),
    Column("device", "str", "What it was trained on, with the number of threads of a CPU."),
    Column("precision", "str", "float32, bfloat16 or float16."),
    Column("peak_memory_mb", "float64", "Of the GPU.", "10^6 bytes"),
    Column("retries", "Int64", "How often it was begun again after its worker process or machine was lost."),
    Column("crashes", "Int64", "Of those, when only the process was lost."),
    Column("seed", "Int64", "Of its weights and batches."),
    Column("error", "str", "The failure in one sentence."),
    Column("architecture", "str", "The canonical text, which rebuilds the network; none for a proposal that was skipped."),
    Column("full_val_top1_pct", "float64", "`nas verify`: validation top-1 of a full training, mean over its seeds.", "%"),
    Column("full_test_top1_pct", "float64", "The same on the test part, which each training reads once, at its end.", "%"),
    Column("full_test_sd_pct", "float64", "Standard deviation of the last over the seeds; none of one seed.", "%"),
    Column("full_seeds", "Int64", "How many seeds were trained in full."),
    Column("full_epochs", "Int64", "Epochs of a full training."),
)
HISTORY: Final = (
    Column("run", "str", "Name of the run folder."),
    Column("trial", "Int64", "Of the trial, as in the table of trials."),
    Column("epoch", "Int64", "Counted from 1."),
    Column("train_loss", "float64", "Mean cross-entropy of the epoch's steps, label smoothing and mixing included.", "nat"),
    Column("val_top1_pct", "float64", "Top-1 of the search validation part after the epoch.", "%"),
    Column("val_images", "Int64", "Images of that part."),
    Column("seconds", "float64", "Of training and validation.", "s"),
)
TYPES: Final = {column.name: column.dtype for column in TRIALS}
HISTORY_TYPES: Final = {column.name: column.dtype for column in HISTORY}


def documentation() -> str:
    """`RESULTS.md`."""
    objectives = [
        Column(name, "float64", plugin_summary("objective", name).rstrip(".") + ".", _unit(name))
        for name in plugin_names("objective")
    ]
    parts = (
        "# The tables of a run\n",
        "Made by `python -m nas.runs.columns > RESULTS.md`. What is missing is NA, never 0.\n",
        "## `nas.results(run)`: a row for every trial, and for every proposal that was skipped\n",
        _listed(TRIALS),
        "\nEvery objective and every limit is a column of the type float64 by its own name, which ends in its unit. Ours:\n",
        _listed(objectives),
        "\nEvery parameter of the space is a column `params.NAME`, with the space's own values, in one of pandas' types "
        "that may be missing; `nas space NAME` lists them.\n",
        "\n`attrs` of the DataFrame: `directions` (objective → minimize or maximize), `limits` (objective → low and high), "
        "`learning_curve` (the objective that is the top-1 after each epoch, else None) and `table_error_pct` (objective "
        "→ the mean error of the latency table that it is predicted by, where that was checked).\n",
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
