"""Every kind of image file becomes the same kind of square."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from nas.datasets.images.depth import Top, depth, top_of
from nas.errors import NasError
from tests.data.pictures import decoded, save


def test_every_kind_of_image_becomes_rgb(tmp_path):
    red = (200, 30, 60)
    kinds = {
        "jpeg": save(tmp_path / "a.jpg", red, quality=95),
        "palette": save(tmp_path / "p.png", red, mode="P"),
        "gif": save(tmp_path / "g.gif", red, mode="P"),
        "alpha": save(tmp_path / "alpha.png", red, mode="RGBA"),
        "cmyk": save(tmp_path / "cmyk.jpg", red, mode="CMYK", quality=95),
        "webp": save(tmp_path / "w.webp", red, lossless=True),
        "bmp": save(tmp_path / "b.bmp", red),
        "tiff": save(tmp_path / "t.tif", red),
    }
    for kind, path in kinds.items():
        pixels = decoded(path, 16)
        assert (pixels.dtype, pixels.shape) == (np.uint8, (16, 16, 3))
        assert np.abs(pixels.astype(int) - red).max() <= 12, kind


def test_grey_images_have_three_equal_channels_and_16_bits_keep_their_brightness(tmp_path):
    ramp = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    Image.fromarray(ramp).save(tmp_path / "8.png")
    Image.fromarray(ramp.astype(np.uint16) * 257).save(tmp_path / "16.png")
    eight, sixteen = decoded(tmp_path / "8.png", 32), decoded(tmp_path / "16.png", 32, bits=16)
    assert (eight[..., 0] == eight[..., 2]).all()
    assert np.abs(eight[..., 0].astype(int) - ramp).max() <= 1
    assert np.abs(sixteen.astype(int) - eight).max() <= 1


def test_a_turned_photograph_stands_upright(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20] = 255  # the upper half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to the right
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = decoded(tmp_path / "turned.png", 8)
    assert upright[:, 6:].mean() > 250
    assert upright[:, :2].mean() < 5


@pytest.mark.parametrize(("size", "suffix"), [((1, 1), "png"), ((1, 900), "png"), ((4000, 3000), "jpg"), ((3000, 4000), "png")])
def test_any_size_becomes_the_middle_square(tmp_path, size, suffix):
    path = save(tmp_path / f"x.{suffix}", (10, 200, 30), size)
    assert np.abs(decoded(path, 24).astype(int) - (10, 200, 30)).max() <= 3


def test_the_middle_square_is_kept_whole(tmp_path):
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, 30:60] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert decoded(tmp_path / "wide.png", 30).min() == 255


def test_a_truncated_file_raises(tmp_path):
    path = tmp_path / "x.jpg"
    data = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(data, "JPEG")
    path.write_bytes(data.getvalue()[: len(data.getvalue()) // 2])
    with pytest.raises(OSError, match="truncated"):
        decoded(path, 16)


BROKEN_EXIF = bytes.fromhex("0008000201120003")
NO_SUCH_ORIENTATION = bytes.fromhex("4d4d002a00000008 0001 0112 0003 00000001 00090000 00000000")


def with_exif_chunk(png: bytes, exif: bytes) -> bytes:
    """A PNG with this eXIf chunk, whatever is in it."""
    at = png.index(b"IDAT") - 4
    chunk = len(exif).to_bytes(4) + b"eXIf" + exif + zlib.crc32(b"eXIf" + exif).to_bytes(4)
    return png[:at] + chunk + png[at:]


@pytest.mark.parametrize("kind", ["png", "webp", "jpg", "tif"])
@pytest.mark.parametrize("exif", [BROKEN_EXIF, NO_SUCH_ORIENTATION, b"Exif\0\0nonsense here"])
def test_exif_that_cannot_be_read_turns_nothing(tmp_path, kind, exif):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    path = tmp_path / f"x.{kind}"
    Image.fromarray(pixels).save(path, **({"exif": exif} if kind in ("webp", "jpg") else {}))
    if kind == "png":
        path.write_bytes(with_exif_chunk(path.read_bytes(), exif))
    if kind == "tif":  # an orientation that does not exist
        Image.fromarray(pixels).save(path, tiffinfo={0x0112: 99})
    upright = decoded(path, 16)
    assert upright[:6].min() > 240
    assert upright[10:].max() < 15


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F"])
def test_every_mode_keeps_what_is_bright(tmp_path, mode):
    ramp = np.where(np.arange(16) < 8, 40, 220)[None].repeat(16, axis=0)
    if mode in ("I;16", "I;16B", "I", "F"):
        numbers = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}[mode]
        image = Image.frombytes(mode, (16, 16), ramp.astype(numbers).tobytes())
    else:
        grey = Image.fromarray(ramp.astype(np.uint8))
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        image = ImageCms.applyTransform(grey.convert("RGB"), to_lab) if mode == "LAB" else grey.convert("RGB").convert(mode)
    compressed = {"compression": "tiff_lzw"} if mode == "YCbCr" else {}  # Pillow 12.3 cannot read its own without
    image.save(tmp_path / "x.tif", **compressed)
    pixels = decoded(tmp_path / "x.tif", 16).astype(int)
    assert pixels[:, 10:].mean() > pixels[:, :6].mean() + 100


def test_an_animation_gives_its_first_frame_and_a_name_says_nothing(tmp_path):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        frames[0].save(tmp_path / "x.txt", kind, save_all=True, append_images=frames[1:])
        assert np.abs(decoded(tmp_path / "x.txt", 8).astype(int) - (255, 0, 0)).max() < 30, kind


@pytest.mark.parametrize(
    ("tops", "bits"),
    [
        ([], 8),
        ([(200, True), (255, True)], 8),
        ([(256, True)], 10),
        ([(1219, True), (90, True)], 12),
        ([(4096, True)], 14),
        ([(16384, True)], 16),
        ([(70000, True)], 18),
        ([(1, True)], 8),
        ([(0.5, False), (1.0, False)], 1),
        ([(1.02, False)], 1),
        ([(0.5, False), (255.3, False)], 8),
        ([(0.5, False), (4000, True)], 12),
    ],
)
def test_the_depth_holds_the_largest_value_of_the_dataset(tops, bits):
    assert depth(Top(value=value, whole=whole) for value, whole in tops) == bits


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [(-1024, 3071, "go down to -1024"), (-1, 1, "go down to -1"), (0, np.nan, "not finite"), (0, np.inf, "not finite")],
)
def test_values_that_no_image_has_are_refused(low, high, sentence):
    with pytest.raises(NasError, match=sentence):
        top_of(Image.fromarray(np.array([[low, high], [0, 0]], np.float32)))


def test_values_just_below_0_come_from_resampling():
    assert top_of(Image.fromarray(np.array([[-0.003, 1]], np.float32))) == Top(value=1.0, whole=False)
