"""Latency: the graph that is timed is the network, a busy machine is told of, and tables add up."""

import json
import random
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

import nas
from nas.cli import run
from nas.description import _describe_objective, _objective_of, as_json, describe, experiment_of
from nas.latency.build import build_table, reachable
from nas.latency.check import check_table, compared
from nas.latency.fit import fit_additive, read_measurements
from nas.latency.onnx_graph import onnx_model
from nas.latency.pieces import pieces
from nas.latency.runtimes import profiler, runner
from nas.latency.setups import Setup
from nas.latency.table import LatencyTable, newest_table, read_table
from nas.latency.timing import measure, timed
from nas.objectives import Candidate, objective, parse_limit
from nas.objectives.mnasnet_reward import HARD
from nas.recipe import TrainReport
from nas.spaces import sample

SMALL = replace(nas.reference("mobilenetv3_small_100"), resolution=64)


def some_networks():
    generator = random.Random(0)
    names = (
        "mobilenetv3_large_100",
        "tf_mobilenetv3_small_075",
        "semnasnet_100",
        "efficientnet_b0",
        "efficientnetv2_s",
        "mobilenetv2_035",
    )
    found = [nas.reference(name) for name in names]
    for name in ("mobilenetv3", "mnasnet", "efficientnet"):
        space = nas.space(name)
        found += [space.decode(sample(space.parameters, generator)) for _ in range(4)]
    return [replace(network, resolution=65) for network in found]  # an odd side, where paddings differ


@pytest.mark.parametrize("network", some_networks(), ids=lambda network: network.id)
def test_the_graph_with_norms_folded_gives_the_networks_own_logits(network):
    torch.manual_seed(0)
    model = nas.build(network, 10).eval()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.05)
        norm.running_var.uniform_(0.9, 1.1)
        norm.weight.data.uniform_(0.8, 1.0)
        norm.bias.data.normal_(0, 0.05)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    graph = onnx_model(network, 10, batch=2, weights=weights).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    images = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        theirs = model(images).numpy()
    mine = session.run(None, {"image": images.numpy()})[0]
    assert np.abs(mine - theirs).max() < 1e-3 * np.abs(theirs).max()


@pytest.mark.parametrize("network", some_networks()[:6], ids=lambda network: network.id)
def test_the_layers_are_those_of_the_network(network):
    model = nas.build(network, 10)
    found = pieces(network, 10)
    counted = {"conv": 0, "depthwise": 0, "squeeze": 2, "linear": 0}
    convs = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    assert sum(1 if piece.kind in ("conv", "depthwise") else counted.get(piece.kind, 0) for piece in found) == convs
    for piece in found:
        if piece.module and piece.kind in ("conv", "depthwise"):
            conv = model.get_submodule(piece.module)
            assert (conv.in_channels, conv.out_channels) == (piece.width_in, piece.width)
            assert (conv.kernel_size[0], conv.stride[0]) == (piece.kernel, piece.stride)


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_the_layers_take_about_as_long_as_the_whole(runtime):
    setup = Setup(runtime=runtime)
    network = nas.reference("mobilenetv3_large_100")
    sums, wholes = [], []
    for _ in range(5):
        with profiler(network, 10, setup) as profiled, runner(network, 10, setup) as whole:
            layers = profiled(20)
            times, _ = timed(whole, 0.2)
        assert len(layers) == len(pieces(network, 10))
        sums.append(sum(layers))
        wholes.append(min(times))
    assert 0.75 < min(sums) / min(wholes) < 1.5  # the least, as other tests run meanwhile


def test_a_measurement_says_what_it_is_of():
    found = measured(SMALL, Setup(runtime="torch", batch=2))
    assert 0 < found.q25_ms <= found.median_ms <= found.q75_ms
    assert found.runs >= 20
    assert found.device
    assert found.runtime_version == torch.__version__
    assert torch.get_num_threads() >= 1


def measured(network, setup):
    """A measurement, on a machine on which other tests run."""
    for _ in range(10):
        try:
            return measure(network, 10, setup)
        except nas.NasError as error:
            assert "does not hold still" in str(error)  # noqa: PT017
    pytest.skip("the machine is too busy")


