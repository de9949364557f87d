"""Networks that are measured on another device: what is written, what is read, and how good the fitted table is."""

import csv
import io
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.optimize import nnls
from scipy.stats import kendalltau

import nas
from experiments.digits_mobilenetv3 import EXPERIMENT
from nas.errors import NasError
from nas.files import locked
from nas.models.cost import cost
from nas.models.layers import layers
from nas.objectives import objective, parse_limit
from nas.objectives.latency import build_table
from nas.objectives.latency.fit_table import Measurements, fit_table, read_measurements
from nas.objectives.latency.measure import runner, timed
from nas.objectives.latency.measured import list_text, read_list
from nas.objectives.latency.sample import LIST, spread, write_sample
from nas.objectives.latency.table import ONE_THREAD, newest_table, read_table, table_folder
from nas.searching.plan import problem_of, with_latency
from nas.spaces import sample
from tests.conftest import full_disk

NARROW = Path(__file__).parent.parent / "data" / "narrow_space.py"
SPACE = nas.space(str(NARROW))
RATES = {"conv": 1.0, "depthwise": 6.0, "squeeze": 3.0}  # of the time that a multiply-add takes, by kind of layer


@pytest.fixture(autouse=True)
def short_draws(monkeypatch):
    """The space has few layers, and intervals need not be exact."""
    monkeypatch.setattr(build_table.reachable, "__kwdefaults__", build_table.reachable.__kwdefaults__ | {"quiet_draws": 500})
    monkeypatch.setattr("nas.statistics.RESAMPLES", 100)


def macs_m(network):
    return cost(network, 0).macs / 1e6


def layer_spread(key):
    """Logarithm of the factor by which a layer differs from its roofline."""
    return 0.4 * random.Random(key).gauss(0, 1)


def simulated_ms(network, num_classes=10):
    """Milliseconds on a device whose layers differ from their roofline by a factor of each layer's own."""

    def layer_ms(layer):
        roofline = 1e-6 * RATES.get(layer.kind, 1.0) * layer.macs + 2e-6 * layer.width_in * layer.size**2 + 0.01
        return roofline * np.exp(layer_spread(layer.key))

    return 0.3 + sum(map(layer_ms, layers(network, num_classes)))


def measurements(networks, noise=0.01):
    generator = random.Random(0)
    milliseconds = {network: simulated_ms(network) * np.exp(generator.gauss(0, noise)) for network in networks}
    return Measurements(device="phone", milliseconds=milliseconds, unmeasured=0)


@pytest.fixture(scope="module")
def hundred():
    """100 networks in a random order."""
    return random.Random(0).sample(spread(SPACE, 100, num_classes=10), 100)


def mape_pct(predicted, true):
    return 100 * np.mean(np.abs(np.array(predicted) / np.array(true) - 1))


def test_a_sample_is_spread_over_the_costs_and_not_bunched_as_random_networks_are():
    generator = random.Random(0)
    drawn = sorted(macs_m(SPACE.decode(sample(SPACE.parameters, generator))) for _ in range(60))
    networks = spread(SPACE, 60, num_classes=10)
    logs = np.log([macs_m(network) for network in networks])
    assert len(set(networks)) == 60
    assert (np.diff(logs) >= 0).all()
    assert np.exp(logs[0]) <= drawn[0]
    assert np.exp(logs[-1]) >= drawn[-1]
    evenly = np.linspace(logs[0], logs[-1], 60)
    assert np.abs(logs - evenly).max() < 0.15 < np.abs(np.log(drawn) - evenly).max()
    assert {network.resolution for network in networks} == {24, 32}


def test_a_sample_follows_from_its_seed_and_keeps_to_limits_and_resolution():
    options = {"resolution": 24, "limits": [parse_limit("macs_m<2")], "num_classes": 10}
    networks = spread(SPACE, 12, **options, seed=3)
    assert networks == spread(SPACE, 12, **options, seed=3)
    assert set(networks) != set(spread(SPACE, 12, **options, seed=4))
    assert {network.resolution for network in networks} == {24}
    assert max(map(macs_m, networks)) < 2


