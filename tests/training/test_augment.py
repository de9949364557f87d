"""Batches are cut as torchvision cuts single images, each image its own way, and the same on every device."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from nas.training.augment import Augment, crop_on_cpu, crop_on_gpu, random_crops
from nas.training.predict import Preprocess
from nas.training.settings import TrainSettings

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
    ours = random_crops(num, height, width, min_area=min_area, generator=torch.Generator().manual_seed(0)).numpy()
    for what in (lambda b: b[:, 2] * b[:, 3], lambda b: np.log(b[:, 3] / b[:, 2]), lambda b: b[:, 0], lambda b: b[:, 1]):
        a, b = what(ours), what(theirs)
        assert np.abs(quantiles(a) - quantiles(b)).max() <= 0.06 * (np.ptp(b) + 1e-9)
        assert a.mean() == pytest.approx(b.mean(), abs=0.03 * (np.ptp(b) + 1e-9))
    top, left, h, w = ours.T
    assert (ours >= 0).all()
    assert ((top + h <= height) & (left + w <= width) & (h > 0) & (w > 0)).all()


def test_every_image_has_a_crop_of_its_own_and_a_whole_crop_keeps_all():
    boxes = random_crops(64, SIDE, SIDE, min_area=0.1, generator=torch.Generator().manual_seed(0))
    assert len({tuple(box) for box in boxes.tolist()}) > 60
    whole = random_crops(64, SIDE, SIDE, min_area=1.0, generator=torch.Generator().manual_seed(0))
    assert whole.float().mean(0).tolist() == pytest.approx([0, 0, SIDE, SIDE], abs=0.2)


def cuts(resolution, min_area=0.1):
    """(by matrix products, by OpenCV, by torchvision image by image) of the same boxes."""
    images = smooth_images()
    generator = torch.Generator().manual_seed(1)
    boxes = random_crops(16, SIDE, SIDE, min_area=min_area, generator=generator)
    mirrored, chosen = torch.rand(16, generator=generator) < 0.5, torch.randperm(16, generator=generator)
    crops = torch.cat((boxes, mirrored[:, None]), 1)
    resized = [
        tv.resized_crop(images[at].permute(2, 0, 1).float(), *box, [resolution, resolution], antialias=True)
        for at, box in zip(chosen.tolist(), boxes.tolist(), strict=True)
    ]
    theirs = torch.stack([tv.hflip(image) if flip else image for image, flip in zip(resized, mirrored, strict=True)])
    ours = [cut(images, chosen, crops, resolution=resolution) for cut in (crop_on_gpu, crop_on_cpu)]
    return [cut.permute(0, 3, 1, 2).float() for cut in ours], theirs


@pytest.mark.parametrize("resolution", [8, 16, 32, 40, 64])
def test_both_ways_to_cut_agree_with_torchvision(resolution):
    (by_products, by_opencv), theirs = cuts(resolution)
    assert (by_products - theirs).abs().max() <= 0.51  # rounding to bytes
    assert (by_opencv - theirs).abs().mean() < 3.0  # without antialiasing where the image hardly shrinks
    if resolution >= 40:
        assert (by_opencv - theirs).abs().max() < 4.0


@pytest.mark.parametrize("settings", [{"augment": "trivial"}, {"augment": "randaugment"}, {"color_jitter": 0.4}])
def test_colours_and_operations_change_every_image_its_own_way_and_a_seed_repeats_them(settings):
    images = smooth_images(1).expand(16, -1, -1, -1).contiguous()  # one image, 16 times
    plain, crops = drawn(min_crop=1.0)
    crops[:] = torch.tensor([0, 0, SIDE, SIDE, 0])
    augment, _ = drawn(**settings)
    batches = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        batches.append(augment(images, torch.arange(16), crops))
    first, again, other = batches
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) >= 12
    unchanged = (first == plain(images, torch.arange(16), crops)).flatten(1).all(1)
    assert int(unchanged.sum()) <= 4  # by the operation that does nothing, and by a magnitude of 0
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_what_is_erased_is_a_share_of_the_images():
    images = torch.full((400, SIDE, SIDE, 3), 128, dtype=torch.uint8)
    augment, crops = drawn(400, erasing=0.25)
    torch.manual_seed(0)
    x = augment(images, torch.arange(400), crops)
    changed = (x != x[:, :, :1, :1].median()).flatten(1).float().mean(1)
    assert 70 < int((changed > 0).sum()) < 130
    assert 0 < changed[changed > 0].mean() < 0.34


def test_a_plain_batch_is_the_image_normalised_and_channels_last():
    images = smooth_images(16, 32)
    preprocess = Preprocess(resolution=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    augment = Augment(preprocess=preprocess, settings=TrainSettings(min_crop=1.0), mirrors=False)
    assert not augment.draw(16, (32, 32), torch.Generator().manual_seed(0))[:, 4].any()
    whole = torch.tensor([0, 0, 32, 32, 0]).repeat(16, 1)
    x = augment(images, torch.arange(16), whole)
    assert torch.equal(x, preprocess(images))
    assert x.is_contiguous(memory_format=torch.channels_last)
    whole[:, 4] = 1
    mirrored = augment(images, torch.arange(16), whole)
    assert torch.equal(mirrored, x.flip(3))


def test_half_of_the_images_are_mirrored_where_a_dataset_may_be():
    _, crops = drawn(2000)
    assert 0.45 < crops[:, 4].float().mean() < 0.55
