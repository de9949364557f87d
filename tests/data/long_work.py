"""Work of half a second that prints, logs and draws a bar, and at the end leaves a file."""

import sys
import time
from pathlib import Path

from nas.cli.output import log_to_stdout
from nas.cli.progress import ShownTraining
from nas.cli.streams import replace_streams
from nas.training.settings import Epoch

target = Path(sys.argv[1])
replace_streams()
log_to_stdout()
with target.open("w") as file, ShownTraining(50) as shown:
    for number in range(1, 51):
        print(f"work on {target}", flush=True)  # noqa: T201
        shown.on_step(1, 2)
        time.sleep(0.01)
        shown.on_epoch(Epoch(epoch=number, train_loss=1.0, val_top1_pct=50.0, val_images=9, seconds=0.01))
    print("mistake", file=sys.stderr)  # noqa: T201
    file.write("work")
