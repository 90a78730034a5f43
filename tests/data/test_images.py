"""What `images.decode` makes of good, odd and broken pictures."""

import io
import struct
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, Jpeg2KImagePlugin

from captioner.data import Crop, images
from captioner.data.images import BARS, FORMATS, UnreadableImage, decode, from_array, from_pillow

RED, WHITE = (255, 0, 0), (255, 255, 255)
LOSSLESS = ("PNG", "BMP", "TIFF", "PPM")


def encoded(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    values = np.stack([x * 255 / max(width - 1, 1), y * 255 / max(height - 1, 1), np.full_like(x, 90)], axis=-1)
    return Image.fromarray(values.astype(np.uint8))


def png(width: int, height: int, colour: int, depth: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Assemble a PNG by hand, for what Pillow cannot write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_decodes_to_the_same_picture(form: str) -> None:
    pixels = decode(encoded(gradient(), form))
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    difference = np.abs(pixels.astype(int) - decode(encoded(gradient())))
    assert difference.mean() < 6


@pytest.mark.parametrize("form", LOSSLESS)
def test_a_picture_of_the_size_keeps_its_pixels(form: str) -> None:
    picture = gradient(48, 48)
    np.testing.assert_array_equal(decode(encoded(picture, form), size=48), np.asarray(picture))


@pytest.mark.parametrize("width, height", [(1, 1), (1, 500), (500, 1), (3, 2), (1, 3000), (224, 223), (2000, 1500)])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_any_shape_is_stretched(width: int, height: int, form: str) -> None:
    pixels = decode(encoded(gradient(width, height), form), size=32)
    assert pixels.shape == (32, 32, 3)
    # Stretched and not cropped: both ends of the gradient are still there.
    if width >= 500:
        assert pixels[0, 0, 0] < 20
        assert pixels[0, -1, 0] > 235


@pytest.mark.parametrize(
    "picture, expected",
    [
        (Image.new("1", (8, 8), 1), WHITE),
        (Image.new("L", (8, 8), 77), (77, 77, 77)),
        (Image.new("LA", (8, 8), (0, 0)), WHITE),
        (Image.new("LA", (8, 8), (40, 255)), (40, 40, 40)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 255)), RED),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 0)), WHITE),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("RGB", (8, 8), RED).quantize(4), RED),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_modes_become_rgb_over_white(picture: Image.Image, expected: tuple[int, int, int]) -> None:
    np.testing.assert_array_equal(decode(encoded(picture), size=8), np.broadcast_to(expected, (8, 8, 3)))


@pytest.mark.parametrize(
    "data, expected",
    [
        (encoded(Image.new("P", (8, 8), 0), transparency=0), WHITE),
        (encoded(Image.new("P", (8, 8), 0), "GIF", transparency=0), WHITE),
        (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), (254, 0, 0)),
        (encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), RED),
        (png(1, 1, 2, 16, b"\0" + struct.pack(">3H", 65535, 32768, 0)), (255, 128, 0)),
        (png(1, 1, 0, 16, b"\0" + struct.pack(">H", 1000), (b"tRNS", struct.pack(">H", 1000))), WHITE),
        (png(1, 1, 0, 16, b"\0" + struct.pack(">H", 1001), (b"tRNS", struct.pack(">H", 1000))), (3, 3, 3)),
        (b"P5\n1 1\n65535\n" + struct.pack(">H", 32768), (128, 128, 128)),
        (b"P5\n1 1\n65535\n" + struct.pack(">H", 100), (0, 0, 0)),
    ],
    ids=["palette", "gif", "cmyk-jpeg", "cmyk-tiff", "rgb-16", "grey-16-clear", "grey-16-full", "pgm-16", "pgm-dark"],
)
def test_rare_forms_become_rgb_over_white(data: bytes, expected: tuple[int, int, int]) -> None:
    np.testing.assert_allclose(decode(data, size=8), np.broadcast_to(expected, (8, 8, 3)), atol=2)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(form: str) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = decode(encoded(Image.fromarray(values), form), size=16)
    np.testing.assert_array_equal(pixels[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_32_bits_are_refused_because_white_is_unknown(kind: type) -> None:
    with pytest.raises(UnreadableImage, match="32-bit numbers"):
        decode(encoded(Image.fromarray(np.ones((4, 4), kind)), "TIFF"))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(form: str, orientation: int) -> None:
    picture = gradient(48, 48)
    undo: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright = undo[orientation](np.asarray(picture)).astype(int)
    assert np.abs(upright - decode(encoded(picture, form, exif=exif), size=48)).mean() < 6


def flag(width: int, height: int) -> Image.Image:
    """Red to the left, green in a square in the middle, blue to the right; or from top to bottom."""
    wide = width > height
    picture = Image.new("RGB", (width, height), RED)
    long, short = max(width, height), min(width, height)
    first, second = (long - short) // 2, (long + short) // 2
    picture.paste((0, 255, 0), (first, 0, second, height) if wide else (0, first, width, second))
    picture.paste((0, 0, 255), (second, 0, width, height) if wide else (0, second, width, height))
    return picture


@pytest.mark.parametrize(("width", "height"), [(120, 40), (40, 120)])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_crops(width: int, height: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(flag(width, height), exif=exif)
    turned = (width > height) != (orientation == 6)  # how it stands upright
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)][:: -1 if orientation == 3 else 1]

    def along(pixels: np.ndarray, *places: int) -> list[tuple[int, ...]]:
        line = pixels[30] if turned else pixels[:, 30]
        return [tuple(line[place].tolist()) for place in places]

    assert (decode(data, 60, "center") == [0, 255, 0]).all()
    assert set(along(decode(data, 60), 5, 30, 55)) == set(colours)
    padded = decode(data, 60, "pad")
    assert set(along(padded, 5, 30, 55)) == set(colours)
    across = padded[:, 30] if turned else padded[30]
    assert [tuple(across[place].tolist()) for place in (0, 19, 20, 39, 40, 59)] == [
        *[BARS] * 2,
        *[(0, 255, 0)] * 2,
        *[BARS] * 2,
    ]


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(get_args(Crop)))
def test_any_shape_becomes_a_square_in_each_way(width: int, height: int, crop: Crop) -> None:
    pixels = decode(encoded(gradient(width, height)), 16, crop)
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)