def test_a_small_space_gives_every_network_and_no_more():
    tiny = nas.space(str(NARROW.with_name("tiny_space.py")))
    assert {network.resolution for network in spread(tiny, 3)} == {32, 48, 64}
    with pytest.raises(NasError, match=r"networks: 4 are too many, as walks through space tiny .* at only 3 different ones"):
        spread(tiny, 4)


def test_a_tight_limit_leaves_enough_networks():
    networks = spread(SPACE, 100, resolution=24, limits=[parse_limit("macs_m<1")], num_classes=10)
    assert len(set(networks)) == 100
    assert max(cost(network, 10).macs for network in networks) < 1e6


def test_an_interrupted_sample_continues_and_keeps_the_milliseconds(tmp_path):
    networks = spread(SPACE, 5, num_classes=10)
    folder = tmp_path / "phone"

    def interrupt(done, _):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(networks, 10, folder, on_progress=interrupt)
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("*.onnx")}
    assert len(kept) == 2
    with (
        full_disk(4_000),
        pytest.raises(NasError, match=r"\.onnx cannot be written: File too large; what was there before is kept"),
    ):
        write_sample(networks, 10, folder)
    (folder / LIST).write_text(filled := (folder / LIST).read_text().replace(",,10", ",1.5,10", 1))
    assert write_sample(networks, 10, folder) == folder / LIST
    assert (folder / LIST).read_text() == filled
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())
    assert {file.name for file in folder.iterdir()} == {LIST, *(f"{network.id}.onnx" for network in networks)}
    graph = onnx.load(folder / f"{networks[0].id}.onnx").graph
    assert [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim] == [1, 3, *[networks[0].resolution] * 2]
    assert [size.dim_value for size in graph.output[0].type.tensor_type.shape.dim] == [1, 10]


def test_a_folder_with_something_else_stays_as_it_is(tmp_path):
    networks, (folder, other, file) = spread(SPACE, 3, num_classes=10), (tmp_path / name for name in ("phone", "other", "file"))
    other.mkdir()
    (other / "thesis.tex").touch()
    file.touch()
    write_sample(networks[:2], 10, folder)
    for place, classes, sentence in (
        (other, 10, "other is not empty and has no networks.csv; give another folder with --output"),
        (file, 10, "file is no folder; give another"),
        (folder, 10, "phone has a list of other networks; give another folder"),
        (folder, 5, "phone has a list of other networks; give another folder"),
    ):
        with pytest.raises(NasError, match=sentence):
            write_sample(networks if place != folder or classes == 10 else networks[:2], classes, place)
    busy = "phone is being written by another process; wait, or give another folder"
    with locked(folder / f".{LIST}.lock", busy=""), pytest.raises(NasError, match=busy):
        write_sample(networks[:2], 10, folder)
    assert len(list(folder.iterdir())) == 4  # the list, two networks, the lock


def as_rows(networks, milliseconds):
    """The list as rows of cells, with milliseconds as texts."""
    header, *rows = csv.reader(io.StringIO(list_text(networks, 10)))
    place = header.index("ms")
    return [header, *([*row[:place], ms, *row[place + 1 :]] for row, ms in zip(rows, milliseconds, strict=True))]


def write_rows(file, rows, **dialect):
    with file.open("w", newline="", encoding=dialect.pop("encoding", "utf-8")) as stream:
        csv.writer(stream, **dialect).writerows(rows)
    return file


