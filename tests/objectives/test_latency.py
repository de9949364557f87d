"""Latency: the graph that is timed is the network, a busy machine is told of, and tables add up."""

import os
import random
import shlex
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import nas
from experiments.digits_mobilenetv3 import EXPERIMENT
from nas.cli.app import run
from nas.errors import MachineBusyError, NasError
from nas.models.layers import layers
from nas.models.network import OwnNetwork
from nas.models.onnx import onnx_model
from nas.objectives import Candidate, objective, parse_limit
from nas.objectives.latency.build_table import build_table, check_table, compare_latencies, reachable
from nas.objectives.latency.measure import measure, measure_module, profile, runner, timed
from nas.objectives.latency.table import LatencyTable, Setup, newest_table, read_table, table_folder
from nas.objectives.mnasnet_reward import HARD
from nas.runs.serialization import as_json, describe, experiment_of
from nas.searching.plan import problem_of, with_latency
from nas.spaces import sample
from nas.training.settings import Epoch, TrainReport

SMALL = replace(nas.reference("mobilenetv3_small_100"), resolution=64)
TINY = Path(__file__).parent.parent / "data" / "tiny_space.py"


@contextmanager
def hurry():
    """Measurements are short meanwhile, and not refused though other tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas.objectives.latency.build_table.REFERENCE_SECONDS", 0.01)
        patch.setattr("nas.objectives.latency.build_table.LARGEST_DRIFT", 1e9)
        patch.setattr("nas.objectives.latency.build_table.NETWORK_SECONDS", 0.01)
        patch.setattr("nas.statistics.RESAMPLES", 100)
        patch.setattr("nas.objectives.latency.measure.MIN_CPU_SHARE", 0.0)
        patch.setattr("nas.objectives.latency.measure.MAX_DRIFT", 1e9)
        yield


@pytest.fixture
def hurried():
    with hurry():
        yield


def some_networks():
    generator = random.Random(0)
    names = (
        "mobilenetv3_large_100",
        "tf_mobilenetv3_small_075",
        "semnasnet_100",
        "efficientnet_b0",
        "efficientnetv2_s",
        "mobilenetv2_035",
        "mobilenetv4_conv_small_050",
    )
    found = [nas.reference(name) for name in names]
    for name in ("mobilenetv3", "mnasnet", "efficientnet", "mobilenetv4"):
        space = nas.space(name)
        found += [space.decode(sample(space.parameters, generator)) for _ in range(2)]
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


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_the_layers_take_about_as_long_as_the_whole(runtime):
    setup, network = Setup(runtime=runtime), replace(nas.reference("mobilenetv3_large_100"), resolution=160)
    sums, wholes = [], []
    for _ in range(3):
        found = profile(network, 10, setup, runs=10)
        with runner(network, 10, setup) as whole:
            times, _ = timed(whole, 0.1)
        assert len(found) == len(layers(network, 10))
        sums.append(sum(found))
        wholes.append(min(times))
    assert 0.5 < min(sums) / min(wholes) < 2  # the least, as other tests run meanwhile


def test_a_measurement_says_what_it_is_of(hurried):
    found = measure(SMALL, 10, Setup(runtime="torch", batch=2))
    assert 0 < found.q25_ms <= found.median_ms <= found.q75_ms
    assert found.runs >= 20
    assert found.device
    assert found.runtime_version == torch.__version__


def test_any_module_is_measured_in_torch_as_a_network_is(hurried):
    setup, module = Setup(runtime="torch", batch=2), nas.build(SMALL, 10)
    network, same = measure(SMALL, 10, setup), measure_module(module, 64, setup)
    assert 1 / 3 < same.median_ms / network.median_ms < 3  # as other tests run meanwhile
    assert same.runtime_version == torch.__version__
    assert not module.training
    with pytest.raises(NasError, match="runtime: onnxruntime cannot run a module; give torch"):
        measure_module(module, 64, Setup())


def test_on_a_busy_core_nothing_is_claimed():
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    other = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])  # on the same core
    try:
        with pytest.raises(MachineBusyError, match="the machine is too busy to measure: other processes took "):
            measure(SMALL, 10, attempts=1)
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["measure", "mobilenet_v9"], "network 'mobilenet_v9' does not exist"),
        (["measure", "mobilenetv3_small_100", "--runtime", "tflite"], "runtime 'tflite' does not exist"),
        (["measure", "mobilenetv3_small_100", "--device", "cuda"], "device: "),
        (["measure", "mobilenetv3_small_100", "--threads", "0"], "threads: 0 is not 1 or more"),
        (["measure", "mobilenetv3_small_100", "--dtype", "float16"], "dtype: onnxruntime runs float32 here, not float16"),
        (["measure", "mobilenetv3_small_100", "--batch", "100000000"], "batch: 100000000 images do not fit in memory"),
        (["measure", "timm:resnet18"], "is timm's own"),
        (["latency", "bild"], "command 'latency bild' does not exist; did you mean 'latency build'?"),
        (["latency", "build", "mobilenetv5"], "space 'mobilenetv5' does not exist"),
        (["latency", "build", "mobilenetv3", "--resolution", "97"], "resolution: 97 is not one of space mobilenetv3"),
        (["latency", "build", "mobilenetv3", "--classes", "0"], "classes: 0 is not 1 or more"),
        (["latency", "build", "mobilenetv3", "--limit", "small"], "limit 'small' is not of the form"),
        (["latency", "check", "nothing.json"], "latency table nothing.json does not exist"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments, sentence, mistaken, tmp_path, monkeypatch):
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert sentence in mistaken(*arguments, cwd=tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(a table of few networks, its file, the networks), made by a call that was ended and one that went on."""
    file, networks = tmp_path_factory.mktemp("latency") / "table.json", reachable(nas.space(str(TINY)), quiet_draws=30)
    options = {"space": "tiny", "output": file, "num_classes": 10}
    done: list[int] = []

    def ended(number, _):
        done.append(number)
        if len(done) == 2:
            raise KeyboardInterrupt

    with hurry(), pytest.raises(KeyboardInterrupt):
        build_table(networks, on_progress=ended, **options)
    assert not file.exists()
    (log,) = file.parent.glob("*.timed")
    log.write_text(log.read_text() + '{"torn')  # as a kill may leave it
    again: list[tuple[int, int]] = []
    with hurry():
        table = build_table(networks, on_progress=lambda *counts: again.append(counts), **options)
    assert again[0][0] == done[-1] > 0  # what was timed is not timed again
    assert again[-1][0] == again[-1][1] == len(table.milliseconds)
    assert list(file.parent.iterdir()) == [file]
    return table, file, networks


