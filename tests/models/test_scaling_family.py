"""A family is what the rule says, a budget is kept exactly, and its folder is whole and takeable."""

import csv
import math
import re
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.models.network import find_network
from nas.models.scaling import check_output, parse_macs
from nas.models.zoo import EFFICIENTNET_COEFFICIENTS
from nas.searching.warm_start import find_architectures
from tests.conftest import architectures

B0 = nas.reference("efficientnet_b0")
SMALL = replace(nas.reference("mobilenetv2_035"), resolution=64)

# MBConv stages of B0: repeats and output channels (arXiv:1905.11946, table 1).
REPEATS = (1, 2, 2, 3, 3, 4, 1)
CHANNELS = (16, 24, 40, 80, 112, 192, 320)


def eights(width):
    """The nearest multiple of 8, the upper of two, unless that loses more than a tenth: round_filters of the paper's code."""
    down = width // 8 * 8
    nearest = int(down if width - down < 4 else down + 8)
    return nearest + 8 if nearest * 10 < width * 9 else nearest


@pytest.mark.parametrize(
    ("phi", "pixels", "blocks", "head"), [(1, 258, 23, 1408), (2, 296, 26, 1552), (3, 341, 31, 1704)], ids=["1", "2", "3"]
)
def test_b0_by_the_published_triple_is_what_the_rule_says(phi, pixels, blocks, head):
    depth, width, resolution = Fraction(12, 10) ** phi, Fraction(11, 10) ** phi, Fraction(115, 100) ** phi
    (member,) = nas.scale_family(B0, [phi])
    scaled = member.architecture
    assert [len(stage) for stage in scaled.stages] == [math.ceil(repeats * depth) for repeats in REPEATS]
    assert [[block.width for block in stage] for stage in scaled.stages] == [
        [eights(channels * width)] * math.ceil(repeats * depth) for channels, repeats in zip(CHANNELS, REPEATS, strict=True)
    ]
    assert scaled.stem.width == eights(32 * width)
    assert scaled.head.width == eights(1280 * width) == head
    assert scaled.resolution == math.floor(224 * resolution + Fraction(1, 2)) == pixels
    assert sum(map(len, scaled.stages)) == blocks
    inputs = [scaled.stem.width, *(stage[-1].width for stage in scaled.stages)]
    for number, (stage, reads) in enumerate(zip(scaled.stages, inputs, strict=False)):
        for block, width_in in zip(stage, [reads, *(block.width for block in stage)], strict=False):
            assert block.hidden in (0, width_in * (6 if number else 1))
            assert block.squeeze == width_in // 4
    row = member.to_record()
    assert (row["depth"], row["width"]) == (pytest.approx(1.2**phi), pytest.approx(1.1**phi))
    assert member.cost == nas.cost(scaled)


def test_the_published_family_stays_as_published_and_is_not_the_rules():
    """Source: tensorflow/tpu efficientnet_builder.py; at its phi of 0.5 to 6 the rule gives other sizes (518 px for B7)."""
    published = {
        "b0": (224, [1, 2, 2, 3, 3, 4, 1], 1280),
        "b1": (240, [2, 3, 3, 4, 4, 5, 2], 1280),
        "b2": (260, [2, 3, 3, 4, 4, 5, 2], 1408),
        "b3": (300, [2, 3, 3, 5, 5, 6, 2], 1536),
        "b4": (380, [2, 4, 4, 6, 6, 8, 2], 1792),
        "b5": (456, [3, 5, 5, 7, 7, 9, 3], 2048),
        "b6": (528, [3, 6, 6, 8, 8, 11, 3], 2304),
        "b7": (600, [4, 7, 7, 10, 10, 13, 4], 2560),
    }
    found = {name: nas.reference(f"efficientnet_{name}") for name in EFFICIENTNET_COEFFICIENTS}
    assert {
        name: (one.resolution, [len(stage) for stage in one.stages], one.head.width) for name, one in found.items()
    } == published
    ruled = [member.architecture for member in nas.scale_family(B0, [0, 0.5, 1, 2, 3, 4, 5, 6])]
    assert [one.resolution for one in ruled] == [224, 240, 258, 296, 341, 392, 451, 518]
    assert [one == two for one, two in zip(ruled, found.values(), strict=True)] == [True] + [False] * 7