def test_a_list_is_read_as_any_spreadsheet_saves_it(tmp_path, hundred, caplog):
    milliseconds = [simulated_ms(network) for network in hundred[:12]]
    rows = as_rows(hundred[:12], [f"{ms:.6f}" for ms in milliseconds])
    german = [[cell.replace(".", ",") if cell.replace(".", "").isdecimal() else cell for cell in row] for row in rows]
    wide = [[f"Gerät {i}", *reversed(row), "a, b; c"] for i, row in enumerate(rows)]
    wide[0][0], wide[0][-1] = "note", ""
    expected = dict(zip(hundred[:12], milliseconds, strict=True))
    for name, saved, dialect in (
        ("plain", rows, {}),
        ("german", german, {"delimiter": ";", "encoding": "utf-8-sig"}),
        ("wide", [*wide, [], [""] * 8], {"delimiter": "\t", "encoding": "cp1252"}),
        ("unicode", [[], *rows], {"delimiter": "\t", "encoding": "utf-16"}),
    ):
        read = read_measurements(write_rows(tmp_path / f"{name}.csv", saved, **dialect), SPACE, 10)
        assert read.device == name
        assert read.milliseconds == pytest.approx(expected, abs=1e-6)
    german_file = tmp_path / "german.csv"
    german_file.write_text('"sep=;"\n' + german_file.read_text(encoding="utf-8-sig"))  # as Excel's own export begins
    assert read_measurements(german_file, SPACE, 10).milliseconds == pytest.approx(expected, abs=1e-6)
    twice = [*rows, *([*row[:3], str(3 * float(row[3])), *row[4:]] for row in rows[1:]), as_rows(hundred[12:13], [""])[1]]
    read = read_measurements(write_rows(tmp_path / "twice.csv", twice), SPACE, 10)
    assert read.unmeasured == 1
    assert "twice.csv: 12 networks have milliseconds that differ by more than 1.5 times" in caplog.text
    assert read.milliseconds == pytest.approx({network: 2 * ms for network, ms in expected.items()}, abs=1e-5)


def changed(row, **cells):
    """A function that changes cells of a row of the list, counted from the header's 0."""

    def change(rows):
        places = {rows[0].index(name): value for name, value in cells.items()}
        return [
            [places.get(i, cell) if number == row else cell for i, cell in enumerate(line)] for number, line in enumerate(rows)
        ]

    return change


OTHER = replace(nas.reference("mobilenetv3_small_100"), resolution=24)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            changed(3, ms="fast"),
            "line 4: ms 'fast' is not a number of milliseconds above 0; leave it empty if it was not measured",
        ),
        (changed(3, ms="-2"), "line 4: ms '-2' is not"),
        (changed(3, ms="0"), "line 4: ms '0' is not"),
        (changed(3, ms="nan"), "line 4: ms 'nan' is not"),
        (changed(3, ms="1,5"), "line 4: ms '1,5' is not"),  # commas separate the cells, so it may be a thousand and a half
        (changed(3, file="a1.onnx"), "line 4: file 'a1.onnx' is not that of the row's architecture, which is 'a"),
        (
            changed(3, architecture=""),
            r"line 4: file 'a\w+.onnx' has no architecture; keep only the rows of `nas latency sample`",
        ),
        (changed(3, architecture='{"head":'), "line 4: architecture: the text is not JSON"),
        (changed(3, classes="ten"), "line 4: classes 'ten' is not a whole number of 1 or more"),
        (changed(3, classes="11"), "line 4: its network has 11 classes, not 10; give --classes 11"),
        (
            changed(3, architecture=OTHER.to_json(), file=f"{OTHER.id}.onnx"),
            r"line 4: architecture a\w+ is not in space narrow.*; name the space that the list was made for",
        ),
        (
            changed(0, ms="milliseconds"),
            "there is no column 'ms'; give a CSV file with the columns file, ms, classes, architecture",
        ),
        (lambda rows: rows, "phone.csv: all 11 networks take 2.5 ms; write the milliseconds of each"),
        (lambda rows: [], "there is no column 'file'"),
        (lambda rows: [[*row, row[3]] for row in rows], "there are two columns 'ms'; leave one"),
        (lambda rows: rows[:6], "has the milliseconds of 5 networks; a table needs 10 or more, and 100 are better"),
        (lambda rows: changed(9, ms="")(changed(3, ms="")(rows)), "has the milliseconds of 9 networks"),
    ],
)
def test_a_wrong_list_is_one_sentence(change, sentence, tmp_path, hundred):
    rows = as_rows(hundred[:11], ["2.5"] * 11)
    with pytest.raises(NasError, match=sentence):
        read_measurements(write_rows(tmp_path / "phone.csv", change(rows)), SPACE, 10)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sample", NARROW, "--output", "s", "--networks", "9"], "networks: 9 is not 10 or more, which a table needs"),
        (["sample", NARROW, "--output", "s", "--resolution", "28"], "resolution: 28 is not one of space narrow"),
        (["sample", NARROW, "--output", "s", "--limit", "macs_m<0.1"], "no network of space narrow with these limits"),
        (["build", NARROW, "--measured", "none.csv"], "none.csv cannot be read: No such file or directory"),
        (["build", NARROW, "--measured", "."], " cannot be read: Is a directory"),
        (
            ["build", NARROW, "--measured", "a.csv", "--threads", "4"],
            "--dtype say how this machine measures, but a.csv was measured",
        ),
        (["build", NARROW, "--measured", "a.csv", "--output", "a.csv"], "output: a.csv is the file of --measured"),
        (["build", NARROW, "--measured", "a.csv", "--output", "../{name}/a.csv"], "is the file of --measured"),
        (["build", NARROW, "--measured", "a.json"], "output: a.json is the file of --measured; give another for the table"),
    ],
)
def test_a_wrong_command_is_one_sentence(arguments, sentence, mistaken, tmp_path):
    assert sentence in mistaken("latency", *(str(word).format(name=tmp_path.name) for word in arguments), cwd=tmp_path)


