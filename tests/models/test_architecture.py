"""An architecture is its canonical text: equal networks have equal ids, and no text can do harm."""

import io
import json
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nas
from nas.errors import ArchitectureError
from nas.models.architecture import Architecture, architecture_id, round_width
from tests.conftest import architectures

TEXT = nas.reference("mobilenetv3_small_100").to_json()
UNIVERSAL = nas.reference("mobilenetv4_conv_small").to_json()
PATHS = [
    ("resolution",),
    ("convention",),
    ("activation",),
    ("stem",),
    ("stem", "width"),
    ("stem", "stride"),
    ("head", "kind"),
    ("head", "width"),
    ("stages",),
    ("stages", 1),
    ("stages", 1, 0),
    *(("stages", 1, 0, name) for name in ("op", "kernel", "stride", "width", "hidden", "squeeze", "gate", "activation", "skip")),
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.integers(2**60, 2**200),
)


def with_value(text, path, value):
    described = json.loads(text)
    place = described
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(described)


@settings(max_examples=40)
@given(architectures())
def test_text_round_trip(architecture):
    text = architecture.to_json()
    again = Architecture.from_json(text)
    assert again == architecture
    assert again.to_json() == text
    assert again.id == architecture.id


@settings(max_examples=40)
@given(architectures(), architectures())
def test_equal_networks_and_only_those_have_equal_ids(one, other):
    assert (one == other) == (one.to_json() == other.to_json()) == (one.id == other.id)


@given(st.text())
def test_any_text_is_an_architecture_or_a_nas_error(text):
    with pytest.raises(nas.NasError):
        Architecture.from_json(text)


@given(st.sampled_from(PATHS), VALUES)
def test_a_wrong_value_anywhere_gives_a_nas_error(path, value):
    text = with_value(TEXT, path, value)
    try:
        architecture = Architecture.from_json(text)
    except nas.NasError:
        return
    assert json.loads(architecture.to_json()) == json.loads(text)  # it was a right value after all


@given(st.integers(0, len(TEXT)), st.integers(0, 40), st.text(max_size=4))
def test_a_damaged_text_gives_a_nas_error(start, length, filler):
    text = TEXT[:start] + filler + TEXT[start + length :]
    try:
        architecture = Architecture.from_json(text)
    except nas.NasError:
        return
    assert json.loads(architecture.to_json()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 50_000,
        "1" * 5_000,
        "NaN",
        "Infinity",
        "null",
        '"\ud800"',
        " " * 2_000_000,
        TEXT.replace('"resolution":224', '"resolution":224,"resolution":224'),
        TEXT.replace('"resolution":224', '"resolution":224.0'),
        TEXT.replace('"resolution":224', '"resolution":true'),
        TEXT.replace('"width":1024', '"width":16392'),
    ],
    ids=range(12),
)
def test_hostile_texts_give_one_sentence(text):
    with pytest.raises(nas.NasError) as caught:
        Architecture.from_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [None, 3, b"{}", ["x"], {}])
def test_what_is_not_a_text_gives_a_nas_error(value):
    with pytest.raises(ArchitectureError):
        Architecture.from_json(value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("stages", 2, 0, "kernel"), 4, "architecture.stages[2][0].kernel: 4 is not one of 3, 5, 7"),
        (("stages", 2, 0, "width"), 41, "architecture.stages[2][0].width: 41 is not a multiple of 8 from 8 to 16384"),
        (("stages", 2, 1, "stride"), 2, "architecture.stages[2][1].stride: 2 is not 1, as only the first block"),
        (("stages", 0, 0, "skip"), True, "architecture.stages[0][0].skip: True is not possible"),
        (("resolution",), 8, "architecture.resolution: 8 is not a whole number from 16 to 1024"),
        (("head", "kind"), "vit", "architecture.head.kind: 'vit' is not one of efficientnet, mobilenetv3, mobilenetv4"),
        (("stages", 2, 0, "start_kernel"), 3, "architecture.stages[2][0].start_kernel: 3 is not 0, as op 'mbconv' has none"),
        (("colour",), 1, "architecture: 'colour' is not a field; the fields are resolution,"),
        (("stages", 2, 0, "gate"), None, "architecture.stages[2][0].gate: None is not one of sigmoid, hard_sigmoid"),
    ],
)
def test_an_error_names_the_field_the_value_and_what_is_allowed(path, value, message):
    with pytest.raises(ArchitectureError) as caught:
        Architecture.from_json(with_value(TEXT, path, value))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("stages", 3, 0, "start_kernel"), 1, "architecture.stages[3][0].start_kernel: 1 is not one of 0, 3, 5, 7"),
        (("stages", 3, 0, "start_kernel"), True, "architecture.stages[3][0].start_kernel: True is not one of 0, 3, 5, 7"),
        (("stages", 3, 0, "hidden"), 0, "architecture.stages[3][0].hidden: 0 is not a multiple of 8"),
        (
            ("stages", 2, 1, "op"),
            "mbconv",
            "architecture.stages[2][1].op: 'mbconv' is not 'uib', which is an inverted bottleneck's",
        ),
        (
            ("head", "kind"),
            "mobilenetv3",
            "architecture.stages[2][1].op: 'uib' is not 'mbconv', which is an inverted bottleneck's",
        ),
    ],
)
def test_an_error_in_a_universal_block_says_what_is_allowed(path, value, message):
    with pytest.raises(ArchitectureError) as caught:
        Architecture.from_json(with_value(UNIVERSAL, path, value))
    assert str(caught.value).startswith(message)