def test_a_square_is_the_same_in_each_way() -> None:
    for size in (10, 40, 64):
        ways = [decode(encoded(gradient(40, 40)), size, crop) for crop in get_args(Crop)]
        for way in ways[1:]:
            np.testing.assert_array_equal(way, ways[0])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_is_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    np.testing.assert_array_equal(decode(encoded(gradient(), exif=exif)), decode(encoded(gradient())))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_make_a_picture_unreadable() -> None:
    picture = encoded(gradient(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(picture), decode(encoded(gradient(), "JPEG")))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pixels = decode(encoded(frames[0], form, save_all=True, append_images=frames[1:]), size=8)
    np.testing.assert_allclose(pixels, np.broadcast_to(RED, (8, 8, 3)), atol=3)


def test_a_large_jpeg_decodes_like_a_large_png() -> None:
    picture = gradient(1800, 1200)
    difference = decode(encoded(picture, "JPEG", quality=95)).astype(int) - decode(encoded(picture))
    assert np.abs(difference).mean() < 2


@pytest.mark.parametrize("levels", [1, 2, 6])
@pytest.mark.parametrize("form", ["jp2", "j2k"])
def test_a_large_jpeg_2000_decodes_like_a_large_png(levels: int, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that has resolutions within only what is needed is decoded."""
    large = gradient(1900, 2400)
    decoded: list[tuple[int, int]] = []
    load = Jpeg2KImagePlugin.Jpeg2KImageFile.load

    def noting(image: Jpeg2KImagePlugin.Jpeg2KImageFile) -> Any:
        loaded = load(image)
        decoded.append(image.size)
        return loaded

    monkeypatch.setattr(Jpeg2KImagePlugin.Jpeg2KImageFile, "load", noting)
    data = encoded(large, "JPEG2000", num_resolutions=levels, no_jp2=form == "j2k")
    difference = np.abs(decode(data).astype(int) - decode(encoded(large)).astype(int))
    assert difference.max() <= 3
    assert decoded[0] == {1: (1900, 2400), 2: (950, 1200), 6: (475, 600)}[levels]
    assert images.upright_size(data, 224) == decoded[0]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_truncated_picture_is_refused(form: str, share: float) -> None:
    whole = encoded(Image.effect_noise((90, 90), 60).convert("RGB"), form)
    with pytest.raises(UnreadableImage):
        decode(whole[: int(len(whole) * share)])


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "empty"),
        (b"what is this", r"no picture \(it is text\): allowed are JPEG, PNG"),
        ("Wörter\n".encode() * 99, r"no picture \(it is text\)"),
        (b"\x80\x81secret", "no picture, or one cut short: allowed are JPEG, PNG"),
        (b"PK\x03\x04word/document.xml", "a ZIP archive"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML><title>404", "an HTML page"),
        (b"<html>404</html>", "an HTML page"),
        (b"%PDF-1.7 and so on", "a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "no picture"),
        (png(2, 2, 2, 8, b""), "broken or truncated"),
    ],
    ids=["empty", "text", "long-text", "bytes", "zip", "html", "short-html", "pdf", "heic", "svg", "eps", "no-pixels"],
)
def test_no_picture_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableImage, match=message) as raised:
        decode(data)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "data",
    [
        b"P5 secretword 9 255 ",
        b"P2 9 9 255\nsecretword",
        b"P7 secretword",
        b"BMsecretword" * 9,
        b"II*\0\x08\0\0\0secretword" * 9,
        b"\xff\xd8\xff\xe0secretword" * 9,
        b"secretword: hunter2\n",
        b"RIFFsecrWEBPsecretword" * 9,
        png(2, 2, 2, 8, b"secretword"),
    ],
)
def test_no_message_repeats_what_is_in_a_file(data: bytes) -> None:
    with pytest.raises(UnreadableImage) as raised:
        decode(data)
    assert "secr" not in str(raised.value)


def test_a_picture_that_does_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_squared", full)
    with pytest.raises(UnreadableImage, match="too large for the memory that is free"):
        decode(encoded(gradient()))


def test_large_pictures_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels that are being decoded at a time are bounded, however many threads there are."""
    inside, most = 0, 0
    counting = threading.Lock()
    squared = images._squared

    def counted(image: Image.Image, size: int, crop: Crop) -> np.ndarray:
        nonlocal inside, most
        with counting:
            inside += image.width * image.height
            most = max(most, inside)
        time.sleep(0.01)
        try:
            return squared(image, size, crop)
        finally:
            with counting:
                inside -= image.width * image.height

    monkeypatch.setattr(images, "_squared", counted)
    monkeypatch.setattr(images, "_pixels", images._Budget(60 * 40 * 5 // 2))
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(decode, encoded(gradient())) for _ in range(16)]:
            future.result(timeout=30)
    assert 60 * 40 <= most <= 60 * 40 * 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 20_000, 2**31 - 1])
def test_a_bomb_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(UnreadableImage, match="too large"):
        decode(png(side, side, 0, 8, b""))


def test_the_limit_of_pixels_is_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAXIMUM_PIXELS", 60 * 40)
    decode(encoded(gradient(60, 40)))
    with pytest.raises(UnreadableImage, match="60 × 41 pixels: at most 2,400"):
        decode(encoded(gradient(60, 41)))


@pytest.mark.parametrize(("width", "height"), [(65_536, 1), (1, 65_536), (89_000_000, 1), (1, 89_000_000)])
def test_a_line_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(UnreadableImage, match=f"too long, {width} × {height} pixels: at most 65,535 are allowed on a"):
        decode(png(width, height, 0, 8, b""))


def test_the_longest_line() -> None:
    assert decode(encoded(gradient(65_535, 1))).shape == (224, 224, 3)


def test_threads_decode_as_one_alone() -> None:
    pictures = [encoded(gradient(40 + i, 90 - i), form) for i in range(8) for form in FORMATS]
    alone = [decode(data, size=32) for data in pictures]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(lambda data: decode(data, size=32), pictures), strict=True):
            np.testing.assert_array_equal(one, other)