BUSY = """
import os, subprocess, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same core
try:
    from nas.cli import run
    print(run(["measure", "mobilenetv3_small_100", "--resolution", "64"]))
finally:
    other.kill()
"""


def test_on_a_busy_core_nothing_is_claimed():
    answer = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "2"
    assert answer.stderr.startswith("nas: the machine does not hold still: other processes took ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["measure", "mobilenet_v9"], "network 'mobilenet_v9' does not exist"),
        (["measure", "mobilenetv3_small_100", "--runtime", "tflite"], "runtime 'tflite' does not exist"),
        (["measure", "mobilenetv3_small_100", "--device", "cuda"], "device: "),
        (["measure", "mobilenetv3_small_100", "--threads", "0"], "threads: 0 is not 1 or more"),
        (["measure", "mobilenetv3_small_100", "--dtype", "float16"], "dtype: float16 is not run in onnxruntime here"),
        (["measure", "timm:resnet18"], "is timm's own"),
        (["latency", "bild"], "nas latency command 'bild' does not exist; did you mean 'build'?"),
        (["latency", "build", "mobilenetv4"], "space 'mobilenetv4' does not exist"),
        (["latency", "build", "mobilenetv3", "--resolution", "97"], "resolution: 97 is not one of space mobilenetv3"),
        (["latency", "build", "mobilenetv3", "--classes", "0"], "classes: 0 is not 1 or more"),
        (["measure", "mobilenetv3_small_100", "--batch", "100000000"], "batch: 100000000 images do not fit in the memory"),
        (["latency", "check", "nothing.json"], "latency table nothing.json is not there"),
        (["latency", "fit", "nothing.csv"], "nothing.csv cannot be read"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments, sentence, capsys, tmp_path, monkeypatch):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert run(arguments) == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1


OPTIONS = {"resolution": 96, "num_classes": 10, "points": 4}
KILLED = """
import os, signal
from pathlib import Path
import nas
import nas.latency.build as build

build.MIN_CPU_SHARE, build.LARGEST_DRIFT = 0.0, 10.0  # other tests run meanwhile
told = []
def on_progress(done, of):
    told.append(done)
    if len(told) == 3:
        print(done, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

build.build_table(nas.space("mobilenetv3"), output=Path({file!r}), on_progress=on_progress, **{options!r})
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(a table of few networks, its file, the networks), made by a call that was killed and one that went on."""
    file = tmp_path_factory.mktemp("latency") / "table.json"
    script = KILLED.format(file=str(file), options=OPTIONS)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    log = file.with_name(".table.json.timed")
    assert not file.exists()
    assert len(log.read_text().split()) >= 2
    log.write_text(log.read_text() + '\n{"torn')
    again = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.latency.build.MIN_CPU_SHARE", 0.0)
        patch.setattr("nas.latency.build.LARGEST_DRIFT", 10.0)
        table = build_table(nas.space("mobilenetv3"), output=file, on_progress=lambda *done: again.append(done), **OPTIONS)
    assert again[0][0] == int(ended.stdout.split()[-1]) > 0  # what was timed is not timed again
    assert again[-1][0] == again[-1][1] == len(table.milliseconds)
    assert not log.exists()
    return table, file, reachable(nas.space("mobilenetv3"), resolution=96, points=4)


def test_a_table_that_was_built_predicts_its_networks(built):
    table, file, networks = built
    assert read_table(file) == table
    assert set(table.milliseconds) == {piece.key for network in networks for piece in pieces(network, 10)}
    for network in networks:
        with runner(network, 10, table.setup) as whole:
            times, _ = timed(whole, 0.3)
        whole_ms = table.overhead_ms + sum(table.milliseconds[piece.key] for piece in pieces(network, 10))
        assert table.predict(network, 10) == pytest.approx(whole_ms)
        assert 0.2 < whole_ms / min(times) < 5  # other tests run meanwhile, on a machine that others may use too


def test_what_a_table_lacks_is_named(built):
    table, _, networks = built
    with pytest.raises(nas.NasError, match=r"has no 'linear \d+>1000 @1'; .*`nas latency build`"):
        table.predict(networks[0], 1000)
    assert table.predict(networks[0], 10) > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "is of format 9, and this version reads up to 1"),
        (lambda text: text.replace('"milliseconds": {', '"milliseconds": {"x": -1,'), "takes -1.0 ms"),
        (lambda text: text.replace('"runtime": "onnxruntime"', '"runtime": "tflite"'), "runtime 'tflite' does not exist"),
        (lambda text: "[]", "is damaged"),
    ],
)
def test_a_damaged_table_is_one_sentence(built, tmp_path, change, sentence):
    (tmp_path / "table.json").write_text(change(built[1].read_text()))
    with pytest.raises(nas.NasError, match=sentence):
        read_table(tmp_path / "table.json")


