"""A drawing holds the whole network: every block with what it is, every stage with what it costs."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings

import nas
from nas.models.architecture import Architecture
from tests.conftest import architectures

SVG = "{http://www.w3.org/2000/svg}"


def boxes(drawing):
    """The two lines of text in each box, with whether an arc stands over it."""
    groups = ET.fromstring(drawing).iter(f"{SVG}g")
    return [(*(line.text for line in group.iter(f"{SVG}text")), group.find(f"{SVG}path") is not None) for group in groups]


def described(block, width_in):
    """What a box says of a block."""
    stride = "/2" if block.stride == 2 else ""
    expansion = f"×{block.hidden / width_in:.3g} " if block.hidden else ""
    squeeze = " SE" if block.squeeze else ""
    kernels = f"{block.start_kernel}+{block.kernel}" if block.op == "uib" else f"{block.kernel}×{block.kernel}"
    return f"{block.op} {kernels}{stride}", f"{expansion}→ {block.width}{squeeze}", block.skip


def check_blocks(network):
    (_, *blocks, _), (stem, *others) = network.walk(), boxes(nas.draw(network))
    assert stem[:2] == ("conv 3×3" + "/2" * (network.stem.stride == 2), f"→ {network.stem.width}")
    assert others[: len(blocks)] == [described(block, width_in) for block, width_in, *_ in blocks]
    head = {text for _, text, _ in others[len(blocks) :]}
    assert {"→ 1×1", "→ 1000"} <= head
    assert network.head.width == 0 or f"→ {network.head.width}" in head


@pytest.mark.parametrize("name", nas.references())
def test_every_block_of_every_reference_is_there(name):
    check_blocks(nas.reference(name))


@settings(max_examples=30)
@given(architectures())
def test_every_block_of_any_network_is_there(architecture):
    check_blocks(architecture)


def test_no_box_lies_on_another_or_outside():
    root = ET.fromstring(nas.draw(nas.reference("efficientnet_b7")))  # 13 blocks in a stage, on three lines
    places = [(float(rect.get("x")), float(rect.get("y"))) for group in root.iter(f"{SVG}g") for rect in group.iter(f"{SVG}rect")]
    assert len(set(places)) == len(places) == 1 + 55 + 3
    _, _, width, height = map(float, root.get("viewBox").split())
    assert all(0 < x < width - 94 and 0 < y < height - 34 for x, y in places)
    assert all(abs(x - u) >= 94 or abs(y - v) >= 34 for x, y in places for u, v in places if (x, y) != (u, v))


def test_stages_have_their_sizes_and_costs():
    network = nas.reference("mobilenetv3_small_100")
    texts = [text.text for text in ET.fromstring(nas.draw(network, num_classes=10)).iter(f"{SVG}text")]
    cost = nas.cost(network, num_classes=10)
    assert texts[0] == f"{cost.params / 1e6:.2f} M params, {cost.macs / 1e6:.1f} M MACs at 224 × 224 px"
    sizes = [text for text in texts if text.endswith(" px") and "→" in text]
    assert sizes == ["224 → 112 px", "112 → 56 px", "56 → 28 px", "28 → 14 px", "14 → 7 px", "7 → 1 px"]
    params = texts[texts.index("params") + 1 : texts.index("MACs")]
    stem, head = 27 * 16 + 2 * 16, (576 * 1024 + 1024) + (1024 * 10 + 10)
    assert (params[0], params[-1]) == (str(stem), f"{head / 1e3:.0f} k")
    assert len(params) == len(network.stages) + 2


def test_colours_are_the_texts_around_it_or_of_the_readers_scheme():
    drawing = nas.draw(nas.reference("mnasnet_100"))
    assert "fill:currentColor" in drawing
    assert "prefers-color-scheme:dark" in drawing
    assert set(re.findall(r'fill="([^"]*)"', drawing)) == {"#c3c9d0", "#8cc8ee", "#f0b64a"}


def test_a_notebook_shows_an_architecture_and_a_drawing():
    network = nas.reference("mnasnet_100")
    assert network._repr_svg_() == nas.draw(network)._repr_svg_() == str(nas.draw(network))
    assert Architecture.from_json(network.to_json())._repr_svg_().startswith("<svg ")


def test_a_negative_number_of_classes_is_one_sentence():
    with pytest.raises(nas.NasError, match="num_classes: -1 is not 0 or more"):
        nas.draw(nas.reference("mnasnet_100"), num_classes=-1)