def test_a_universal_block_without_kernels_cannot_have_a_stride():
    block = nas.reference("mobilenetv4_conv_small").stages[2][0]
    assert replace(block, kernel=0).stride == 2  # that of the depthwise convolution before the expansion
    with pytest.raises(ArchitectureError, match="stride: 2 is not 1, as a block without kernels cannot downsample"):
        replace(block, kernel=0, start_kernel=0)


def test_texts_from_before_the_universal_block_keep_their_ids():
    """Only a block that has a kernel before its expansion writes it."""
    assert nas.reference("mobilenetv3_small_100").id == "a13a855d9c23942a"
    assert "start_kernel" not in TEXT
    assert UNIVERSAL.count("start_kernel") == 4
    with_zero = with_value(UNIVERSAL, ("stages", 2, 1, "start_kernel"), 0)
    assert with_zero != UNIVERSAL
    assert Architecture.from_json(with_zero).to_json() == UNIVERSAL


@given(st.sampled_from(("op", "kernel", "start_kernel", "hidden", "stride")), VALUES.filter(lambda value: value != 0))
def test_a_wrong_value_in_a_universal_block_gives_a_nas_error(name, value):
    text = with_value(UNIVERSAL, ("stages", 3, 1, name), value)
    try:
        architecture = Architecture.from_json(text)
    except nas.NasError:
        return
    assert json.loads(architecture.to_json()) == json.loads(text)


@pytest.mark.parametrize("depth", range(900, 1000, 20))
def test_a_value_nested_to_the_parsers_limit_gives_a_nas_error(depth):
    for field in ('"resolution":224', '"kernel":3'):
        with pytest.raises(nas.NasError):
            Architecture.from_json(TEXT.replace(field, field.split(":")[0] + ":" + "[" * depth + "]" * depth, 1))


def test_a_missing_field_is_named():
    described = json.loads(TEXT)
    del described["stages"][0][0]["kernel"]
    with pytest.raises(ArchitectureError, match=r"architecture\.stages\[0\]\[0\]\.kernel: missing"):
        Architecture.from_json(json.dumps(described))


def test_no_text_can_ask_for_more_than_the_bounds():
    """Each width is allowed by itself; together they would be terabytes."""
    block = nas.reference("efficientnetv2_s").stages[1][0]
    huge = replace(block, kernel=7, width=16_384, hidden=16_384, stride=1, squeeze=0, gate=None, skip=False)
    described = json.loads(TEXT)
    described["stages"] = [[{name: getattr(huge, name) for name in huge.__slots__}] * 64] * 16
    with pytest.raises(ArchitectureError, match="number of weights"):
        Architecture.from_json(json.dumps(described))
    described = json.loads(TEXT) | {"resolution": 1024, "stem": {"width": 16_384, "stride": 1}}
    with pytest.raises(ArchitectureError, match="feature map"):
        Architecture.from_json(json.dumps(described))
    plain = replace(block, op="conv", width=8, hidden=0, kernel=1, linear=False)
    described = json.loads(TEXT) | {"resolution": 1024, "stem": {"width": 8, "stride": 1}}
    described |= {"stages": [[{name: getattr(plain, name) for name in plain.__slots__}]]}
    described |= {"head": {"kind": "efficientnet", "width": 16_384}}
    with pytest.raises(ArchitectureError, match="feature map"):
        Architecture.from_json(json.dumps(described))


def test_layout_and_order_of_a_text_do_not_matter():
    described = json.loads(TEXT)
    text = json.dumps(dict(reversed(described.items())), indent=4)
    assert Architecture.from_json(text).to_json() == TEXT


def test_five_downsampling_stages_are_refused():
    """timm dilates beyond output stride 32, so such a network would not be what it says."""
    architecture = nas.reference("mobilenetv2_100")
    stages = [
        *architecture.stages[:4],
        (replace(architecture.stages[4][0], stride=2), *architecture.stages[4][1:]),
        *architecture.stages[5:],
    ]
    with pytest.raises(ArchitectureError, match="stages: 5 is not a number of stages with stride 2 up to 4"):
        replace(architecture, stages=tuple(stages))


@pytest.mark.parametrize(("width", "rounded"), [(1, 8), (11.2, 16), (12, 16), (24 * 3.67, 88), (80 * 2.3, 184), (160 * 1.4, 224)])
def test_widths_round_to_8_and_never_fall_by_more_than_a_tenth(width, rounded):
    assert round_width(width) == rounded


def test_no_reader_of_tables_takes_an_id_for_a_number():
    """Without its letter, one of decimal digits and an e is a number with an exponent, which reads as infinite."""
    ids = [architecture_id(str(number)) for number in range(5000)]
    risky = [name for name in ids if name[1:].replace("e", "", 1).isdigit()]
    assert len(risky) > 5
    assert [pd.read_csv(io.StringIO(f"id\n{name}")).loc[0, "id"] for name in risky] == risky
