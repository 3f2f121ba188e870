"""Files are read for what they are, whatever is in them: nothing runs, and what is wrong is one line."""

import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from data.files import classified, idx, in_order, listed, npz, one_spelling, reason, unpickled
from errors import UserError

# --- pickles -----------------------------------------------------------------------------------------------------------


def python_2(array, labels):
    """A dict of an array of bytes and a list, opcode by opcode as Python 2 wrote CIFAR: text is bytes to it."""

    def text(content, four=False):
        return (b"T" + struct.pack("<i", len(content)) if four else b"U" + bytes([len(content)])) + content

    numbers = b"".join(b"K" + bytes([number]) for number in labels)
    shape = b"".join(b"M" + struct.pack("<H", length) for length in array.shape)
    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\0K\1\x87R(K\3" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    created = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b") + b"\x87R"
    state = b"(K\1" + shape + b"\x86" + dtype + b"\x89" + text(array.tobytes(), True) + b"tb"
    return b"\x80\2}(" + text(b"data") + created + state + text(b"labels") + b"](" + numbers + b"eu."


BYTES = np.random.default_rng(0).integers(0, 256, (5, 300), dtype=np.uint8)


def test_a_pickle_of_python_2_is_read(tmp_path):
    (tmp_path / "batch").write_bytes(python_2(BYTES, [3, 1, 4, 1, 5]))
    content = unpickled(tmp_path / "batch")
    assert content["labels"] == [3, 1, 4, 1, 5]
    assert np.array_equal(content["data"], BYTES)
    assert np.array_equal(
        pickle.loads((tmp_path / "batch").read_bytes(), encoding="latin1")["data"], BYTES
    )  # nor is it ours


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("array", [BYTES, BYTES.T, BYTES[:0], np.asfortranarray(BYTES[:, :7])], ids=["C", "T", "none", "F"])
def test_a_pickle_of_python_3_is_read(protocol, array, tmp_path):
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": array, "more": [1, None, "a"]}, protocol))
    content = unpickled(tmp_path / "batch")
    assert np.array_equal(content["data"], array)
    assert content["data"].dtype == np.uint8
    assert content["more"] == [1, None, "a"]


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


FORBIDDEN = {
    "builtins.eval": Calls(eval, "1 + 1"),
    "builtins.getattr": Calls(getattr, "a", "upper"),
    "collections.OrderedDict": OrderedDict(a=1),
    "numpy.frombuffer": Calls(np.frombuffer, b"abc", "u1"),
    "errors.UserError": UserError,
}


@pytest.mark.parametrize("what", FORBIDDEN)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_asks_for_anything_else_is_refused(what, protocol, tmp_path):
    (tmp_path / "batch").write_bytes(pickle.dumps({"data": FORBIDDEN[what]}, protocol))
    module, name = what.split(".")
    with pytest.raises(ValueError, match=rf"refused: it uses (numpy\._?core.*|{module}|__builtin__)\.{name}; only"):
        unpickled(tmp_path / "batch")


@pytest.mark.parametrize(
    "content",
    [
        {"data": np.zeros(3)},
        {"data": np.array([None])},
        {"data": np.array(["a"])},
        {"data": np.zeros(3, np.int8)},
        {"data": np.zeros(3, [("a", "u1")])},
    ],
    ids=["floats", "objects", "text", "signed", "records"],
)
def test_arrays_of_anything_but_bytes_are_refused(content, tmp_path):
    (tmp_path / "batch").write_bytes(pickle.dumps(content, 4))
    with pytest.raises(ValueError, match="must be an array of bytes"):
        unpickled(tmp_path / "batch")


def test_no_state_of_a_pickle_reaches_numpy(tmp_path):
    """A shape or a type that does not fit the bytes is an error here, whatever numpy would make of it."""
    whole = pickle.dumps({"data": BYTES}, 4)
    for old, new in ((b"M,\x01", b"M,\x7f"), (b"u1", b"O8")):
        assert whole.count(old) == 1
        (tmp_path / "batch").write_bytes(whole.replace(old, new))
        with pytest.raises(ValueError, match="cannot reshape|must be an array of bytes"):
            unpickled(tmp_path / "batch")


