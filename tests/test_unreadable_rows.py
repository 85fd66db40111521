# Copyright 2026 The hf_slug authors. Licensed under the Apache License, Version 2.0.
"""Pictures that cannot be read and rows without a caption: skipped, counted, and too many of them refused."""

import io
import logging

import numpy as np
import pytest
import torch
from data_helpers import TorchDataset, encoded, image_dataset, picture, rows, write_images, write_jsonl
from PIL import Image

from hf_slug.data import load_pairs
from hf_slug.errors import EmptyDatasetError, TooManyUnreadableError, UnreadableImageError
from hf_slug.images import decode, encode


pytestmark = pytest.mark.usefixtures("no_network")


BROKEN = {
    "zero bytes": b"",
    "not an image": b"<html>404</html>",
    "truncated": encoded(7)[:-25],
    "truncated jpeg": Image.effect_noise((64, 64), 50).convert("RGB").tobytes("jpeg", "RGB")[:700],
    "none": None,
    "missing file": "/no/such/file.png",
    "url": "https://example.org/cat.png",
    "unreachable": "zip://a.png::/no/such.zip",
    "empty mapping": {"bytes": None, "path": None},
    "number": 3,
    "normalised": np.full((4, 4, 3), -1.5, dtype=np.float32),
    "shape": np.zeros((2, 2, 2, 2), dtype=np.uint8),
    "nan": np.full((4, 4), np.nan),
    "no pixels": np.zeros((0, 4, 3), dtype=np.uint8),
    "object": np.array([[object()]]),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_unreadable_images_are_skipped_and_counted(broken, caplog):
    content = [{"image": encoded(i), "text": f"caption {i}"} for i in range(30)]
    content[3]["image"] = broken
    with caplog.at_level(logging.WARNING):
        pairs = load_pairs(content, what="retain set")
    assert (len(pairs), pairs.skipped) == (29, 1)
    assert "caption 3" not in pairs.texts
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "1 of 30 images of the retain set (list of 30 pairs) are unreadable" in caplog.text
    assert pairs[:5].skipped == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_a_broken_image_does_not_end_a_dataset(streamed):
    dataset = image_dataset([*rows(10), {"image": b"junk", "text": "a", "name": "b"}, *rows(10)])
    pairs = load_pairs(dataset.to_iterable_dataset() if streamed else dataset)
    assert (len(pairs), pairs.skipped) == (20, 1)
    assert load_pairs(TorchDataset(20, broken=(3,))).skipped == 1


def test_broken_files_in_a_folder(tmp_path):
    files = [*write_images(tmp_path, 40), "gone.png"]
    (tmp_path / files[1]).write_bytes(b"")
    (tmp_path / files[2]).write_bytes(encoded(2)[:-25])
    write_jsonl(tmp_path / "metadata.jsonl", [{"file_name": f, "text": f"a picture {f}"} for f in files])
    pairs = load_pairs(tmp_path)
    assert (len(pairs), pairs.skipped) == (38, 3)


@pytest.mark.parametrize(("broken", "refused"), [(10, False), (11, True)])
def test_ten_percent_may_be_unreadable(broken, refused):
    content = [(b"junk" if i < broken else encoded(i), f"caption {i}") for i in range(100)]
    if not refused:
        assert load_pairs(content).skipped == broken
        return
    with pytest.raises(TooManyUnreadableError) as error:
        load_pairs(content)
    for part in ("forget set", "unreadable: not an image: 4 bytes; ", "10%", "--image-column"):
        assert part in str(error.value)


def test_unreadable_counts_are_whole_for_streams_of_unknown_length():
    with pytest.raises(TooManyUnreadableError, match="12 of 60 images"):
        load_pairs((b"junk" if i % 5 == 0 else encoded(i), "text") for i in range(60))


def test_hopeless_streams_are_given_up():
    def endless():
        while True:
            yield b"junk", "text"

    with pytest.raises(TooManyUnreadableError):
        load_pairs(endless(), max_samples=100)


def test_rows_without_text_are_counted_apart(caplog):
    texts = ["a", None, "", "  ", 3, float("nan"), ["a"], "b"]
    with caplog.at_level(logging.WARNING):
        pairs = load_pairs([(encoded(i), text) for i, text in enumerate(texts)])
    assert (pairs.texts, pairs.captionless, pairs.skipped) == (["a", "b"], 6, 0)
    assert "6 rows had no text" in caplog.text
    with pytest.raises(EmptyDatasetError, match="6 rows had no text.*'text'"):
        load_pairs([(encoded(i), text) for i, text in enumerate(texts[1:-1])])


def test_max_samples_reads_no_further():
    read = []

    def stream():
        for i in range(100):
            read.append(i)
            yield encoded(i), None if i == 1 else f"caption {i}"

    assert load_pairs(stream(), max_samples=3).texts == ["caption 0", "caption 2", "caption 3"]
    assert read == [0, 1, 2, 3]


def test_image_that_vanishes_later(tmp_path):
    write_images(tmp_path, 1)
    pairs = load_pairs([(tmp_path / "0.png", "a")])
    (tmp_path / "0.png").unlink()
    with pytest.raises(UnreadableImageError, match="no such file.*0.png"):
        _ = pairs[0].image


def test_image_forms(tmp_path):
    path = tmp_path / "0.png"
    path.write_bytes(encoded(9))
    array = np.asarray(picture(9))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    forms = [path, str(path), encoded(9), bytearray(encoded(9)), picture(9), {"bytes": encoded(9), "path": None}]
    forms += [{"path": str(path)}, array, tensor, tensor.float() / 255, tensor.double() / 255, array.astype(np.int64)]
    for form in forms:
        assert decode(encode(form)).tobytes() == picture(9).tobytes()
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for form in (gray, gray[None], gray[..., None]):
        assert np.array_equal(np.asarray(decode(encode(form)))[..., 1], gray)
    assert decode(encode(np.ones((4, 6), dtype=bool))).getpixel((0, 0)) == (255, 255, 255)
    assert decode(encode(torch.ones(3, 4, 6, dtype=torch.bfloat16))).size == (6, 4)


def save(image: Image.Image, format="PNG", **kwargs) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **kwargs)
    return file.getvalue()


def test_image_modes():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(save(picture(1), "JPEG", exif=exif.tobytes())).size == (4, 6)
    hidden = Image.new("RGBA", (2, 2), (200, 0, 0, 0))
    for transparent in (hidden, hidden.convert("LA")):
        assert decode(save(transparent)).getpixel((0, 0)) == (255, 255, 255)
    paletted = Image.new("P", (2, 2))
    paletted.putalpha(0)
    assert paletted.mode == "PA" and decode(paletted).getpixel((0, 0)) == (255, 255, 255)  # PNG knows no such mode
    palette = picture(3).quantize(4)
    assert decode(save(palette, transparency=0)).getpixel((0, 0)) == (255, 255, 255)
    assert decode(save(palette)).getpixel((0, 0)) == (3, 10, 20)
    deep = Image.fromarray(np.full((2, 2), 32896, dtype=np.uint16))
    assert decode(save(deep)).getpixel((0, 0)) == (128, 128, 128)
    assert decode(save(Image.new("1", (2, 2), 1))).getpixel((0, 0)) == (255, 255, 255)
    assert decode(save(picture(1).convert("CMYK"), "JPEG")).mode == "RGB"
