"""The line trains its networks on their own images, measures each once, continues after a stop, and its counts are right."""

import json
import math
import struct
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import nas
from experiments.line import __main__ as line
from experiments.line.picture import SIDE, draw_line
from nas.datasets.digits import Digits
from nas.datasets.imagenette import CLASSES
from nas.models.network import find_network
from nas.objectives.latency import measure
from tests.data.pictures import fill

pytestmark = pytest.mark.slow
FILES = {"train": ("train", "train"), "test": ("t10k", "test")}  # prefix of MNIST's files, part of digits
PART = ["--small", "--networks", "mnist_dense", "mnist_convolutional", "--seed", "1"]
COLUMNS = ["network", "images", "resolution", "params_m", "macs_m", "latency_ms", "test_top1_pct", "seconds"]
# Networks at 224 px for 1000 classes: params, multiply-adds. Source: docs.pytorch.org/vision, torchvision.models. SE-ResNet-50:
# ResNet-50 and the gates of https://arxiv.org/abs/1709.01507, eq. 6, which have 2 * C^2 / 16 weights in a block of C outputs.
PUBLISHED = {
    "vgg16": (138_357_544, 15.47e9),
    "vgg19": (143_667_240, 19.63e9),
    "resnet34": (21_797_672, 3.66e9),
    "resnet50": (25_557_032, 4.09e9),
    "seresnet50": (25_557_032 + 2_514_944 + 16_048, 4.09e9),
}