def test_a_table_that_was_built_predicts_its_networks(built):
    table, file, networks = built
    assert read_table(file) == table
    assert set(table.milliseconds) == {layer.key for network in networks for layer in layers(network, 10)}
    with runner(networks[0], 10, table.setup) as whole:
        times, _ = timed(whole, 0.1)
    whole_ms = sum(table.milliseconds[layer.key] for layer in layers(networks[0], 10))
    assert table.predict(networks[0], 10) == pytest.approx(whole_ms)
    assert 0.1 < whole_ms / min(times) < 10  # other tests run meanwhile, on a machine that others may use too


def test_a_table_is_built_and_checked_by_command(hurried, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--classes", "10", "--limit", "macs_m<4"]
    assert run(["latency", "build", str(TINY), "--output", "tiny.json", *options]) == 0
    proposed = f"nas latency check tiny.json --classes 10 --space {TINY} --limit 'macs_m<4'"
    assert capsys.readouterr().out.splitlines()[-1] == proposed
    assert run([*shlex.split(proposed)[1:], "--networks", "2"]) == 0
    check = read_table(tmp_path / "tiny.json").check
    assert check.networks == 2  # the largest of the three is beyond the limit
    assert str(check) in capsys.readouterr().out


def test_what_a_table_lacks_is_named(built):
    table, _, networks = built
    with pytest.raises(nas.NasError, match=r"has no 'linear \d+>1000 @1'; .*`nas latency build`"):
        table.predict(networks[0], 1000)
    assert table.predict(networks[0], 10) > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda text: text.replace('"format": 2', '"format": 9'), "json has format 9, and this version reads 2"),
        (lambda text: text.replace('"milliseconds": {', '"milliseconds": {"x": -1,'), "takes -1.0 ms"),
        (lambda text: text.replace('"runtime": "onnxruntime"', '"runtime": "tflite"'), "runtime 'tflite' does not exist"),
        (lambda text: "[]", "is damaged"),
    ],
)
def test_a_damaged_table_is_one_sentence(built, tmp_path, change, sentence):
    (tmp_path / "table.json").write_text(change(built[1].read_text()))
    with pytest.raises(nas.NasError, match=sentence):
        read_table(tmp_path / "table.json")


def test_a_check_is_written_into_the_table(hurried, built):
    table, _, networks = built
    checked = check_table(table, networks, 10, number=3)
    assert checked.check.networks == 3
    assert checked.check.mape_interval[0] <= checked.check.mape_pct <= checked.check.mape_interval[1]
    assert f"MAPE {checked.check.mape_pct:.1f} %" in str(checked)


def test_agreement_is_what_it_says(hurried):
    true = np.linspace(1, 10, 30)
    found = compare_latencies(true, 1.1 * true)
    assert found.mape_pct == pytest.approx(10)
    assert (found.spearman, found.kendall) == (1, 1)
    assert compare_latencies(true, true[::-1]).spearman == pytest.approx(-1)