# --- IDX ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (300, 2, 3), (0,)])
def test_idx_files_hold_big_endian_lengths(shape, tmp_path):
    content = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(struct.pack(">I", length) for length in shape)
    (tmp_path / "file").write_bytes(header + content.tobytes())
    assert np.array_equal(idx(tmp_path / "file", len(shape)), content)
    with pytest.raises(ValueError, match="not an IDX file"):
        idx(tmp_path / "file", len(shape) + 1)


# --- words -------------------------------------------------------------------------------------------------------------


def test_few_names_are_listed_and_many_are_not():
    assert listed(["a", "b", "c", "d"]) == "a, b, c, d"
    assert listed("abcde") == "a, ..., e"


def test_a_reason_is_never_empty_and_never_two_lines():
    assert reason(ValueError("one:\ntwo")) == "one"
    assert reason(AssertionError()) == "AssertionError"
    assert reason(KeyError("y")) == "it lacks 'y'"


# --- .npz --------------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).integers(0, 256, (9, 5, 6, 3), dtype=np.uint8)
Y = np.arange(9) % 3


def content(**changes):
    """A whole .npz with some of its arrays changed, or left out where they are None."""
    whole = {"x_train": X[:6], "y_train": Y[:6], "x_test": X[6:], "y_test": Y[6:], **changes}
    return {key: value for key, value in whole.items() if value is not None}


def save(path, **changes):
    np.savez(path, **content(**changes))
    return path


def arrays(path):
    """(x, y) of the training and of the test set, and the classes."""
    brought = npz(path)
    y, classes = classified(brought)
    n = len(brought.train.y)
    return (brought.train.x, y[:n]), (brought.test.x, y[n:]), classes


def both(array):
    return {"x_train": array[:6], "x_test": array[6:]}


