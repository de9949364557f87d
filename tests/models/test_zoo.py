"""The published networks are exact: their counts are the table's, and with timm's weights they compute what timm's do."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

import nas
from nas.errors import NasError

TABLE = Path(__file__).parent.parent / "data" / "reference_costs.csv"


def rows():
    lines = [line for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    return {row["model"]: {key: int(value) for key, value in row.items() if key != "model"} for row in csv.DictReader(lines)}


ROWS = rows()
REFERENCES = nas.references()
SMALLEST = (  # of each table and convention
    *("mobilenetv1_100", "mobilenetv2_035", "mnasnet_small", "mnasnet_050", "semnasnet_050", "fbnetc_100", "spnasnet_100"),
    *("mobilenetv3_small_075", "mobilenetv3_large_075", "tf_mobilenetv3_small_minimal_100", "efficientnet_b0"),
    *("tf_efficientnet_b0", "tf_efficientnet_lite0", "efficientnetv2_s"),
    *("mobilenetv4_conv_small_035", "mobilenetv4_conv_medium", "mobilenetv4_conv_large"),
)


def randomised(model, seed):
    """Weights as they are, but BatchNorm's statistics and affine parameters away from 0 and 1, where they would hide."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return model


def test_the_table_covers_every_network_that_must_be_exact():
    families = (
        "mobilenetv1_100",
        "mobilenetv2_",
        "mobilenetv3_large_",
        "mobilenetv3_small_",
        "mobilenetv4_conv_",
        "mnasnet_",
        "semnasnet_",
        "fbnetc_100",
    )
    families += (
        "spnasnet_100",
        "tf_efficientnet_b",
        "tf_efficientnet_lite",
        "tf_efficientnetv2_",
        "tf_mobilenetv3_small_minimal",
    )
    for family in families:
        assert any(name.startswith(family) for name in ROWS), family
    assert set(ROWS) <= set(REFERENCES)


@pytest.mark.parametrize("name", REFERENCES)
def test_params_and_macs_are_the_tables_to_the_last_digit(name):
    row = ROWS.get(name) or ROWS[f"tf_{name}"]  # padding and epsilon change neither
    architecture = nas.reference(name)
    cost = nas.cost(replace(architecture, resolution=224))
    assert (cost.params, cost.macs) == (row["params"], row["macs_224"])
    if architecture.resolution == row["native_res"]:
        assert nas.cost(architecture).macs == row["macs_native"]


@pytest.mark.parametrize("name", REFERENCES)
def test_every_layer_and_weight_is_timms(name):
    """Kinds, widths, kernels, strides, paddings, epsilons, activations and gates: timm's own classes and names."""
    with torch.device("meta"):
        theirs, ours = timm.create_model(name), nas.build(nas.reference(name))
    assert (type(ours), str(ours)) == (type(theirs), str(theirs))
    shapes, timms = ({key: value.shape for key, value in model.state_dict().items()} for model in (ours, theirs))
    assert shapes == timms


@pytest.mark.parametrize("name", SMALLEST)
def test_logits_are_timms_with_timms_weights(name):
    theirs = randomised(timm.create_model(name), seed=1).double().eval()
    ours = nas.build(nas.reference(name)).double().eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 65, 65, dtype=torch.float64, generator=torch.Generator().manual_seed(2))  # odd, so that padding shows
    with torch.inference_mode():
        expected, computed = theirs(x), ours(x)
    assert ((computed - expected).abs().max() / expected.abs().max()).item() <= 1e-9


def test_an_unknown_reference_is_answered_with_the_nearest_name():
    with pytest.raises(NasError, match="reference 'mobilenet_v3_large' does not exist; did you mean 'mobilenetv3_large_"):
        nas.reference("mobilenet_v3_large")