def test_phi_0_is_the_network_and_below_it_shrinks():
    whole, half, other = nas.scale_family(SMALL, [-0.0, -1, 0, -1.0, 2], nas.ScalingRule(alpha=2, beta=1, gamma=1))
    assert [one.phi for one in (whole, half, other)] == [0, -1, 2]  # each once
    assert whole.architecture == SMALL
    assert [len(stage) for stage in half.architecture.stages] == [-(-len(stage) // 2) for stage in SMALL.stages]


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda: nas.ScalingRule(alpha=0.9), "alpha: 0.9 is not a number from 1 to 100"),
        (lambda: nas.ScalingRule(gamma=math.nan), "gamma: nan is not a number from 1 to 100"),
        (lambda: nas.scale_family(B0, [math.nan]), "phi: nan is not a number from -30 to 30"),
        (lambda: nas.scale_family(B0, [-20]), "phi -20: resolution 14 is not from 16 to 1024"),
        (lambda: nas.scale_family(B0, [20]), "phi 20: resolution 3666 is not from 16 to 1024"),
        (
            lambda: nas.scale_family(B0, [5], nas.ScalingRule(alpha=3, gamma=1)),
            "phi 5: depth: 243.0 is not a positive number up to",
        ),
        (lambda: nas.scale_to_macs(B0, 0), "macs: 0 is not a positive number"),
        (lambda: nas.scale_to_macs(B0, math.inf), "macs: inf is not a positive number"),
        (lambda: nas.scale_to_macs(SMALL, 1000), "macs: no network of the family has as few as 1,000"),
        (
            lambda: nas.scale_to_macs(B0, 1e12),
            "macs: no network of the family has 1,000,000,000,000; the largest is at phi 10.877",
        ),
        (lambda: nas.scale_to_macs(SMALL, 1e7, nas.ScalingRule(alpha=1, beta=1, gamma=1)), "the largest is at phi 30"),
        (lambda: nas.write_family([], "nowhere"), "a family needs a network; give at least one phi"),
    ],
)
def test_a_mistake_raises_one_sentence(mistake, sentence):
    with pytest.raises(nas.NasError, match=re.escape(sentence)):
        mistake()


@settings(max_examples=30)
@given(architectures(), st.lists(st.floats(1, 1.6), min_size=3, max_size=3), st.lists(st.floats(0, 2), min_size=2, max_size=2))
def test_upwards_nothing_gets_cheaper(architecture, coefficients, phis):
    """What a bisection between 0 and the largest phi stands on."""
    rule = nas.ScalingRule(**dict(zip(("alpha", "beta", "gamma"), coefficients, strict=True)))
    members = nas.scale_family(architecture, sorted({*phis, 0.0}), rule, num_classes=10)
    macs = [member.cost.macs for member in members]
    assert macs == sorted(macs)


@pytest.fixture(scope="module")
def every():
    """phi in thousandths → multiply-adds, from -1 to 1."""
    return {step: nas.scale_family(SMALL, [step / 1000])[0].cost.macs for step in range(-1000, 1001)}


@pytest.mark.parametrize("macs", [5.2e6, 7_000_000, 7_010_000, 12e6])
def test_the_largest_phi_within_a_budget_is_that_of_an_exhaustive_search(every, macs):
    assert every[-1000] <= macs < every[1000]
    found = nas.scale_to_macs(SMALL, macs)
    assert round(found.phi * 1000) == max(step for step, cost in every.items() if cost <= macs)
    assert found.cost == nas.cost(found.architecture)
    assert found == nas.scale_family(SMALL, [found.phi])[0]  # what is printed gives the same network


def test_a_budget_met_to_the_last_multiply_add_is_kept(every):
    exact = every[700]
    assert nas.scale_to_macs(SMALL, exact).cost.macs == exact
    assert nas.scale_to_macs(SMALL, exact - 1).cost.macs < exact