# What Pillow says of damaged EXIF and TIFF is not at stake; a damaged header may ask for many pixels.
@pytest.mark.filterwarnings("ignore")
@settings(deadline=None)
@given(st.sampled_from(FORMATS), st.data())
def test_damaged_bytes_decode_or_are_unreadable(form: str, draw: st.DataObject) -> None:
    data = bytearray(encoded(gradient(12, 9), form))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(data), size=8)
    except UnreadableImage:
        return
    assert pixels.shape == (8, 8, 3)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_unreadable(data: bytes) -> None:
    try:
        assert decode(data, size=8).shape == (8, 8, 3)
    except UnreadableImage as error:
        assert str(error)


# --- pictures that are open already ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_an_opened_picture_is_as_its_bytes(mode: str) -> None:
    picture = Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) * 28)
    picture = picture if mode == "I;16" else gradient(50, 40).convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    np.testing.assert_array_equal(from_pillow(picture), decode(encoded(picture, form)))
    with Image.open(io.BytesIO(encoded(picture, form))) as opened:
        np.testing.assert_array_equal(from_pillow(opened), decode(encoded(picture, form)))


def test_an_opened_picture_is_turned_and_stays_as_it_was() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(gradient(), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as opened:
        np.testing.assert_array_equal(from_pillow(opened), decode(data))
        assert opened.size == (60, 40)
        assert np.asarray(opened).shape == (40, 60, 3)


def test_an_opened_picture_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded(Image.effect_noise((90, 90), 60), "PNG")
    with pytest.raises(UnreadableImage, match="broken or truncated"):
        from_pillow(Image.open(io.BytesIO(whole[: len(whole) // 2])))
    monkeypatch.setattr(images, "MAXIMUM_PIXELS", 60 * 40 - 1)
    with pytest.raises(UnreadableImage, match="60 × 40 pixels"):
        from_pillow(gradient())


def test_arrays() -> None:
    values = np.asarray(gradient())
    np.testing.assert_array_equal(from_array(values), decode(encoded(gradient())))
    grey = values[:, :, 0]
    np.testing.assert_array_equal(from_array(grey), from_array(np.stack([grey] * 3, axis=-1)))
    np.testing.assert_array_equal(from_array(values[::2, ::-1]), from_array(values[::2, ::-1].copy()))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), bool),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=lambda values: f"{values.dtype}{list(values.shape)}",
)
def test_other_arrays_are_refused(values: np.ndarray) -> None:
    with pytest.raises(UnreadableImage, match=r"an array") as raised:
        from_array(values)
    assert str(list(values.shape)) in str(raised.value)