def made_up(space, networks, num_classes):
    """A table of another device, of every layer of some networks, with milliseconds that follow from widths."""
    keys = {layer.key: layer for network in networks for layer in layers(network, num_classes)}
    milliseconds = {key: 1e-5 * layer.width * layer.size + 1e-3 for key, layer in keys.items()}
    return LatencyTable(
        device="Phone", runtime_version="1", setup=Setup(), date="2026-01-01", space=space, milliseconds=milliseconds
    )


def test_a_table_names_the_first_layers_that_it_lacks():
    (network, *_) = reachable(nas.space("compound"), quiet_draws=3)
    table = made_up("compound", [network], 10)
    assert table.predict(network, 10) == pytest.approx(sum(table.milliseconds[layer.key] for layer in layers(network, 10)))
    small = replace(table, milliseconds=dict(list(table.milliseconds.items())[:-8]))
    with pytest.raises(nas.NasError, match=r"of Phone has no ('[^']+', ){4}'[^']+' and 3 more; .*`nas latency build`"):
        small.predict(network, 10)


def test_the_newest_table_that_knows_the_networks_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    networks = reachable(nas.space("mobilenetv3"), resolution=96, quiet_draws=20)
    table = made_up("mobilenetv3", networks, 10)
    assert newest_table("mobilenetv3", networks, 10) is None
    table.write(table_folder() / "older.json")
    replace(table, date="2026-01-02").write(table_folder() / "newer.json")
    replace(table, date="2026-01-03", space="mnasnet").write(table_folder() / "other.json")
    (table_folder() / "damaged.json").write_text("{")
    assert newest_table("mobilenetv3", networks, 10) == table_folder() / "newer.json"
    assert newest_table("mobilenetv3", networks, 1000) is None


def test_the_objectives_say_what_the_paper_says():
    networks = reachable(nas.space("mobilenetv3"), resolution=96, quiet_draws=4)
    table = made_up("mobilenetv3", networks, 10)
    history = (Epoch(epoch=1, train_loss=1.0, val_top1_pct=80.0, val_images=100, seconds=1.0),)
    report = TrainReport(history=history, val_top1_pct=80.0, val_loss=0.5, fingerprint="", device="cpu", precision="float32")
    candidate = Candidate(network=OwnNetwork(architecture=networks[0]), num_classes=10, report=report, latency=table)
    ms = objective("latency_ms").measure(candidate)
    assert ms == table.predict(networks[0], 10)
    soft = nas.mnasnet_reward(ms / 2)
    assert soft.measure(candidate) == pytest.approx(80 * 2**-0.07)
    assert nas.mnasnet_reward(ms * 2).measure(candidate) == pytest.approx(80 * 0.5**-0.07)
    assert nas.mnasnet_reward(ms / 2, HARD).measure(candidate) == pytest.approx(40)
    assert nas.mnasnet_reward(ms * 2, HARD).measure(candidate) == pytest.approx(80)
    with pytest.raises(nas.NasError, match="target: 0 is not more than 0 ms"):
        nas.mnasnet_reward(0)
    with pytest.raises(nas.NasError, match="are not 0 or less"):
        nas.mnasnet_reward(8.0, (0.07, 0.07))


def test_a_search_predicts_latencies_and_says_how_good_the_table_is(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    objectives = (objective("val_top1_pct"), objective("latency_ms"), nas.mnasnet_reward(2.0, HARD))
    experiment = replace(EXPERIMENT, objectives=objectives, runs=str(tmp_path))
    none = r"no latency table was built here for space .*`nas latency build"
    for change in ({"limits": (parse_limit("latency_ms<9"),)}, {"objectives": (objective("latency_ms"),)}):
        with pytest.raises(nas.NasError, match=none):
            with_latency(replace(experiment, **change))
    measuring = with_latency(experiment)
    assert all(one.needs_training for one in measuring.objectives)
    again = experiment_of(as_json(describe(measuring, "again")), tmp_path)
    assert [one.measure for one in again.objectives] == [one.measure for one in measuring.objectives]  # as a resumed run has them
    table = made_up(experiment.space.name, reachable(experiment.space, quiet_draws=200), 10)
    file = table_folder() / "phone.json"
    table.write(file)
    caplog.set_level("INFO")
    found = with_latency(experiment)
    assert found.latency == str(file)
    assert "Phone, onnxruntime 1, 1 thread(s), batch 1; not checked against measured networks" in caplog.text
    point = problem_of(found).examine(next(iter(found.space.references.values())))
    assert point.values["latency_ms"] == table.predict(nas.Architecture.from_json(point.text), 10)