def test_a_check_is_written_into_the_table(built, monkeypatch):
    table, _, networks = built
    monkeypatch.setattr("nas.latency.timing.MAX_DRIFT", 10.0)  # other tests run meanwhile
    monkeypatch.setattr("nas.latency.timing.MIN_CPU_SHARE", 0.0)
    checked = check_table(table, networks, 10, number=3)
    assert checked.check.networks == 3
    assert checked.check.mape_interval[0] <= checked.check.mape_pct <= checked.check.mape_interval[1]
    assert f"MAPE {checked.check.mape_pct:.1f} %" in str(checked)


def test_agreement_is_what_it_says():
    true = np.linspace(1, 10, 30)
    found = compared(true, 1.1 * true)
    assert found.mape_pct == pytest.approx(10)
    assert (found.spearman, found.kendall) == (1, 1)
    assert compared(true, true[::-1]).spearman == pytest.approx(-1)


def made_up(space, networks, num_classes):
    """A table of another device, of every layer of some networks, with milliseconds that follow from widths."""
    keys = {piece.key: piece for network in networks for piece in pieces(network, num_classes)}
    milliseconds = {key: 1e-5 * piece.width * piece.size + 1e-3 for key, piece in keys.items()}
    return LatencyTable(
        device="Phone", runtime_version="1", setup=Setup(), date="2026-01-01", space=space, milliseconds=milliseconds
    )


def test_a_table_of_another_device_is_imported_once_it_has_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    table = made_up("compound", reachable(nas.space("compound"), points=100), 10)
    small = replace(table, milliseconds=dict(list(table.milliseconds.items())[:50]))
    small.write(tmp_path / "small.json")
    assert run(["latency", "import", str(tmp_path / "small.json"), "--space", "compound", "--classes", "10"]) == 2
    assert "the latency table of Phone lacks " in capsys.readouterr().err
    networks = [nas.space("compound").decode(point) for point in nas.space("compound").references.values()]
    assert newest_table("compound", networks, 10) is None
    large, file = made_up("mobilenetv3", reachable(nas.space("mobilenetv3"), resolution=96), 10), tmp_path / "phone.json"
    replace(large, space="other").write(file)
    assert run(["latency", "import", str(file), "--space", "mobilenetv3", "--classes", "10", "--resolution", "96"]) == 0
    known = reachable(nas.space("mobilenetv3"), resolution=96, points=100)
    found = newest_table("mobilenetv3", known, 10)
    assert read_table(found).milliseconds == large.milliseconds
    assert newest_table("mobilenetv3", known, 1000) is None