def test_more_networks_predict_and_rank_better_and_better_than_a_roofline(hundred):
    similar = spread(SPACE, 40, num_classes=10, seed=1, limits=[parse_limit("macs_m<3"), parse_limit("macs_m>2.5")])
    others = [network for network in similar if network not in hundred]
    true = [simulated_ms(network) for network in others]
    few, many = (fit_table(measurements(hundred[:number]), SPACE, num_classes=10) for number in (12, 100))
    by_few, by_many = ([table.predict(network, 10) for network in others] for table in (few, many))
    assert mape_pct(by_many, true) < 4 < mape_pct(by_few, true)
    assert kendalltau(by_many, true).statistic > kendalltau(by_few, true).statistic + 0.1
    costs = np.array([[macs_m(network), len(layers(network, 10)), 1] for network in hundred])
    factors, _ = nnls(costs / [[simulated_ms(network)] for network in hundred], np.ones(100))
    by_costs = [factors @ [macs_m(network), len(layers(network, 10)), 1] for network in others]
    assert mape_pct(by_many, true) < mape_pct(by_costs, true) / 2
    assert kendalltau(by_many, true).statistic > kendalltau(by_costs, true).statistic + 0.1


def test_the_error_in_the_table_is_that_on_networks_that_it_was_not_fitted_to(hundred):
    table = fit_table(measurements(hundred), SPACE, num_classes=10)
    others = [network for network in spread(SPACE, 60, num_classes=10, seed=2) if network not in hundred]
    error = mape_pct([table.predict(network, 10) for network in others], [simulated_ms(network) for network in others])
    fitted = mape_pct([table.predict(network, 10) for network in hundred], list(measurements(hundred).milliseconds.values()))
    assert table.check.networks == 100
    assert fitted < 0.8 * table.check.mape_pct
    assert 0.5 < table.check.mape_pct / error < 2
    assert table.check.spearman > 0.98
    noise = fit_table(replace(measurements(hundred), milliseconds=shuffled(hundred)), SPACE, num_classes=10)
    assert noise.check.mape_pct > 20 > 5 * table.check.mape_pct  # milliseconds of other networks say nothing


def test_layers_far_from_their_roofline_are_fitted_under_the_bound(monkeypatch):
    """A fit that only at its end cuts off what is below 0 leaves the sums of such networks wrong, by 12 % here."""
    monkeypatch.setattr(f"{__name__}.layer_spread", lambda key: 1.5 * random.Random(key).gauss(0, 1))
    networks = random.Random(0).sample(spread(SPACE, 150, num_classes=10), 150)
    table = fit_table(measurements(networks), SPACE, num_classes=10)
    assert min(table.milliseconds.values()) >= 0
    others = [network for network in spread(SPACE, 60, num_classes=10, seed=2) if network not in networks]
    predicted = [table.predict(network, 10) for network in others]
    assert mape_pct(predicted, [simulated_ms(network) for network in others]) < 5


def shuffled(networks):
    return dict(zip(networks, (simulated_ms(network) for network in reversed(networks)), strict=True))


