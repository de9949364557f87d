"""Batches are augmented as torchvision augments single images, each image its own way, and the same on every device."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from nas.augment import (
    OPERATIONS,
    STRENGTHS,
    Augment,
    cut_on_cpu,
    cut_on_gpu,
    jitter_colors,
    operate,
    random_boxes,
)
from nas.predict import Preprocess
from nas.recipe import TrainSettings

SIDE = 40


def smooth_images(num=16, side=SIDE):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (num, 3, side, side), dtype=torch.uint8, generator=generator)
    return tv.gaussian_blur(noise, 5).permute(0, 2, 3, 1).contiguous()


def drawn(num=16, seed=0, **settings):
    augment = Augment(
        preprocess=Preprocess(resolution=32, mean=(0.5,) * 3, std=(0.5,) * 3), settings=TrainSettings(**settings), mirrors=True
    )
    return augment, augment.draw(num, (SIDE, SIDE), torch.Generator().manual_seed(seed))


def quantiles(values):
    return np.quantile(np.asarray(values, dtype=float), [0.05, 0.25, 0.5, 0.75, 0.95])


@pytest.mark.parametrize(("height", "width", "min_area"), [(160, 160, 0.08), (160, 160, 0.35), (120, 200, 0.25), (20, 200, 0.5)])
def test_crops_follow_the_statistics_of_torchvisions_random_resized_crop(height, width, min_area):
    num, image = 4000, torch.empty(3, height, width)
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(8, scale=(min_area, 1.0))
    drawn_there = [crop.make_params([image]) for _ in range(num)]
    theirs = np.array([[box[name] for name in ("top", "left", "height", "width")] for box in drawn_there])
    ours = random_boxes(num, height, width, min_area=min_area, generator=torch.Generator().manual_seed(0)).numpy()
    for what in (lambda b: b[:, 2] * b[:, 3], lambda b: np.log(b[:, 3] / b[:, 2]), lambda b: b[:, 0], lambda b: b[:, 1]):
        a, b = what(ours), what(theirs)
        assert np.abs(quantiles(a) - quantiles(b)).max() <= 0.06 * (np.ptp(b) + 1e-9)
        assert a.mean() == pytest.approx(b.mean(), abs=0.03 * (np.ptp(b) + 1e-9))
    top, left, h, w = ours.T
    assert (ours >= 0).all()
    assert ((top + h <= height) & (left + w <= width) & (h > 0) & (w > 0)).all()


def test_every_image_has_a_crop_of_its_own_and_a_whole_crop_keeps_all():
    boxes = random_boxes(64, SIDE, SIDE, min_area=0.1, generator=torch.Generator().manual_seed(0))
    assert len({tuple(box) for box in boxes.tolist()}) > 60
    whole = random_boxes(64, SIDE, SIDE, min_area=1.0, generator=torch.Generator().manual_seed(0))
    assert whole.float().mean(0).tolist() == pytest.approx([0, 0, SIDE, SIDE], abs=0.2)


def cuts(resolution, min_area=0.1):
    """(by matrix products, by OpenCV, by torchvision image by image) of the same boxes."""
    images = smooth_images()
    generator = torch.Generator().manual_seed(1)
    boxes = random_boxes(16, SIDE, SIDE, min_area=min_area, generator=generator)
    mirrored, chosen = torch.rand(16, generator=generator) < 0.5, torch.randperm(16, generator=generator)
    resized = [
        tv.resized_crop(images[at].permute(2, 0, 1).float(), *box, [resolution, resolution], antialias=True)
        for at, box in zip(chosen.tolist(), boxes.tolist(), strict=True)
    ]
    theirs = torch.stack([tv.hflip(image) if flip else image for image, flip in zip(resized, mirrored, strict=True)])
    ours = [cut(images, chosen, boxes, mirrored, resolution=resolution) for cut in (cut_on_gpu, cut_on_cpu)]
    return [cut.permute(0, 3, 1, 2).float() for cut in ours], theirs


@pytest.mark.parametrize("resolution", [8, 16, 32, 40, 64])
def test_both_ways_to_cut_agree_with_torchvision(resolution):
    (by_products, by_opencv), theirs = cuts(resolution)
    assert (by_products - theirs).abs().max() <= 0.51  # rounding to bytes
    assert (by_opencv - theirs).abs().mean() < 3.0  # without antialiasing where the image hardly shrinks
    if resolution >= 40:
        assert (by_opencv - theirs).abs().max() < 4.0


def torchvisions(name, images, signed, strength, side):
    """What torchvision's RandAugment does, for a magnitude from -1 to 1."""
    factor = 1 + signed * strength.blend
    degrees = math.degrees(math.atan(signed * strength.shear))
    pixels = int(signed * strength.translate(side))
    return {
        "identity": lambda: images,
        "shear_x": lambda: tv.affine(images, 0.0, [0, 0], 1.0, [degrees, 0.0], center=[0, 0]),
        "shear_y": lambda: tv.affine(images, 0.0, [0, 0], 1.0, [0.0, degrees], center=[0, 0]),
        "translate_x": lambda: tv.affine(images, 0.0, [pixels, 0], 1.0, [0.0, 0.0]),
        "translate_y": lambda: tv.affine(images, 0.0, [0, pixels], 1.0, [0.0, 0.0]),
        "rotate": lambda: tv.rotate(images, signed * strength.degrees),
        "brightness": lambda: tv.adjust_brightness(images, factor),
        "color": lambda: tv.adjust_saturation(images, factor),
        "contrast": lambda: tv.adjust_contrast(images, factor),
        "sharpness": lambda: tv.adjust_sharpness(images, factor),
        "posterize": lambda: tv.posterize(images, 8 - round(abs(signed) * strength.bits)),
        "solarize": lambda: tv.solarize(images, 255 * (1 - abs(signed))),
        "autocontrast": lambda: tv.autocontrast(images),
        "equalize": lambda: tv.equalize(images),
    }[name]()


