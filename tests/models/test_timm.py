"""Networks of ours are timm's citizens: its own model checks pass on random networks of every space."""

import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.utils import reparameterize_model

import nas
from nas.spaces import sample

nas.register_with_timm()
SPACES = ("mnasnet", "mobilenetv3", "mobilenetv4", "efficientnet", "compound")
SIDE = 64
OPTIONS = {"num_classes": 5, "drop_rate": 0.1, "drop_path_rate": 0.1}


def random_network(space, seed):
    """The plain values of a random network that is small enough to train a step of."""
    found, generator = nas.space(space), random.Random(seed)
    while True:
        architecture = replace(found.decode(sample(found.parameters, generator)), resolution=SIDE)
        if nas.cost(architecture).params < 6e6:
            return json.loads(architecture.to_json())


@pytest.fixture(params=[(space, seed) for space in SPACES for seed in range(2)], ids=lambda param: f"{param[0]}-{param[1]}")
def plain(request):
    return random_network(*request.param)


def test_timms_model_checks(plain):
    """What timm's own tests ask of each of its models."""
    torch.manual_seed(0)
    model = timm.create_model("frontier_nas", architecture=plain, **OPTIONS)
    x = torch.randn(2, 3, SIDE, SIDE)

    model.train()(x).mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    model.eval()
    with torch.inference_mode():
        logits = model(x)
        assert logits.shape == (2, 5)
        assert torch.equal(model.forward_head(model.forward_features(x)), logits)
        final, maps = model.forward_intermediates(x)
        assert torch.equal(final, model.forward_features(x))
        assert [tuple(m.shape[1:]) for m in maps] == [
            (info["num_chs"], SIDE // info["reduction"], SIDE // info["reduction"]) for info in model.feature_info
        ]
        assert torch.allclose(reparameterize_model(model)(x), logits, atol=1e-5)
        assert model.get_classifier().out_features == 5
        model.reset_classifier(0)
        assert model(x).shape == (2, model.head_hidden_size)
        model.reset_classifier(0, "")
        assert model(x).ndim == 4 or model.head_hidden_size != model.num_features

    headless = timm.create_model("frontier_nas", architecture=plain, num_classes=0).eval()
    with torch.inference_mode():
        assert headless(x).shape == (2, headless.head_hidden_size)
        assert headless.forward_features(x).shape[1] == headless.num_features


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.parametrize("space", SPACES)
def test_torchscript_takes_it(space):
    model = timm.create_model("frontier_nas", architecture=random_network(space, 0), num_classes=5).eval()
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert torch.allclose(torch.jit.script(model)(x), model(x), atol=1e-5)


def test_timms_feature_maps(plain):
    model = timm.create_model("frontier_nas", architecture=plain, features_only=True).eval()
    some = timm.create_model("frontier_nas", architecture=plain, features_only=True, out_indices=(1, 3)).eval()
    with torch.inference_mode():
        maps, chosen = model(torch.zeros(1, 3, SIDE, SIDE)), some(torch.zeros(1, 3, SIDE, SIDE))
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [SIDE // m.shape[-1] for m in maps] == model.feature_info.reduction()
    assert model.feature_info.reduction() == [2**i for i in range(1, len(maps) + 1)]
    assert [m.shape for m in chosen] == [maps[1].shape, maps[3].shape]


def test_timms_optimizers_and_checkpointing(plain):
    """Layer-wise learning rates group every parameter, and a checkpointed step has the same gradients."""
    torch.manual_seed(0)
    model = timm.create_model("frontier_nas", architecture=plain, num_classes=5).eval()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    x = torch.randn(1, 3, SIDE, SIDE)
    gradients = []
    for checkpointed in (False, True):
        model.set_grad_checkpointing(checkpointed)
        model.zero_grad()
        model(x).sum().backward()
        gradients.append(model.conv_stem.weight.grad.clone())
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5 * float(gradients[0].abs().max()))


def test_timm_knows_our_networks_once_one_is_built_and_importing_nas_does_nothing():
    lines = (
        "import nas, timm; assert not timm.is_model('frontier_nas')",
        "nas.build(nas.reference('mobilenetv2_035')); assert timm.is_model('frontier_nas')",
        "nas.register_with_timm()",
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", "\n".join(lines)], check=True)


def test_values_that_are_no_architecture_are_one_sentence():
    plain = random_network("mobilenetv3", 0)
    plain["stem"]["width"] = 2**40
    with pytest.raises(nas.NasError, match=r"architecture\.stem\.width: 1099511627776 is not a multiple of 8 from 8 to 16384"):
        timm.create_model("frontier_nas", architecture=plain)