def test_a_table_has_every_layer_between_the_measured_resolutions(hundred):
    small = [network for network in hundred if network.resolution == 24]
    table = fit_table(measurements(small[:20]), SPACE, num_classes=10)
    generator = random.Random(1)
    for _ in range(50):
        network = SPACE.decode(sample(SPACE.parameters, generator))
        assert bool(table.missing(network, 10)) == (network.resolution == 32)
    assert min(table.milliseconds.values()) >= 0
    with pytest.raises(NasError, match="networks were measured at 24 to 24 px, and none of space narrow is there with this"):
        fit_table(measurements(small[:20]), SPACE, resolution=32, num_classes=10)
    unseen = table.milliseconds.keys() - {layer.key for network in small[:20] for layer in layers(network, 10)}
    assert unseen
    off = {f"stage{stage}.squeeze": False for stage in (1, 2, 3)}
    without = fit_table(measurements([SPACE.decode(SPACE.encode(one) | off) for one in small[:20]]), SPACE, num_classes=10)
    squeezes = [ms for key, ms in without.milliseconds.items() if key.startswith("squeeze")]
    assert squeezes
    assert min(squeezes) > 0  # by the roofline of all layers, as no network has one


def test_a_phones_networks_are_sampled_measured_fitted_and_searched(tmp_path, typed, mistaken, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    printed = typed("latency", "sample", NARROW, "--networks", 40, "--classes", 10, "--output", "s", cwd=tmp_path)
    assert printed.splitlines()[-1] == f"nas latency build {NARROW} --measured s/networks.csv --classes 10"
    listed = read_list(tmp_path / "s" / LIST)
    assert all(row.ms is None for row in listed)
    milliseconds = [f"{simulated_ms(row.architecture):.4f}" for row in listed]
    file = write_rows(tmp_path / "pixel.csv", as_rows([row.architecture for row in listed], [*milliseconds[:-3], "", "", ""]))
    printed = typed("latency", "build", NARROW, "--measured", file, "--classes", 10, cwd=tmp_path)
    table = read_table(tmp_path / "pixel.json")
    assert (table.device, table.setup, table.check.networks) == ("pixel", None, 37)
    assert re.search(r"37 measured networks of [\d.]+ to [\d.]+ ms; 3 rows have no milliseconds and are left out", printed)
    assert str(table.check) in printed
    assert (
        f"pixel, fitted to the latencies of whole networks; over 37 held-out networks MAPE {table.check.mape_pct:.1f} %"
        in printed
    )
    for taken in ("s/networks.csv", "pixel.csv"):
        sentence = mistaken("latency", "build", NARROW, "--measured", file, "--classes", 10, "--output", taken, cwd=tmp_path)
        assert sentence.startswith(f"nas: output: {taken} is ")
    assert read_list(tmp_path / "s" / LIST) == listed
    sentence = mistaken("latency", "check", "pixel.json", "--space", NARROW, "--classes", 10, cwd=tmp_path)
    assert "the latency table of pixel was fitted to networks measured there, so this machine cannot check it" in sentence
    objectives = (objective("val_top1_pct"), objective("latency_ms"))
    experiment = replace(EXPERIMENT, space=SPACE, objectives=objectives, latency=str(tmp_path / "pixel.json"))
    point = problem_of(with_latency(experiment)).examine(SPACE.encode(listed[-1].architecture))
    assert point.values["latency_ms"] == pytest.approx(simulated_ms(listed[-1].architecture), rel=0.2)
    table.write(table_folder() / "pixel.json")
    assert newest_table("narrow", [listed[0].architecture], 10) is None  # a table of another device is used by name alone


def test_networks_that_onnxruntime_runs_give_a_table(tmp_path):
    networks = spread(SPACE, 12, num_classes=10)
    milliseconds = []
    for network in networks:
        with runner(network, 10, ONE_THREAD) as run:
            milliseconds.append(f"{np.median(timed(run, 0.02)[0]):.6f}")
    file = write_rows(tmp_path / "here.csv", as_rows(networks, milliseconds))
    table = fit_table(read_measurements(file, SPACE, 10), SPACE, num_classes=10)
    table.write(tmp_path / "here.json")
    assert read_table(tmp_path / "here.json") == table
    assert 0 < table.predict(networks[0], 10) < table.predict(networks[-1], 10)