def test_the_objectives_say_what_the_paper_says():
    networks = reachable(nas.space("mobilenetv3"), resolution=96, points=4)
    table = made_up("mobilenetv3", networks, 10)
    report = TrainReport(
        history=(), val_correct=80, val_images=100, seconds=1.0, fingerprint="", device="cpu", precision="float32"
    )
    candidate = Candidate(architecture=networks[0], num_classes=10, report=report, latency=table)
    ms = objective("latency_ms").measure(candidate)
    assert ms == table.predict(networks[0], 10)
    soft = nas.mnasnet_reward(ms / 2)
    assert soft.measure(candidate) == pytest.approx(80 * 2**-0.07)
    assert nas.mnasnet_reward(ms * 2).measure(candidate) == pytest.approx(80 * 0.5**-0.07)
    assert nas.mnasnet_reward(ms / 2, HARD).measure(candidate) == pytest.approx(40)
    assert nas.mnasnet_reward(ms * 2, HARD).measure(candidate) == pytest.approx(80)
    rebuilt = _objective_of(as_json(_describe_objective(nas.mnasnet_reward(ms / 2, HARD))))
    assert rebuilt.measure(candidate) == pytest.approx(40)  # as a resumed run has it
    with pytest.raises(nas.NasError, match="target: 0 is not more than 0 ms"):
        nas.mnasnet_reward(0)
    with pytest.raises(nas.NasError, match="are not 0 or less"):
        nas.mnasnet_reward(8.0, (0.07, 0.07))


def test_a_sum_is_fitted_where_there_is_one_and_refused_where_there_is_not(tmp_path, capsys):
    generator = np.random.default_rng(0)
    choices = generator.integers(0, 4, (600, 8))
    parts = generator.uniform(0.5, 2, (8, 4))
    additive = 3 + parts[np.arange(8), choices].sum(axis=1)
    wild = additive * generator.lognormal(0, 0.3, 600)
    lines = [f"{''.join(map(str, row))},{a:.4f},{w:.4f}" for row, a, w in zip(choices, additive, wild, strict=True)]
    file = tmp_path / "measured.csv"
    file.write_text("\n".join(["network,steady,wild", *lines]) + "\n")
    read = read_measurements(file)
    fit = fit_additive(read, "steady", fitted=400)
    assert (fit.held_out, fit.within, fit.additive) == (200, 1.0, True)
    assert fit.mape_pct < 0.1
    assert np.ptp(fit.model.milliseconds[0] - parts[0]) < 0.05
    assert not fit_additive(read, "wild", fitted=400).additive
    assert run(["latency", "fit", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "480 networks fitted, 120 held out" in printed
    assert [line.split()[-1] for line in printed.splitlines()[2:]] == ["yes", "no"]
    assert run(["latency", "fit", str(file), "--device", "steady", "--output", str(tmp_path / "sum.json")]) == 0
    written = json.loads((tmp_path / "sum.json").read_text())
    assert np.shape(written["milliseconds"]) == (8, 4)
    assert run(["latency", "fit", str(file), "--output", str(tmp_path / "sum.json")]) == 2
    with pytest.raises(nas.NasError, match="device 'phone' was not measured; there are steady, wild"):
        fit_additive(read, "phone", fitted=400)
    file.write_text("network,steady\n012,1\n01,2\n")
    with pytest.raises(nas.NasError, match="line 3: '01,2' is not a network of 3 digits and 1 latencies"):
        read_measurements(file)


def test_a_search_predicts_latencies_and_says_how_good_the_table_is(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    from nas.places import with_latency

    from experiments.digits_mobilenetv3 import EXPERIMENT
    from nas.driver import _prepare

    experiment = replace(EXPERIMENT, objectives=(objective("val_top1_pct"), objective("latency_ms")), runs=str(tmp_path))
    none = r"no latency table was built here for space .*`nas latency build"
    for change in ({"limits": (parse_limit("latency_ms<9"),)}, {"objectives": (objective("latency_ms"),)}):
        with pytest.raises(nas.NasError, match=none):
            with_latency(replace(experiment, **change))
    measuring = with_latency(experiment)
    assert [one.needs_training for one in measuring.objectives] == [True, True]
    again = experiment_of(as_json(describe(measuring, "again")), tmp_path)
    assert again.objectives == measuring.objectives
    table = made_up(experiment.space.name, reachable(experiment.space, points=2_000), 10)
    file = tmp_path / "data" / "frontier-nas" / "latency" / "phone.json"
    table.write(file)
    caplog.set_level("INFO")
    found = with_latency(experiment)
    assert found.latency == str(file)
    assert "Phone, onnxruntime 1, 1 thread(s), batch 1; not checked against measured networks" in caplog.text
    feasible = _prepare(found).feasible
    assert feasible.worst["latency_ms"] > 0
