"""Options that several commands share, each with its help text."""

from pathlib import Path
from typing import Annotated, TypeAlias

from tyro.conf import arg

Run: TypeAlias = Annotated[Path, arg(help="The run folder, which `nas search` makes.")]
Runs: TypeAlias = Annotated[tuple[Path, ...], arg(help="Run folders, or folders of them.")]
Where: TypeAlias = Annotated[
    str, arg(help="Only networks that meet these conditions, such as \"macs_m < 60 and status == 'done'\".")
]
Best: TypeAlias = Annotated[
    str | None, arg(help="An objective: the network that is best on it. The other objectives, in their order, decide ties.")
]
WithinError: TypeAlias = Annotated[
    bool, arg(help="With --best latency_ms: rank even networks that the latency table's error does not tell apart.")
]
Limits: TypeAlias = Annotated[tuple[str, ...], arg(help="Only networks within these limits, such as 'macs_m<200' 'params_m<5'.")]