def narrowing():
    """A network whose second stage reads 8 channels, or 64 where its first stage loses its last block."""
    first, second = SMALL.stages[1][-1], SMALL.stages[2][0]
    wide = replace(first, stride=1, width=64, hidden=96, skip=False)
    narrow = replace(first, stride=1, width=8, hidden=64, skip=False)
    reading = replace(second, stride=1, width=8, hidden=384, skip=True)
    return replace(SMALL, resolution=32, stages=((wide, narrow), (reading,)))


def test_a_budget_is_kept_where_a_smaller_phi_costs_more():
    rule = nas.ScalingRule(alpha=2, beta=1.2, gamma=1)
    costs = {step: nas.scale_family(narrowing(), [step / 1000], rule)[0].cost.macs for step in range(-2500, 1)}
    assert costs[-1000] > costs[-999]  # the narrow block is dropped
    for macs in (9_900_000, 9_000_000, costs[-999]):
        found = nas.scale_to_macs(narrowing(), macs, rule)
        assert round(found.phi * 1000) == max(step for step, cost in costs.items() if cost <= macs)


@pytest.mark.parametrize(
    ("text", "macs"),
    [("300M", 3e8), ("1.2B", 1.2e9), ("1.2g", 1.2e9), ("300000000", 3e8), (".5M", 5e5), ("250k", 2.5e5)],
)
def test_multiply_adds_are_read_as_people_write_them(text, macs):
    assert parse_macs(text) == macs


@pytest.mark.parametrize("text", ["", "M", "-3M", "3T", "nan", "1e9M", "3 MM", "1.2.3", "٣M"])
def test_what_is_no_number_of_multiply_adds_is_refused(text):
    with pytest.raises(nas.NasError, match="is not a number of multiply-adds, such as 300M"):
        parse_macs(text)


def test_a_familys_folder_has_texts_and_a_table_that_agree(tmp_path):
    members = nas.scale_family(SMALL, [-1, 0.5, 2], nas.ScalingRule(alpha=1.4), num_classes=10)
    folder = nas.write_family(members, tmp_path / "deep" / "family")
    assert {file.name for file in folder.iterdir()} == {"family.csv", "phi-1.json", "phi0.5.json", "phi2.json"}
    with (folder / "family.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for member, row in zip(members, rows, strict=True):
        assert (folder / row["file"]).read_text() == member.architecture.to_json() + "\n"
        assert find_network(str(folder / row["file"])).id == row["id"] == member.architecture.id  # as `nas train` reads it
        assert find_architectures(str(folder / row["file"])) == [member.architecture]  # and --start
        assert float(row["macs_m"]) == nas.cost(member.architecture, 10).macs / 1e6
        assert (float(row["phi"]), int(row["resolution"])) == (member.phi, member.architecture.resolution)
        assert [float(row[name]) for name in ("alpha", "beta", "gamma")] == [1.4, 1.1, 1.15]


def test_a_family_takes_the_place_of_its_like_alone(tmp_path):
    folder = nas.write_family(nas.scale_family(SMALL), tmp_path / "family")
    nas.write_family(nas.scale_family(SMALL, [0.5]), folder)
    assert {file.name for file in folder.iterdir()} == {"family.csv", "phi0.5.json"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["family"]  # nothing is left beside it
    (tmp_path / "empty").mkdir()
    nas.write_family(nas.scale_family(SMALL), tmp_path / "empty")

    def refused(target):
        before = sorted(target.rglob("*")) if target.is_dir() else target.read_text()
        with pytest.raises(nas.NasError, match="exists and is not the folder of a family; give another folder"):
            nas.write_family(nas.scale_family(SMALL), target)
        with pytest.raises(nas.NasError, match="is not the folder of a family"):
            check_output(target)
        assert before == (sorted(target.rglob("*")) if target.is_dir() else target.read_text())

    (tmp_path / "empty" / "notes.txt").write_text("mine")
    refused(tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file")


def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(nas.NasError, match=r"cannot be written: .*, or give another folder"):
        nas.write_family(nas.scale_family(SMALL), tmp_path / "file" / "family")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
