"""`nas scale`, as a user types it; of a run, see test_scaling_search."""

import csv

import pytest

import nas
from nas.cli.app import run
from nas.models.scaling import MAX_PHI


def test_the_command_prints_the_table_and_writes_the_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["scale", "efficientnet_b0", "--phi", "1", "-1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "efficientnet_b0 by alpha 1.2, beta 1.1, gamma 1.15; multiply-adds with 1,000 classes"
    assert lines[1].split() == ["phi", "depth", "width", "resolution", "params_m", "macs_m", "id"]
    scaled = nas.scale_family(nas.reference("efficientnet_b0"), [1])[0].architecture
    assert lines[2].split() == ["1", "1.2", "1.1", "258", "9.11", "992.6", scaled.id]
    assert lines[-2:] == ["scaled/efficientnet_b0", "nas train scaled/efficientnet_b0/phi1.json --dataset DATASET"]
    # from a file, with other coefficients, for a budget that two phi share
    assert run(["scale", "scaled/efficientnet_b0/phi1.json", "--macs", "300M", "1.2G", "1200000000", "--beta", "1.2"]) == 0
    with (tmp_path / "scaled" / "efficientnet_b0-phi1" / "family.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["macs_m"]) <= most for row, most in zip(rows, (300, 1200), strict=True)] == [True, True]
    assert run(["scale", "mobilenetv2_035", "--classes", "10", "--output", "mine"]) == 0
    assert "multiply-adds with 10 classes" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "mine").iterdir()} == {"family.csv", "phi1.json", "phi2.json", "phi3.json"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["efficientnet_b9"], "network 'efficientnet_b9' does not exist; did you mean"),
        (["timm:resnet18"], "timm's own network and has no architecture"),
        (["no/such.json"], "network 'no/such.json' does not exist"),
        (["efficientnet_b0", "--phi", "99"], f"phi: 99.0 is not a number from -{MAX_PHI} to {MAX_PHI}"),
        (["efficientnet_b0", "--alpha", "0.5"], "alpha: 0.5 is not a number from 1 to 100"),
        (["efficientnet_b0", "--macs", "many"], "macs: 'many' is not a number of multiply-adds"),
        (["efficientnet_b0", "--macs", "1B", "--phi", "1"], "give --phi or --macs"),
        (["efficientnet_b0", "--fit", "9"], "fit: 'efficientnet_b0' is not a run folder"),
        (["efficientnet_b0", "--trial", "1"], "trial: 'efficientnet_b0' is not a run folder"),
        (["efficientnet_b0", "--fit", "9", "--alpha", "1.2", "--beta", "1.1"], "leave out --alpha and --beta"),
        (["efficientnet_b0", "--classes", "-1"], "num_classes: -1 is not 0 or more"),
        (["efficientnet_b0", "--output", "."], "exists and is not the folder of a family"),
    ],
)
def test_a_mistake_is_one_sentence_on_stderr(tmp_path, mistaken, arguments, sentence):
    (tmp_path / "mine.txt").write_text("mine")
    assert sentence in mistaken("scale", *arguments, cwd=tmp_path)
