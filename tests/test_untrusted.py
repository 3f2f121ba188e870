"""Strangers' files: nothing in them runs, none asks for more than the limits, and each is refused in one line."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
from conftest import line_of
from numpy.lib import format as npy

import untrusted


def member(array: np.ndarray, **header) -> bytes:
    """An .npy file, whose header may say otherwise."""
    content = io.BytesIO()
    npy.write_array_header_1_0(content, {**npy.header_data_from_array_1_0(array), **header})
    return content.getvalue() + array.tobytes()


def archive(path, members: dict[str, bytes], packed: int = zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packed) as created:
        for name, content in members.items():
            created.writestr(name, content)
    return path


def test_arrays_come_back_as_numpy_reads_them(tmp_path):
    context = {
        "bytes": np.arange(256, dtype=np.uint8).reshape(2, 128),
        "columns": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "one": np.array(3.5),
        "none": np.zeros((0, 3), np.float32),
        "text": np.array(["a", "bé", "\U0001f600"]),
        "names": np.array([b"x", b"yz"]),
        "truth": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **context)
        result = untrusted.arrays(tmp_path / "a.npz")
        assert list(result) == list(context)
        for name, array in context.items():
            assert result[name].dtype == array.dtype
            np.testing.assert_array_equal(result[name], array)
        assert list(untrusted.arrays(tmp_path / "a.npz", ["one", "another"])) == ["one"]
    np.save(tmp_path / "a.npy", context["columns"])
    np.testing.assert_array_equal(untrusted.array(tmp_path / "a.npy"), context["columns"])


NUMBERS = np.arange(4.0)
WRONG = {
    "objects": ({"x.npy": member(NUMBERS, descr="|O")}, "x holds objects; only numbers and text"),
    "records": ({"x.npy": member(NUMBERS, descr=[("a", "<f8")])}, "x holds [('a', '<f8')]; only numbers and text"),
    "more than there is": (
        {"x.npy": member(NUMBERS, shape=(10**12,))},
        "x declares float64 [1000000000000], but holds",
    ),
    "less than there is": ({"x.npy": member(NUMBERS, shape=(3,))}, "declares float64 [3]"),
    "less than none": ({"x.npy": member(NUMBERS, shape=(-2, -2))}, "declares float64 [-2, -2]"),
    "no characters": ({"x.npy": member(np.array([0x110000], "<u4"), descr="<U1")}, "invalid characters"),
    "a header of code": (
        {"x.npy": b"\x93NUMPY\x01\x00" + b"\x20\x00" + b"__import__('os').abort()        "},
        "malformed",
    ),
    "a header without end": ({"x.npy": b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 0xFFFF}, "Header info length"),
    "another version": ({"x.npy": b"\x93NUMPY\x03\x00" + bytes(200)}, "npy version (3, 0)"),
}


@pytest.mark.parametrize("what", WRONG)
def test_arrays_that_are_none_or_ask_for_too_much_are_one_line(what, tmp_path):
    members, result = WRONG[what]
    line = line_of(untrusted.arrays, archive(tmp_path / "a.npz", members))
    assert line.startswith(f"{tmp_path}/a.npz: ")
    assert result in line


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "UNASKED", 2**20)
    path = archive(tmp_path / "a.npz", {"x.npy": member(np.zeros(2**21 - 128, np.uint8)), "y.npy": member(NUMBERS)})
    assert "would unpack to 2.0 MiB, more than 200 times its size" in line_of(untrusted.arrays, path)
    assert list(untrusted.arrays(path, ["y"])) == ["y"]
    path = archive(tmp_path / "a.npz", {"x.npy": member(np.zeros(2**21, np.uint8))}, zipfile.ZIP_STORED)
    assert len(untrusted.arrays(path)["x"]) == 2**21
    monkeypatch.setattr(untrusted, "ARRAYS", 2**21)
    assert "of memory, more than the limit of 2 MiB" in line_of(untrusted.arrays, path)


def test_other_packing_than_numpys_is_refused_unread(tmp_path):
    for packed in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = archive(tmp_path / "a.npz", {"x.npy": member(NUMBERS)}, packed)
        assert "x.npy is compressed with a method that numpy does not use" in line_of(untrusted.arrays, path)


@pytest.mark.parametrize(
    "spoiled", [lambda b: b[:-30], lambda b: b[:20] + b[60:], lambda b: b"", lambda b: pickle.dumps({})]
)
def test_a_damaged_archive_is_one_line(spoiled, tmp_path):
    path = archive(tmp_path / "a.npz", {"x.npy": member(NUMBERS)})
    path.write_bytes(spoiled(path.read_bytes()))
    assert line_of(untrusted.arrays, path).startswith(f"{path}: ")


def test_a_changed_byte_is_noticed_by_the_checksum(tmp_path):
    path = archive(tmp_path / "a.npz", {"x.npy": member(NUMBERS)}, zipfile.ZIP_STORED)
    content = path.read_bytes()
    place = content.index(NUMBERS.tobytes()) + 9
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    assert "Bad CRC-32" in line_of(untrusted.arrays, path)


def test_trees_are_read_and_deep_or_large_ones_are_one_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, {"b": None}], "é": "x"}))
    assert untrusted.tree(path) == {"a": [1, {"b": None}], "é": "x"}
    for n in (untrusted.DEPTH + 1, 3_000, 300_000):
        path.write_text("[" * n + "]" * n)
        assert line_of(untrusted.tree, path) == f"{path}: is nested too deeply; must have at most 64 levels"
    path.write_text("[" * untrusted.DEPTH + "]" * untrusted.DEPTH)
    assert untrusted.tree(path)
    assert "has 128 bytes; must be at most 100 bytes" in line_of(untrusted.tree, path, 100)
    path.write_text("{")
    assert line_of(untrusted.tree, path).startswith(f"{path}: cannot be read as JSON (")
    path.write_text("1" * 5_000)
    assert line_of(untrusted.tree, path).startswith(f"{path}: cannot be read as JSON (")
    path.write_bytes(b"\xff\xfe")
    assert line_of(untrusted.tree, path).startswith(f"{path}: cannot be read as text (")


def test_toml_is_read_and_what_would_take_for_ever_is_one_line(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[a]\nb = [0.1, 0.2]")
    assert untrusted.toml(path) == {"a": {"b": [0.1, 0.2]}}
    for content, result in (
        ("a." * 100_000 + "b = 1", "a line with more than 1000 dots"),
        ("a." * 500 + "b = 1", "nested too deeply"),
        ("a = " + "[" * 3_000 + "]" * 3_000, "nested too deeply"),
        ("#" * (untrusted.TOML + 1), "must be at most 256 KiB"),
        ("a = ", "cannot be read as TOML ("),
    ):
        path.write_text(content)
        assert result in line_of(untrusted.toml, path)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for reader in (untrusted.arrays, untrusted.array, untrusted.tree, untrusted.toml, untrusted.text):
        assert line_of(reader, tmp_path / "pipe").endswith("cannot be read (a pipe or a device; must be a file)")
        assert line_of(reader, tmp_path).endswith("cannot be read (a folder; must be a file)")
        assert line_of(reader, tmp_path / "none").endswith("cannot be read (No such file or directory)")


def test_a_refusal_is_the_same_in_another_process():
    error = untrusted.RefusedError("a\nb", "is\nwrong")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == r"a\nb: is wrong"


def test_names_are_inert():
    assert untrusted.escape("Zürich, 東京, $x$ <b> =1+1 'a\"") == "Zürich, 東京, $x$ <b> =1+1 'a\""
    assert untrusted.escape("a\x1b[31m\n\tb\x00\x7f\x9b") == r"a\x1b[31m\n\tb\x00\x7f\x9b"
    assert untrusted.escape("gnp\u202egpj.exe\u2066\u200b\ufeff\u2028") == r"gnp\u202egpj.exe\u2066\u200b\ufeff\u2028"
    assert untrusted.escape(os.fsdecode(b"caf\xe9")) == r"caf\udce9"
    assert untrusted.escape("a\nb\r\x1b", lines=True) == "a\nb\\r\\x1b"