@pytest.mark.parametrize("policy", ["randaugment", "trivial"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchvisions(policy, name):
    images = smooth_images().permute(0, 3, 1, 2)
    for signed in (-1.0, -0.5, 0.1, 0.5, 1.0):
        kind = torch.full((16,), OPERATIONS.index(name))
        ours = operate(images.float(), kind, torch.full((16,), signed), STRENGTHS[policy])
        expected = torchvisions(name, images, signed, STRENGTHS[policy], SIDE).float()
        assert (ours - expected).abs().max() <= 2.0, signed  # they round to bytes in between


def test_the_strengths_are_those_of_torchvisions_policies():
    for policy, transform in (("randaugment", v2.RandAugment), ("trivial", v2.TrivialAugmentWide)):
        space = {name: make(31, SIDE, SIDE) for name, (make, _) in transform._AUGMENTATION_SPACE.items()}
        strength = STRENGTHS[policy]
        assert [name.lower() for name in space] == [name.replace("_", "") for name in OPERATIONS]
        assert float(space["ShearX"][-1]) == pytest.approx(strength.shear)
        assert float(space["TranslateX"][-1]) == pytest.approx(strength.translate(SIDE))
        assert float(space["Rotate"][-1]) == pytest.approx(strength.degrees)
        assert float(space["Color"][-1]) == pytest.approx(strength.blend)
        assert int(space["Posterize"][-1]) == 8 - strength.bits


def test_every_image_has_operations_and_magnitudes_of_its_own():
    _, draws = drawn(2000, augment="trivial")
    assert draws.operations.shape == (1, 2000)
    assert torch.bincount(draws.operations[0], minlength=14).min() > 90  # of about 143
    assert len(draws.magnitudes.unique()) == 61  # 30 levels of either sign, and none
    _, draws = drawn(2000, augment="randaugment", randaugment_ops=3, randaugment_magnitude=9)
    assert draws.operations.shape == (3, 2000)
    assert draws.magnitudes.abs().unique().tolist() == pytest.approx([0.3])
    images = smooth_images(1).expand(16, -1, -1, -1).contiguous()  # one image, 16 times
    augment, draws = drawn(augment="trivial", min_crop=1.0)
    out = augment(images, torch.arange(16), draws)
    assert len({image.numpy().tobytes() for image in out}) >= 14


def test_colour_jitter_is_each_images_own_and_nothing_at_zero():
    images = smooth_images().permute(0, 3, 1, 2).float()
    assert torch.allclose(jitter_colors(images, torch.ones(16, 3)), images, atol=1e-3)
    brighter = jitter_colors(images, torch.tensor([[1.2, 1.0, 1.0]]).expand(16, -1))
    assert torch.allclose(brighter, tv.adjust_brightness(images / 255, 1.2) * 255, atol=0.1)
    grey = jitter_colors(images, torch.tensor([[1.0, 1.0, 0.0]]).expand(16, -1))
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-3)
    _, draws = drawn(2000, color_jitter=0.4)
    assert draws.jitter.min() >= 0.6
    assert draws.jitter.max() <= 1.4
    assert draws.jitter.std(0).min() > 0.2


def test_what_is_erased_is_a_share_of_the_images():
    images = torch.full((400, SIDE, SIDE, 3), 128, dtype=torch.uint8)
    augment, draws = drawn(400, erasing=0.25)
    random.seed(0)
    x = augment(images, torch.arange(400), draws)
    changed = (x != x[:, :, :1, :1].median()).flatten(1).float().mean(1)
    assert 70 < int((changed > 0).sum()) < 130
    assert 0 < changed[changed > 0].mean() < 0.34


def test_a_batch_is_the_same_whether_its_images_come_at_once_or_in_parts():
    images = smooth_images()
    augment, draws = drawn(augment="randaugment", color_jitter=0.4)
    whole = augment(images, torch.arange(16), draws)
    parts = [augment(images, torch.arange(16)[part], draws[part]) for part in (slice(0, 5), slice(5, 16))]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


def test_a_plain_batch_is_the_image_normalised_and_channels_last():
    images = smooth_images(16, 32)
    preprocess = Preprocess(resolution=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    augment = Augment(preprocess=preprocess, settings=TrainSettings(min_crop=1.0), mirrors=False)
    draws = augment.draw(16, (32, 32), torch.Generator().manual_seed(0))
    draws = replace(draws, boxes=torch.tensor([[0, 0, 32, 32]]).expand(16, -1))
    x = augment(images, torch.arange(16), draws)
    assert torch.equal(x, preprocess(images))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert not draws.mirrored.any()
    mirrored = augment(images, torch.arange(16), replace(draws, mirrored=torch.ones(16, dtype=torch.bool)))
    assert torch.equal(mirrored, x.flip(3))