def write_mnist(folder, prefix, images, labels):
    """Write grey images in the format of MNIST's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        (folder / f"{prefix}-{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """A folder in MNIST's layout with scikit-learn's digits, three times as large and with a margin."""
    root = tmp_path_factory.mktemp("images")
    for prefix, part in FILES.values():
        data = Digits().load(part)
        larger = np.pad(data.images[..., 0].repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2)))
        write_mnist(root / "MNIST" / "raw", prefix, larger, data.labels)
    return root


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    """Latencies are not refused though other tests run."""
    monkeypatch.setattr(measure, "MIN_CPU_SHARE", 0.0)
    monkeypatch.setattr(measure, "MAX_DRIFT", 1e9)


@pytest.fixture(scope="module")
def measured(mnist, tmp_path_factory):
    """The results of the first two networks."""
    folder = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        undisturbed.__wrapped__(patch)
        assert line.main([*PART, "--mnist", str(mnist), "--output", str(folder)]) == 0
    return folder


def start(folder, mnist, *options):
    return line.main([*PART, "--mnist", str(mnist), "--output", str(folder), *options])


@pytest.fixture
def copied(measured, tmp_path):
    """A copy of these results, to change."""
    for file in measured.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_the_table_has_a_row_for_each_network_with_what_was_measured(measured):
    table = pd.read_csv(measured / "line.csv")
    assert list(table.columns) == COLUMNS
    assert list(table["network"]) == ["mnist_dense", "mnist_convolutional"]
    assert list(table["images"]) == ["mnist", "mnist"]
    hidden = 3 * 784 * 512 + 512**2 + 512 * 10
    assert table["macs_m"][0] == pytest.approx(hidden / 1e6)
    assert table["params_m"][0] == pytest.approx((hidden + 512 + 512 + 10) / 1e6)
    convolutions, linear = 27 * 32 + 288 * 64, 64 * 14**2 * 128 + 128 * 10
    assert table["macs_m"][1] == pytest.approx((convolutions * 784 + linear) / 1e6)
    assert table["params_m"][1] == pytest.approx((convolutions + 32 + 64 + linear + 128 + 10) / 1e6)
    assert (table["latency_ms"] > 0).all()
    assert table["test_top1_pct"].between(30, 100).all()  # ten classes


def test_a_second_start_prints_the_same_and_measures_nothing(copied, mnist, capsys):
    before = (copied / "line.jsonl").read_bytes()
    assert start(copied, mnist) == 0
    first = capsys.readouterr().out
    assert (copied / "line.jsonl").read_bytes() == before
    assert start(copied, "no images any more") == 0
    assert capsys.readouterr().out == first
    assert first.splitlines()[0].split() == COLUMNS


def test_after_a_kill_only_what_is_missing_is_measured(copied, mnist, monkeypatch):
    lines = (copied / "line.jsonl").read_bytes().splitlines(keepends=True)
    (copied / "line.jsonl").write_bytes(lines[0] + lines[1][:-20])
    trained, train = [], line.train_entry
    monkeypatch.setattr(line, "train_entry", lambda entry: trained.append(entry.name) or train(entry))
    assert start(copied, mnist) == 0
    again = (copied / "line.jsonl").read_bytes().splitlines(keepends=True)
    assert trained == ["mnist_convolutional"]
    assert again[0] == lines[0]
    (one,), (other,) = (json.loads(text[1]).values() for text in (lines, again))
    assert one["test_top1_pct"] == other["test_top1_pct"]  # the same seed


def test_a_tenth_of_the_photographs_has_all_classes_and_the_whole_test_part(tmp_path):
    fill(tmp_path, classes=tuple(CLASSES))
    tenth = line.small_setups({"mnist": tmp_path, "imagenette": tmp_path}, 0)["imagenette"].dataset
    parts = {part: (tenth.whole.load(part), tenth.load(part)) for part in ("train", "val", "test")}
    assert {part: len(few) for part, (_, few) in parts.items()} == {"train": 18, "val": 2, "test": 200}
    assert all(set(few.labels) == set(range(10)) for part, (_, few) in parts.items() if part != "val")
    for whole, few in parts.values():
        pairs = {(image.tobytes(), int(label)) for image, label in zip(whole.images, whole.labels, strict=True)}
        assert {(image.tobytes(), int(label)) for image, label in zip(few.images, few.labels, strict=True)} <= pairs


def test_another_seed_is_another_training(copied, mnist):
    setups = [line.small_setups(dict.fromkeys(("mnist", "imagenette"), mnist), seed) for seed in (1, 2)]
    journal = line.read_journal(copied / "line.jsonl")
    known, new = (line.make_entries(one, ["mnist_dense"], None)[0] for one in setups)
    assert journal.of(known)["test_top1_pct"] > 0
    assert journal.of(new) == {}


def test_on_a_busy_machine_the_latency_is_missing_and_measured_by_the_next_start(copied, mnist, monkeypatch, capsys):
    rows = [text for text in (copied / "line.jsonl").read_text().splitlines() if "latency_ms" not in text]
    (copied / "line.jsonl").write_text("".join(f"{row}\n" for row in rows))
    with monkeypatch.context() as patch:
        patch.setattr(measure, "MIN_CPU_SHARE", 2.0)
        assert start(copied, mnist) == 0
        assert "mnist_dense: the machine is too busy to measure: other processes took" in capsys.readouterr().out
    assert pd.read_csv(copied / "line.csv")["latency_ms"].isna().all()
    assert start(copied, mnist) == 0
    assert (pd.read_csv(copied / "line.csv")["latency_ms"] > 0).all()


def test_a_loss_that_is_not_finite_is_a_row_without_top1(mnist, tmp_path, monkeypatch, capsys):
    setups = line.small_setups({"mnist": mnist, "imagenette": mnist}, 0)
    monkeypatch.setitem(line.LINE, "mnist_dense", line.Member(network=line.LINE["mnist_dense"].network, images="mnist", lr=1e30))
    (entry,) = line.make_entries(setups, ["mnist_dense"], None)
    figures = line.train_entry(entry)
    assert figures["test_top1_pct"] is None
    assert figures["macs_m"] > 1
    assert capsys.readouterr().out.startswith("mnist_dense: the loss was ")


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_timm_cost_what_is_published(name):
    params, macs = PUBLISHED[name]
    costs = find_network(line.LINE[name].network).at(224).costs(1000)
    assert costs["params"] == params
    assert costs["macs"] == pytest.approx(macs, rel=2e-3)


def test_the_line_is_in_the_order_of_its_story_and_every_reference_exists():
    assert list(line.LINE)[:5] == ["mnist_dense", "mnist_convolutional", "cifar_convolutional", "vgg16", "vgg19"]
    assert list(line.LINE)[-3:] == ["mobilenetv3_small_100", "mobilenetv3_large_100", "mobilenetv4_conv_small"]
    own = {member.network for member in line.LINE.values() if isinstance(member.network, str)}
    assert {name for name in own if not name.startswith("timm:")} <= set(nas.references())


def test_the_network_for_cifar_is_twice_that_for_mnist():
    costs = line.LINE["cifar_convolutional"].network.costs(10)
    macs = 1024 * (27 * 32 + 288 * 32) + 256 * (288 * 64 + 576 * 64) + 64 * 64 * 512 + 512 * 10
    assert costs["macs"] == macs


def test_the_searched_network_is_the_best_of_a_run_or_that_of_an_export(digits_run, digits_export):
    setups = line.small_setups({"mnist": Path(), "imagenette": Path()}, 0)
    of_run, of_export = (line.make_entries(setups, [], source)[0] for source in (digits_run, digits_export))
    assert of_run.name == "searched"
    assert of_run.key == of_export.key
    assert of_run.network.resolution == 64
    best = nas.best(nas.results(digits_run), "val_top1_pct")["architecture"]
    assert of_run.network.to_json() == find_network(nas.Architecture.from_json(best)).at(64).to_json()


def test_the_picture_has_each_network_in_each_panel_and_no_number_on_another(measured):
    table = pd.concat([pd.read_csv(measured / "line.csv")] * 6, ignore_index=True)
    table["test_top1_pct"] += np.arange(12) % 3
    table.loc[11, ["latency_ms", "test_top1_pct"]] = [5.0, None]
    drawing = ElementTree.fromstring(draw_line(table))
    panels = [group for group in drawing if group.tag.endswith("}g")]
    assert len(panels) == 4
    for panel in panels[:3]:
        circles = [part for part in panel if part.tag.endswith("circle")]
        numbers = [part for part in panel if part.tag.endswith("text") and (part.text or "") in map(str, range(1, 12))]
        assert len(circles) == 11
        at = [(float(part.get("x")), float(part.get("y"))) for part in numbers if part.get("y") and float(part.get("y")) < 300]
        assert len(at) == 11
        assert all(math.dist(one, other) >= SIDE - 0.1 for one, other in combinations(at, 2))
    assert [part.text for part in panels[3] if part.text == "mnist_convolutional"] == ["mnist_convolutional"] * 6


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--networks", "vgg11"], "network of the line 'vgg11' does not exist; did you mean 'vgg19'?"),
        (["--seed", "-1"], "seed: -1 is not from 0 to 4294967295"),
        (
            ["--cifar", "data"],
            "--cifar does nothing with --small, which takes digits in place of CIFAR-10; leave one of them out",
        ),
        (["--searched", "no/run"], "network 'no/run' does not exist; give an export's folder or an architecture's file"),
        (["--output", "/proc/line"], "/proc/line/line.jsonl cannot be written: No such file or directory; give another folder"),
        (["--mnist", "nowhere"], "put it there yourself, or say with --mnist where it is"),
        (["--networks", "mobilenetv2_100", "--imagenette", "nowhere"], "or say with --imagenette where it is"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(options, sentence, tmp_path, monkeypatch, capsys):
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nothing is downloaded
    monkeypatch.chdir(tmp_path)
    assert line.main([*PART, *options]) == 2
    printed, errors = capsys.readouterr()
    assert printed == ""
    (last,) = [text for text in errors.splitlines() if text.startswith("line: ")]
    assert sentence in last
    assert "Traceback" not in errors


def test_a_journal_that_somebody_changed_is_one_sentence(tmp_path, capsys):
    (tmp_path / "line.jsonl").write_text('{"key": 3}\n')
    assert line.main([*PART, "--output", str(tmp_path)]) == 2
    assert "line.jsonl: line 1 is damaged: " in capsys.readouterr().err
