"""A network serves torchvision's heads as a backbone: both learn to find shapes on images that they were not trained on."""

import json
import random
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import nas
from experiments.heads import detection, segmentation
from experiments.heads.backbone import open_backbone
from experiments.heads.bifpn import BiFPN, Node
from experiments.heads.command import command
from experiments.heads.shapes import CLASSES, draw
from nas import NasError
from nas.models.export_folder import write_digests
from nas.plugins import plugin_names
from nas.spaces import sample

pytestmark = pytest.mark.slow
SIZE = 64  # pixels
SMALL = "mobilenetv3_small_100"


@pytest.fixture(autouse=True)
def one_thread():
    """Small layers take longer on several threads, the more so where other tests run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def held_out():
    return draw(64, SIZE, np.random.default_rng(100))


# EfficientDet-Dphi's neck on the maps of its EfficientNet, without biases before a BatchNorm: side of the image, channels of the
# maps of strides 8, 16 and 32, params, multiply-adds. Source: effdet.efficientdet.BiFpn of effdet 0.4.1, counted by
# torch.utils.flop_counter; the paper has totals alone. D6 and D7 are left out: there, the authors sum without weights.
PUBLISHED_NECKS = (
    (512, (40, 112, 320), 194_361, 136_203_264),
    (640, (40, 112, 320), 387_628, 450_639_200),
    (768, (48, 120, 352), 703_007, 1_216_329_408),
    (896, (48, 136, 384), 1_550_834, 3_755_971_520),
    (1024, (56, 160, 448), 3_335_941, 10_744_760_320),
    (1280, (64, 176, 512), 5_388_037, 27_275_414_400),
)
# EfficientDet-D0 with its two heads: params, multiply-adds. Source: https://arxiv.org/abs/1911.09070, Table 2.
PUBLISHED_D0 = (3.9e6, 2.5e9)


def without_stride_8():
    """An architecture that ends at stride 4."""
    record = json.loads(nas.reference("mobilenetv2_035").to_json())
    record["stages"] = record["stages"][:2]
    return nas.Architecture.from_json(json.dumps(record))


def test_shapes_are_what_their_masks_boxes_and_labels_say():
    shapes, again, other = (draw(30, SIZE, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(shapes.images, again.images)
    assert not torch.equal(shapes.images, other.images)
    assert shapes.images.shape == (30, 3, SIZE, SIZE)
    assert set(torch.cat(shapes.labels).tolist()) == {1, 2, 3}
    for mask, boxes, labels in zip(shapes.masks, shapes.boxes, shapes.labels, strict=True):
        covered = torch.zeros_like(mask)
        for (left, top, right, bottom), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
            window = mask[top:bottom, left:right]
            assert set(window.unique().tolist()) <= {0, label}
            assert all(edge.any() for edge in (window[0], window[-1], window[:, 0], window[:, -1])) or label == 3
            covered[top:bottom, left:right] = 1
        assert not mask[covered == 0].any()


class Told(nn.Module):
    """Answers with what it was made with, some images at a time."""

    def __init__(self, answers):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, images):
        return next(self.answers) if torch.is_tensor(images) else [next(self.answers) for _ in images]


def test_mean_iou_is_1_for_the_truth_and_little_for_background_alone(held_out):
    truth = nn.functional.one_hot(held_out.masks, len(CLASSES)).movedim(-1, 1).float()
    nothing = torch.zeros_like(truth)
    assert segmentation.mean_iou(Told({"out": out} for out in truth.split(16)), held_out) == 1
    ground = float((held_out.masks == 0).float().mean())
    assert segmentation.mean_iou(Told({"out": out} for out in nothing.split(16)), held_out) == pytest.approx(ground / 4)


def ap50(shapes, change):
    answers = [
        {"boxes": boxes, "labels": labels, "scores": torch.ones(len(labels))}
        for boxes, labels in zip(shapes.boxes, shapes.labels, strict=True)
    ]
    return detection.ap50(Told(change(answer) for answer in answers), shapes)


def doubled(answer):
    return {name: values.repeat_interleave(2, dim=0) for name, values in answer.items()}


def test_ap50_is_1_for_the_truth_and_falls_with_each_kind_of_mistake(held_out):
    assert ap50(held_out, lambda answer: answer) == 1
    assert ap50(held_out, lambda answer: answer | {"boxes": answer["boxes"] + 1}) == 1
    assert ap50(held_out, lambda answer: answer | {"boxes": answer["boxes"] + SIZE}) == 0
    assert ap50(held_out, lambda answer: answer | {"labels": answer["labels"] % 3 + 1}) < 0.1
    assert ap50(held_out, lambda answer: {name: values[:0] for name, values in answer.items()}) == 0
    assert ap50(held_out, lambda answer: {name: values[:1] for name, values in answer.items()}) == pytest.approx(
        64 / sum(map(len, held_out.boxes)), abs=0.05
    )
    assert 0.45 < ap50(held_out, doubled) < 0.7  # a shape that is found twice is found once, and missed once


def test_segmentation_learns(held_out):
    """Measured over three seeds: 0.41 to 0.45; all background would be 0.21."""
    torch.manual_seed(0)
    model = segmentation.segmenter(SMALL)
    assert segmentation.mean_iou(model, held_out) < 0.25
    losses = segmentation.train(model, 80, size=SIZE, generator=np.random.default_rng(0))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) / 2
    assert segmentation.mean_iou(model, held_out) > 0.33


def test_detection_learns(held_out):
    """Measured over three seeds: 0.23 to 0.30."""
    torch.manual_seed(0)
    model = detection.detector(SMALL, SIZE)
    assert detection.ap50(model, held_out) < 0.01
    losses = detection.train(model, 120, size=SIZE, generator=np.random.default_rng(0))
    assert np.mean(losses[-10:]) < 2 / 3 * np.mean(losses[:10])
    assert detection.ap50(model, held_out) > 0.12


def test_a_bifpn_learns_as_well_on_the_same_three_levels(held_out):
    """Measured over three seeds: 0.24 to 0.29."""
    torch.manual_seed(0)
    model = detection.detector(SMALL, SIZE, neck="bifpn")
    detection.train(model, 120, size=SIZE, generator=np.random.default_rng(0))
    assert detection.ap50(model, held_out) > 0.12


@pytest.mark.parametrize("phi", range(6))
def test_a_bifpn_costs_what_the_authors_does(phi):
    size, channels, params, macs = PUBLISHED_NECKS[phi]
    with torch.device("meta"):
        neck = BiFPN(channels, phi=phi).eval()
        maps = {
            str(stride): torch.zeros(1, c, size // stride, size // stride)
            for c, stride in zip(channels, (8, 16, 32), strict=True)
        }
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        neck(maps)
    assert (sum(p.numel() for p in neck.parameters()), counter.get_total_flops() // 2) == (params, macs)


def test_with_the_papers_heads_it_makes_efficientdet_d0():
    """Three separable convolutions a head, then one to 9 anchors' boxes or 90 classes; a BatchNorm for each of five levels."""
    backbone = nas.cost(replace(nas.reference("efficientnet_b0"), resolution=512), 0)
    head_conv = 320 * 1280
    _, _, neck_params, neck_macs = PUBLISHED_NECKS[0]
    separable, pixels = 64 * 9 + 64**2, sum((512 // 2**level) ** 2 for level in range(3, 8))
    predictions = [64 * 9 + 64 * 9 * outputs for outputs in (4, 90)]
    heads = sum(3 * separable + prediction for prediction in predictions)
    head_params = heads + 2 * 3 * (64 + 5 * 2 * 64) + 9 * (4 + 90)
    params = backbone.params - head_conv - 2 * 1280 + neck_params + head_params
    macs = backbone.macs - head_conv * 16**2 + neck_macs + heads * pixels
    assert params == pytest.approx(PUBLISHED_D0[0], rel=0.01)
    assert macs == pytest.approx(PUBLISHED_D0[1], rel=0.01)


def test_fusion_is_the_mean_by_its_positive_weights():
    node, x = Node([8, 8], 8).eval(), torch.rand(2, 8, 4, 4)
    node.convolution = nn.Identity()
    coarse, fine = torch.full((2, 8, 2, 2), 3.0), torch.full((2, 8, 8, 8), 3.0)
    for other in (torch.full_like(x, 3.0), coarse, fine):
        torch.testing.assert_close(node([x, other]), (x + 3) / 2, rtol=1e-4, atol=1e-4)
    node.weights.data = torch.tensor([3.0, 1.0])
    torch.testing.assert_close(node([x, coarse]), (3 * x + 3) / 4, rtol=1e-4, atol=1e-4)
    node.weights.data = torch.tensor([3.0, -1.0])
    torch.testing.assert_close(node([x, coarse]), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "strides"), [(96, [8, 16, 32]), (160, [8, 16, 32, 64]), (512, [8, 16, 32, 64, 128])])
def test_a_bifpn_has_the_levels_whose_boxes_fit_into_the_image(size, strides):
    assert detection.levels((8, 16, 32), size) == strides
    model = detection.detector(SMALL, size, neck="bifpn", phi=1)
    maps = model.backbone.eval()(torch.zeros(1, 3, size, size))
    assert [x.shape for x in maps.values()] == [(1, 88, -(-size // stride), -(-size // stride)) for stride in strides]


@pytest.mark.parametrize("name", plugin_names("space"))
def test_a_network_of_every_space_carries_both_heads(name):
    space = nas.space(name)
    network = space.decode(sample(space.parameters, random.Random(3)))
    shapes = draw(2, SIZE, np.random.default_rng(0))
    segmenter = segmentation.segmenter(network)
    out = segmenter(shapes.images)["out"]
    assert out.shape == (2, len(CLASSES), SIZE, SIZE)
    detector = detection.detector(network, SIZE)
    targets = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(shapes.boxes, shapes.labels, strict=True)]
    losses = detector(list(shapes.images), targets)
    assert set(losses) == {"classification", "bbox_regression"}
    (out.square().mean() + sum(losses.values())).backward()
    for model in (segmenter, detector):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    found = detector.eval()(list(shapes.images))
    assert [set(image) for image in found] == [{"boxes", "scores", "labels"}] * 2
    assert all(image["boxes"].shape == (len(image["scores"]), 4) for image in found)


def test_an_exported_folder_is_started_from_with_its_weights_and_its_normalisation(digits_export):
    backbone, loaded, x = open_backbone(str(digits_export)), nas.load(digits_export), torch.rand(2, 3, SIZE, SIZE)
    maps = backbone.features.eval()(x)
    for ours, theirs in zip(maps, loaded.forward_intermediates(x, intermediates_only=True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)  # in other memory formats, sums round otherwise
    how = json.loads((digits_export / "card.json").read_text())["preprocess"]
    assert (list(backbone.mean), list(backbone.std)) == (how["mean"], how["std"])
    assert detection.detector(str(digits_export), SIZE).transform.image_mean == how["mean"]
    assert list(segmentation.segmenter(str(digits_export))[0].std) == how["std"]


def test_a_card_that_does_not_say_how_images_are_read_is_refused(digits_export, tmp_path):
    exported = shutil.copytree(digits_export, tmp_path / "net")
    card = json.loads((exported / "card.json").read_text())
    del card["preprocess"]["mean"]
    (exported / "card.json").write_text(json.dumps(card))
    write_digests(exported)
    with pytest.raises(NasError, match=r"card.json is damaged"):
        open_backbone(str(exported))


def test_a_network_without_the_maps_that_a_head_takes_is_refused():
    with pytest.raises(NasError, match="its maps have strides 2, 4; LR-ASPP takes one of 8 and a coarser one"):
        segmentation.segmenter(without_stride_8())
    with pytest.raises(NasError, match="its maps have strides 2, 4; the feature pyramid takes three"):
        detection.detector(without_stride_8(), SIZE)


@pytest.mark.parametrize("head", [segmentation, detection])
def test_the_command_prints_the_quality_before_and_after(head, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["head", "mobilenetv2_035", "--steps", "2", "--size", "32"])
    command(head.run, description=head.__doc__)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"mobilenetv2_035: 2 steps of {head.BATCH_SIZE} images of 32 px in ")


def test_the_command_takes_a_neck(monkeypatch, capsys):
    options = {"neck": "fpn", "phi": 0}
    arguments = ["head", "mobilenetv2_035", "--steps", "1", "--size", "32"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--neck", "bifpn", "--phi", "1"])
    command(detection.run, description="", options=options)
    assert "with 1 of D1's 4 BiFPN layers: " in capsys.readouterr().out
    for mistake, sentence in (
        (["--neck", "pan"], "neck 'pan' does not exist; did you mean 'fpn'? known: bifpn, fpn"),
        (["--phi", "2"], "phi: 2 does nothing with the neck fpn; give bifpn"),
        (["--neck", "bifpn", "--phi", "8"], "phi: 8 is not from 0 to 7"),
    ):
        monkeypatch.setattr(sys, "argv", [*arguments, *mistake])
        with pytest.raises(SystemExit) as stop:
            command(detection.run, description="", options=options)
        assert stop.value.code == 2
        assert capsys.readouterr().err == f"head: {sentence}\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mobilenetv3"], "network 'mobilenetv3' does not exist"),
        (["timm:resnet18"], "timm:resnet18 is timm's own network and has no architecture"),
        (["no/such/folder"], "network 'no/such/folder' does not exist"),
        (["--size", "31"], "size: 31 is not 32 pixels or more"),
        (["--steps", "0"], "steps: 0 is not 1 or more"),
        (["--seed", "-1"], "seed: -1 is not 0 or more"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["head", *arguments])
    with pytest.raises(SystemExit) as stop:
        command(segmentation.run, description="")
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]