FIRST = X.transpose(0, 3, 1, 2)  # [9, 3, 5, 6]
LAYOUTS = {
    "channels last": (X, FIRST),
    "channels first": (FIRST, FIRST),
    "no channels": (X[..., 0], FIRST[:, :1]),
    "one channel": (X[..., :1], FIRST[:, :1]),
    "four channels": (FIRST[:, :, :4].transpose(0, 2, 1, 3), FIRST[:, :, :4].transpose(0, 2, 1, 3)),
    "both possible": (X[:, :3, :, :2], FIRST[:, :2, :3]),  # the last axis has the last word
    "five channels last": (FIRST[..., :5], FIRST[..., :5]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_come_with_their_channels_first(layout, tmp_path):
    x, expected = LAYOUTS[layout]
    (x_train, _), (x_test, _), _ = arrays(save(tmp_path / "x.npz", **both(x)))
    assert np.array_equal(np.concatenate([x_train, x_test]), expected)
    assert x_train.dtype == np.uint8
    assert x_train.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["u1", "i2", ">i4", "u8", "i8"])
def test_any_integers_become_bytes(dtype, tmp_path):
    (x_train, _), (x_test, _), _ = arrays(save(tmp_path / "x.npz", **both(X.astype(dtype))))
    assert x_train.dtype == x_test.dtype == np.uint8
    assert np.array_equal(x_train, X[:6].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_floats_stay_as_they_are(dtype, tmp_path):
    x = (X / 255 - 0.5).astype(dtype)
    (x_train, _), (x_test, _), _ = arrays(save(tmp_path / "x.npz", **both(x)))
    assert x_train.dtype == x_test.dtype == np.float32
    assert np.array_equal(x_test, x[6:].transpose(0, 3, 1, 2).astype("f4"))


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f2", "f8"])
def test_vectors_are_floats_one_to_a_channel(dtype, tmp_path):
    """Any integers: a feature is no pixel."""
    x = X.reshape(9, -1)[:, :7].astype(dtype) * np.array(3).astype(dtype)
    (x_train, _), (x_test, _), _ = arrays(save(tmp_path / "x.npz", **both(x)))
    assert x_train.dtype == x_test.dtype == np.float64
    assert np.array_equal(np.concatenate([x_train, x_test]), x[:, :, None, None])


def test_arrays_that_are_not_read_are_named(tmp_path):
    path = save(tmp_path / "x.npz", x_val=X[:2], y_val=Y[:2])
    assert npz(path).warnings == (f"{path}: not read: x_val, y_val",)
    assert npz(save(tmp_path / "y.npz")).warnings == ()


@pytest.mark.parametrize(
    "names",
    [
        ["1", "1.0"],
        ["01", "1"],
        ["1e1", "10"],
        ["ill", "Ill"],
        ["n", "n "],
        ["a b", "a  b"],
        ["True", "1"],
        ["0.0", "false"],
    ],
)
def test_two_spellings_of_a_name_are_refused(names):
    with pytest.raises(ValueError, match="look like two spellings of one class") as raised:
        one_spelling("class", [*names, "another"], {names[0]: "t.csv, line 7"})
    assert all(repr(name) in str(raised.value) for name in names)
    assert f"{names[0]!r} (t.csv, line 7)" in str(raised.value)


def test_names_that_differ_are_no_spellings_of_one():
    names = [
        "1",
        "2",
        "10",
        "1_0",
        "1-0",
        "a",
        "b",
        "ward 1",
        "ward_1",
        "-1",
        "12345678901234567890",
        "12345678901234567891",
    ]
    one_spelling("client", names, {})


def test_clients_are_told_by_name_or_number(tmp_path):
    result = npz(save(tmp_path / "x.npz", client_train=np.array(list("abcabc")), client_test=np.array([3, 1, 3])))
    assert (result.train.clients.tolist(), result.test.clients.tolist()) == (list("abcabc"), ["3", "1", "3"])
    alone = npz(save(tmp_path / "y.npz", client_train=Y[:6], x_test=None, y_test=None))
    assert (alone.test, alone.train.clients.tolist()) == (None, list("012012"))


def test_names_come_in_the_order_in_which_people_have_them():
    assert in_order(["ward_10", "ward_2", "b", "ward_2"]) == ["b", "ward_2", "ward_10"]
    assert in_order(["10", "9", "-1", "1.5"]) == ["-1", "1.5", "9", "10"]
    assert in_order(["01", "1", "1.0"]) == in_order(["1.0", "1", "01"])  # equal numbers, and yet one order


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", ["u1", "i4", "u8", ">i2"])
def test_labels_are_integers_in_one_or_two_axes(shape, dtype, tmp_path):
    y = Y.astype(dtype).reshape(shape)
    (_, y_train), (_, y_test), classes = arrays(save(tmp_path / "x.npz", y_train=y[:6], y_test=y[6:]))
    assert (y_train.dtype, y_train.tolist(), y_test.tolist()) == (np.int64, Y[:6].tolist(), Y[6:].tolist())
    assert classes == ("0", "1", "2")


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("dtype", [str, bytes])
def test_text_labels_are_the_classes_in_order_and_one_line_names_them(shape, dtype, tmp_path):
    names = np.array(["dog", "cat 10", "cat 9"])[Y].astype(dtype).reshape(shape)
    path = save(tmp_path / "x.npz", y_train=names[:6], y_test=names[6:])
    (_, y_train), (_, y_test), classes = arrays(path)
    assert classes == ("cat 9", "cat 10", "dog")
    assert [*y_train, *y_test] == [(2, 1, 0)[c] for c in Y]
    assert npz(path).warnings == (f"{path}: the labels are text; 3 classes, in this order: cat 9, cat 10, dog",)


@pytest.mark.parametrize("n_channels", [5, 12])
def test_square_images_may_have_more_than_four_channels_first_or_last(n_channels, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (9, n_channels, 8, 8), dtype=np.uint8)
    for images in (x, x.transpose(0, 2, 3, 1)):
        (x_train, _), (x_test, _), _ = arrays(save(tmp_path / "x.npz", x_train=images[:6], x_test=images[6:]))
        assert np.array_equal(np.concatenate([x_train, x_test]), x)


@pytest.mark.parametrize("names", [["a", "b", "c"], [b"a", b"b", b"c"]])
def test_classes_may_have_names(names, tmp_path):
    assert arrays(save(tmp_path / "x.npz", classes=np.array(names)))[2] == ("a", "b", "c")


def test_the_test_set_may_lack_a_class(tmp_path):
    arrays(save(tmp_path / "x.npz", y_test=np.array([0, 0, 1])))


def test_a_compressed_file_is_read(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", **content())
    assert np.array_equal(arrays(tmp_path / "x.npz")[0][0], X[:6].transpose(0, 3, 1, 2))


def ended_early(path):
    path.write_bytes(save(path).read_bytes()[:-100])


def corrupt(path):
    whole = save(path).read_bytes()
    place = whole.index(X[:6].tobytes()[:50])
    path.write_bytes(whole[:place] + bytes(50) + whole[place + 50 :])


def one_array(path):
    np.save(path.with_suffix(".npy"), X)
    path.with_suffix(".npy").rename(path)


def other_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "nothing")


def foreign_entry(path):
    with zipfile.ZipFile(save(path, x_train=None), "a") as file:
        file.writestr("x_train.npy", "not an array")


def of(**changes):
    return lambda path: save(path, **changes)


OBJECTS = np.array([{"a": 1}] * 6, dtype=object)
ODD = np.where(np.arange(6 * 5 * 6 * 3).reshape(6, 5, 6, 3) == 7, np.nan, 0.5)
WRONG = {
    "an empty file": (lambda path: path.write_bytes(b""), "cannot be read as an .npz file"),
    "text": (lambda path: path.write_text("x_train = 1"), "cannot be read as an .npz file"),
    "a pickle": (lambda path: path.write_bytes(pickle.dumps({"x_train": 1})), "cannot be read as an .npz file"),
    "half a file": (ended_early, "cannot be read as an .npz file"),
    "a changed file": (corrupt, "Bad CRC-32"),
    "an .npy": (one_array, "cannot be read as an .npz file"),
    "another zip": (other_zip, "it lacks x_train, y_train, x_test, y_test; must hold"),
    "no array inside": (foreign_entry, "x_train"),
    "no y_test": (of(y_test=None), "it lacks y_test; must hold x_train, y_train, x_test, y_test"),
    "no x": (of(x_train=None, x_test=None), "it lacks x_train, x_test"),
    "one axis": (of(x_train=X[:6, 0, 0, 0]), "x_train has the shape [6]; allowed are [n, d], [n, height, width], "),
    "vectors and images": (of(x_train=X[:6].reshape(6, -1)), "of x_train is float64 [90, 1, 1], of x_test uint8 [3, 5, 6]"),
    "vectors of text": (of(**both(X.reshape(9, -1).astype(str))), "x_train holds <U3; must be integers 0 .. 255, or floats"),
    "vectors of nothing": (of(**both(X.reshape(9, -1)[:, :0])), "x_train holds no images"),
    "clients of others": (of(client_train=np.arange(5)), "client_train holds int64 [5]; must be [6], a name or a number"),
    "clients that are floats": (of(client_train=Y[:6] / 2), "client_train holds float64 [6]; must be [6], a name"),
    "half a test part": (of(client_train=Y[:6], y_test=None), "it lacks y_test; must hold"),
    "five axes": (of(x_test=X[6:, None]), "x_test has the shape [3, 1, 5, 6, 3]"),
    "five channels": (of(x_train=np.zeros((6, 5, 6, 7), int)), "1 to 4 channels or square images"),
    "no channels": (of(x_train=np.zeros((6, 5, 6, 0), int)), "1 to 4 channels"),
    "a number": (of(x_train=3), "x_train has the shape []"),
    "sizes differ": (of(x_test=X[6:, :4]), "an image of x_train is uint8 [3, 5, 6], of x_test uint8 [3, 4, 6]"),
    "channels differ": (of(x_test=X[6:, ..., :1]), "of x_test uint8 [1, 5, 6]"),
    "types differ": (of(x_test=X[6:] / 255), "of x_test float32 [3, 5, 6]"),
    "NaN": (of(x_train=ODD, x_test=X[6:] / 255), "x_train holds numbers that are not finite"),
    "infinite": (of(x_train=X[:6] / 255, x_test=np.full((3, 5, 6, 3), np.inf)), "x_test holds numbers that are not finite"),
    "too large": (of(x_train=X[:6] * 1e300, x_test=X[6:] / 255), "x_train holds numbers that are not finite"),
    "negative": (of(x_train=X[:6].astype(int) - 1), "x_train holds integers from -1 to"),
    "256": (of(x_test=np.full((3, 5, 6, 3), 256)), "x_test holds integers from 256 to 256; must be 0 .. 255, or floats"),
    "booleans": (of(x_train=X[:6] > 9), "x_train holds bool"),
    "complex": (of(x_train=X[:6] * 1j), "x_train holds complex128"),
    "text for images": (of(x_train=X[:6].astype(str)), "x_train holds <U3"),
    "objects": (of(x_train=OBJECTS), "x_train holds objects; only numbers and text are read"),
    "objects for names": (of(classes=np.array(["a", "b", None], object)), "classes holds objects; only numbers and text"),
    "negative labels": (of(y_train=Y[:6] - 1), "y_train holds the label -1; must be 0 .. C - 1"),
    "fractions": (of(y_train=Y[:6] / 2), "y_train holds float64; must be integers"),
    "whole floats": (of(y_test=Y[6:].astype(float)), "y_test holds float64; must be integers"),
    "labels of text and numbers": (of(y_test=Y[6:].astype(str)), "one holds text and the other numbers"),
    "text and names of numbers": (
        of(y_train=Y[:6].astype(str), y_test=Y[6:].astype(str), classes=np.array(list("abc"))),
        "the labels are text; remove classes",
    ),
    "two spellings": (
        of(y_train=np.array(list("abcabC")), y_test=Y[6:].astype(str)),
        "'C' and 'c' look like two spellings of one class",
    ),
    "text that is too long": (of(y_train=np.array(["a" * 1000] * 6)), "y_train holds"),
    "labels that are bool": (of(y_train=Y[:6] > 1), "y_train holds bool"),
    "one-hot": (of(y_train=np.eye(3, dtype=int)[Y[:6]]), "y_train has the shape [6, 3]; must be [n] or [n, 1]"),
    "a gap": (of(y_train=Y[:6] * 2), "no label 1, 3 in y_train; all of 0 .. 4 must occur"),
    "from 1": (of(y_train=Y[:6] + 1, y_test=Y[6:] + 1), "no label 0 in y_train; all of 0 .. 3 must occur"),
    "a wide gap": (of(y_train=Y[:6] * 10**9), "no label 1, 2, 3, 4 in y_train; all of 0 .. 2000000000"),
    "a vast label": (of(y_train=Y[:6].astype("u8") * 2**62), "y_train holds the label 9223372036854775808"),
    "an unknown class": (of(y_test=np.array([0, 3, 1])), "y_test holds the label 3, but y_train does not"),
    "fewer labels": (of(y_train=Y[:5]), "y_train holds 5 labels for 6 images"),
    "more labels": (of(y_test=Y), "y_test holds 9 labels for 3 images"),
    "no training images": (of(x_train=X[:0], y_train=Y[:0]), "x_train holds no images"),
    "no test images": (of(x_test=X[:0], y_test=Y[:0]), "x_test holds no images"),
    "no pixels": (of(x_train=X[:6, :0], x_test=X[6:, :0]), "x_train holds no images"),
    "no labels": (of(y_train=Y[:0]), "y_train holds 0 labels for 6 images"),
    "two names": (of(classes=np.array(["a", "b"])), "classes has the shape [2]; must be [3], a name for each label"),
    "four names": (of(classes=np.array(list("abcd"))), "classes has the shape [4]"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_data_set_is_one_line(what, tmp_path):
    write, words = WRONG[what]
    write(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=".") as raised:
        arrays(tmp_path / "x.npz")
    assert len(reason(raised.value).splitlines()) == 1
    assert words in str(raised.value)
