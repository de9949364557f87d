"""What may happen to a search that runs for hours: kills, hangs, lost machines, other sessions. With Ray, as a user has it."""

import json
import os
import pty
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter

import pytest
from safetensors.torch import load_file

import nas
from nas.runs import is_running, read_experiment
from tests.nas.test_search import command

pytestmark = pytest.mark.slow

# Networks that train in a second; one that never ends, one that is told what process and GPU it is measured on.
OWN = '''
"""Two shades, on small networks of one parameter each."""
import os, time
from dataclasses import dataclass, replace
from pathlib import Path
import numpy as np
from optuna.distributions import IntDistribution
from nas import Experiment, ImageData, Objective, TrainSettings, objective, reference

@dataclass(frozen=True)
class Shades:
    """Dark and bright images."""
    num_images: int = 64
    name = "shades"
    classes = ("dark", "bright")
    mean = std = (0.5, 0.5, 0.5)
    mirrors = True

    def load(self, part):
        log_rss()
        generator = np.random.default_rng(["train", "val", "test"].index(part))
        labels = np.arange(self.num_images, dtype=np.int64) % 2
        images = generator.integers(0, 100, (self.num_images, 16, 16, 3), dtype=np.uint8)
        images[labels == 1] += 50
        return ImageData(images=images, labels=labels)

@dataclass(frozen=True, kw_only=True)
class Widths:
    """A width."""
    name = "widths"
    references = {}
    parameters = {"width": IntDistribution(8, 8 * 32, step=8)}

    def decode(self, params):
        base = reference("mobilenetv2_035")
        (block,) = base.stages[0]
        return replace(base, resolution=16, stages=((replace(block, width=params["width"]),),))

    def encode(self, architecture):
        return {"width": architecture.stages[0][0].width}

def measure_hang(candidate):
    while candidate.architecture.stages[0][0].width <= 128:
        time.sleep(1)
    return 0.0

def log_rss():
    """How much memory the process has when a trial begins."""
    if "RSS" in os.environ:
        with open(os.environ["RSS"], "a") as file:
            pages = int(open("/proc/self/statm").read().split()[1])
            file.write(f"{os.getpid()} {pages * os.sysconf('SC_PAGE_SIZE') / 1e6}\\n")

def measure_place(candidate):
    """Not before four processes were here, however slow they are to start."""
    started = time.time()
    here = Path(os.environ["PLACES"]).with_suffix(".d")
    here.mkdir(exist_ok=True)
    (here / str(os.getpid())).touch()
    while len(list(here.iterdir())) < 4 and time.time() < started + 120:
        time.sleep(0.05)
    with open(os.environ["PLACES"], "a") as file:
        place = os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), started, time.time(), os.environ["OMP_NUM_THREADS"]
        file.write(" ".join(map(str, place)) + "\\n")
    return 0.0

HANG = Objective(name="hang_s", direction="minimize", needs_training=True, measure=measure_hang)
PLACE = Objective(name="place_n", direction="minimize", needs_training=True, measure=measure_place)
EXPERIMENT = Experiment(
    space=Widths(),
    dataset=Shades(),
    objectives=(objective("val_top1_pct"), objective("macs_m")),
    train=TrainSettings(epochs=2, batch_size=16),
    sampler="random",
    trials=4,
    workers=2,
)
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def only_run(folder):
    (run,) = (folder / "runs").iterdir()
    return run


def trials_of(run):
    """The rows of a run without asks that were turned down, such as for a width drawn twice."""
    return nas.results(run).dropna(subset="trial").reset_index(drop=True)


def begun(folder, *arguments, epochs_told, **options):
    """A search in a process of its own, once it has told of so many epochs."""
    line = [sys.executable, "-m", "nas.cli", *map(str, arguments)]
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True, **options
    )
    deadline = time.monotonic() + 600
    while True:
        told = list(folder.glob("runs/*/history.jsonl"))
        if told and len(told[0].read_text().splitlines()) >= epochs_told:
            return process
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def test_a_search_whose_driver_is_killed_goes_on_to_the_same_end(folder):
    """Finished trials stay, those under way go on from their checkpoints to the very same bits, and Ray's state is not needed."""
    options = ["search", "./own.py", "--train.epochs", 40, "--early-stopping", "False", "--keep-all"]
    undisturbed = folder / "undisturbed"
    undisturbed.mkdir()
    (undisturbed / "own.py").write_text(OWN)
    answer = command(*options, cwd=undisturbed)
    assert answer.returncode == 0, answer.stderr
    whole = trials_of(only_run(undisturbed)).set_index("id")

    process = begun(folder, *options, epochs_told=95)
    run = only_run(folder)
    refused = command("resume", run, "--trials", 9, cwd=folder)
    assert (refused.returncode, "is searched by another process" in refused.stderr) == (2, True)
    process.kill()
    process.communicate()
    assert not is_running(run)
    before = trials_of(run)
    assert {"done", "interrupted"} == set(before["status"])
    under_way = before["trial"][before["status"] == "interrupted"]
    assert list((run / "checkpoints").glob("trial*/last.pt"))
    shutil.rmtree(run / "ray")

    answer = command("resume", run, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    assert f"2 trials have ended, {len(under_way)} go on" in answer.stdout
    after = trials_of(run)
    assert list(after["status"]) == ["done"] * 4
    columns = ["trial", "id", "fingerprint", "seconds"]
    done = before[before["status"] == "done"]
    assert after[after["trial"].isin(done["trial"])][columns].equals(done[columns])
    interrupted = after[after["trial"].isin(under_way)]
    assert set(interrupted["id"]) <= set(whole.index)
    for row in interrupted.itertuples():
        assert row.fingerprint == whole.loc[row.id, "fingerprint"]
        ours, theirs = (load_file(r / "checkpoints" / f"{row.trial}.safetensors") for r in (run, only_run(undisturbed)))
        assert all((ours[name] == theirs[name]).all() for name in theirs)
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert sorted((line["trial"], line["epoch"]) for line in lines) == [(t, e) for t in range(4) for e in range(1, 41)]

    finished = command("resume", run, cwd=folder)
    assert (finished.returncode, "is finished: 4 of 4 trials have ended; give --trials" in finished.stderr) == (2, True)
    limit = nas.results(run)["macs_m"].median()
    longer = command("resume", run, "--trials", 5, "--sampler", "nsga2", "--limit", f"macs_m<{limit}", cwd=folder)
    assert longer.returncode == 0, longer.stderr
    assert longer.stdout.count("5/5 trial 4 done") == 1
    changed = read_experiment(run)["sessions"][2]["changed"]
    assert (changed["trials"], changed["sampler"]) == ([4, 5], ["random", "nsga2"])
    assert changed["limits"][1][0]["high"] == limit
    df = nas.results(run)
    assert df["macs_m"][df["is_front"]].max() <= limit  # earlier networks beyond the limit are no longer on the front


@pytest.mark.parametrize(
    ("signals", "told"), [((signal.SIGINT,), True), ((signal.SIGINT, signal.SIGINT), False), ((signal.SIGTERM,), False)]
)
def test_ctrl_c_leaves_trials_that_can_be_gone_on_with(folder, signals, told):
    """Ctrl-C as a terminal sends it, to every process of the group; SIGTERM as kill and a container's end do, to the one."""
    process = begun(folder, "search", "digits_mobilenetv3", "--train.epochs", 100, "--trials", 2, epochs_told=6)
    for i, signum in enumerate(signals):
        while i and "Ctrl-C again stops at once" not in process.stdout.readline():  # two at the same moment are one to a process
            assert process.poll() is None, process.communicate()
        send = os.kill if signum == signal.SIGTERM else os.killpg
        send(process.pid, signum)
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 130, printed + errors
    assert errors.strip().splitlines()[-1] == "nas: interrupted; what had ended is kept"
    assert "Traceback" not in printed + errors
    assert f"nas resume {only_run(folder)} goes on with the rest" in printed
    assert ("0 done, 0 failed" in printed) == told  # at once means at once
    df = nas.results(only_run(folder))
    assert list(df["status"]) == ["interrupted", "interrupted"]
    assert (df["epochs"] >= 1).all()
    kept = sorted(path.relative_to(only_run(folder)) for path in only_run(folder).rglob("last.pt"))
    assert [str(path) for path in kept] == ["checkpoints/trial0/last.pt", "checkpoints/trial1/last.pt"]


def test_a_trial_that_hangs_is_ended_by_its_timeout_and_the_others_go_on(folder):
    edited = OWN.replace('objectives=(objective("val_top1_pct"), objective("macs_m"))', "objectives=(HANG,)")
    (folder / "own.py").write_text(edited)
    answer = command("search", "./own.py", "--trials", 4, "--trial-timeout", 3, cwd=folder)
    assert answer.returncode == 0, answer.stderr
    df = trials_of(only_run(folder)).set_index("params.width")
    hung = df[df.index <= 128]
    assert 0 < len(hung) < 4
    assert set(hung["reason"]) == {"timeout"}
    assert "not done after 3 s" in hung["error"].iloc[0]
    assert set(df[df.index > 128]["status"]) == {"done"}
    slow = command(
        "search", "digits_mobilenetv3", "--trials", 1, "--train.epochs", 500, "--trial-timeout", 3, "--runs", "slow", cwd=folder
    )
    assert slow.returncode == 2
    assert re.search(r"trial 0 failed \(timeout\): TrialTimeoutError: not done after 3 s: [\d,]+ of 512,000 images", slow.stderr)


def test_memory_is_handed_back_between_a_hundred_trials_of_one_process(folder):
    (folder / "own.py").write_text(OWN.replace("8 * 32, step=8", "8 * 128, step=8"))  # a hundred different networks
    options = ["--trials", 100, "--workers", 1, "--train.epochs", 1]
    answer = command("search", "./own.py", *options, cwd=folder, RSS=str(folder / "rss"))
    assert answer.returncode == 0, answer.stderr
    lines = [line.split() for line in (folder / "rss").read_text().splitlines()]
    worker = lines[-1][0]
    megabytes = [float(rss) for pid, rss in lines if pid == worker]
    assert len(megabytes) == 200  # one process loads two parts a hundred times
    assert statistics.median(megabytes[-20:]) < 1.05 * statistics.median(megabytes[20:40])


def test_gpus_are_shared_by_whole_trials_and_never_by_more(folder):
    """Two pretend GPUs and halves of them: four trials at a time, two on each, one thread each."""
    (folder / "own.py").write_text(
        OWN.replace('objectives=(objective("val_top1_pct"), objective("macs_m"))', "objectives=(PLACE,)")
    )
    (folder / "script.py").write_text(
        """
import os, sys
import ray
from dataclasses import replace
import nas
from nas.cluster import RAY_ENVIRONMENT
from own import EXPERIMENT
if __name__ == "__main__":
    os.environ |= RAY_ENVIRONMENT
    ray.init(num_cpus=6, num_gpus=2, include_dashboard=False, log_to_driver=False)
    nas.search(replace(EXPERIMENT, trials=16, workers=None, gpus_per_trial=0.5))
    assert ray.is_initialized()
"""
    )
    variables = os.environ | {"PLACES": str(folder / "places")}
    answer = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=variables, capture_output=True, text=True, timeout=900, check=False
    )
    assert answer.returncode == 0, answer.stderr
    places = [line.split() for line in (folder / "places").read_text().splitlines()]
    assert len(places) == 16
    assert {threads for *_, threads in places} == {"1"}
    together = []
    for _, _, moment, *_ in places:
        now = [(gpu, pid) for gpu, pid, start, end, _ in places if float(start) <= float(moment) < float(end)]
        assert max(Counter(gpu for gpu, _ in now).values()) <= 2
        together.append(len(now))
    assert {gpu for gpu, *_ in places} == {"0", "1"}
    assert max(together) == 4


def test_checkpoints_and_weights_go_through_any_place_that_fsspec_knows(folder):
    """A place that is no folder of this machine to the program: files are sent there and fetched from there."""
    place = folder / "place"
    place.mkdir()
    process = begun(
        folder, "search", "./own.py", "--storage", f"dir::file://{place}", "--train.epochs", 40, "--trials", 2, epochs_told=40
    )
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    run = only_run(folder)
    sent = sorted(path.name for path in place.rglob("*") if path.is_file())
    assert sent == ["last.pt", "last.pt"]
    answer = command("resume", run, cwd=folder)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    df = trials_of(run)
    assert list(df["status"]) == ["done", "done"]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        f"{trial}.safetensors" for trial in df["trial"][df["is_front"]]
    }
    assert not [path for path in place.rglob("*") if path.is_file()]
    assert command("export", run, "--best", "val_top1_pct", cwd=folder).returncode == 0


CLUSTER = """
import os, signal, subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    options = ["--address", cluster.address, "--workers", "3", "--train.epochs", "40", "--trials", "5"]
    options += ["--early-stopping", "False"]
    search = subprocess.Popen([sys.executable, "-m", "nas.cli", "search", "./own.py", *options])
    while True:  # until every machine has told of epochs
        told = list(Path("runs").glob("*/history.jsonl"))
        if told and len({line.split(",")[0] for line in told[0].read_text().splitlines()}) >= 3:
            break
        assert search.poll() is None
        time.sleep(0.2)
    cluster.remove_node(nodes[0], allow_graceful=False)
    print("REMOVED", flush=True)
    code = search.wait()
    cluster.shutdown()
    sys.exit(code)
"""


def test_a_cluster_that_loses_a_machine_ends_with_every_trial_a_row(folder):
    (folder / "cluster.py").write_text(CLUSTER)
    answer = subprocess.run([sys.executable, "cluster.py"], cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    assert "3 machines: trials keep their checkpoints in" in answer.stdout
    after = answer.stdout.partition("REMOVED")[2]
    assert "begins again: the worker process died, or its machine was lost" in after
    trials = trials_of(only_run(folder))
    assert list(trials["status"]) == ["done"] * 5
    assert trials["retries"].fillna(0).sum() >= 1
    assert (trials["epochs"] == 40).all()


def test_a_search_in_a_terminal_shows_what_it_does(folder):
    """A pseudo-terminal: counts, best values, hypervolume and time left stay in place, and lines pass above them."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execv(sys.executable, [sys.executable, "-m", "nas.cli", "search", "./own.py", "--trials", "6"])
    printed = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        if not part:
            break
        printed += part
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed.decode())
    assert "6/6 trial" in text
    assert re.search(r"6 done · 0 running · 0 stopped early · 0 failed · 0 asks beyond a limit", text)
    assert re.search(r"best val_top1_pct [\d.]+, macs_m [\d.]+; front \d+, hypervolume 0\.\d{3}", text)
    assert re.search(r"\d+/6 +\d:\d\d:\d\d left", text)
    assert "Traceback" not in text


def test_runs_are_listed_and_cleaned(folder):
    assert command("search", "./own.py", "--keep-all", cwd=folder).returncode == 0
    run = only_run(folder)
    df = trials_of(run)
    (folder / "runs" / "broken").mkdir()
    (folder / "runs" / "broken" / "experiment.json").write_text("{")
    listed = command("runs", cwd=folder)
    assert listed.returncode == 0, listed.stderr
    header, broken, line, total = listed.stdout.splitlines()
    assert header.split() == ["run", "state", "trials", "front", "best", "size_mb"]
    assert "unreadable: " in broken
    best = df["val_top1_pct"].max()
    assert re.fullmatch(rf"runs/{run.name} +finished +4/4 +{df['is_front'].sum()} +val_top1_pct {best:.4g} +[\d.]+", line)
    assert total.startswith("2 runs, ")
    off = sorted(f"{trial}.safetensors" for trial in df["trial"][~df["is_front"]])
    assert off
    said = command("clean", run, cwd=folder)
    assert all(name in said.stdout for name in off)
    assert "nothing is removed yet; give --yes" in said.stdout
    assert len(list((run / "checkpoints").iterdir())) == 4
    removed = command("clean", run, "--yes", cwd=folder)
    assert re.search(r"[\d.]+ MB removed", removed.stdout)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        f"{trial}.safetensors" for trial in df["trial"][df["is_front"]]
    }
    nas.export(run, trial=int(df["trial"][df["is_front"]].iloc[0]), output=folder / "net")
    gone = command("export", run, "--trial", off[0].partition(".")[0], cwd=folder)
    assert (gone.returncode, "has no weights" in gone.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["search", "./own.py", "--address", "127.0.0.1:1"], "address '127.0.0.1:1': no Ray cluster answers there"),
        (
            ["search", "./own.py", "--storage", "nothing://x"],
            "storage 'nothing://x', which must be a folder or a URI that fsspec knows",
        ),
        (["search", "./own.py", "--storage", "/proc/x"], "storage '/proc/x', which must be a folder"),
        (["search", "./own.py", "--trial-timeout", "0"], "trial-timeout: 0.0 is not more than 0 seconds"),
        (["search", "./own.py", "--start", "nowhere"], "network 'nowhere' does not exist"),
        (["search", "./own.py", "--reuse", "."], "is not a run folder"),
        (["resume", "."], "is not a run folder"),
        (["resume", "nowhere", "--trials", "3"], "nowhere is not a run folder"),
        (["runs", "nowhere"], "nowhere is not a folder"),
        (["clean", "."], "is not a run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_nothing_half_written(folder, mistaken, arguments, sentence):
    assert sentence in mistaken(*arguments, cwd=folder)
