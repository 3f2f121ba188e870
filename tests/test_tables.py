"""A table is read for what is in it, or refused in one line that names file, line and column; it is never changed."""

import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import silos, tables
from data.files import classified, in_32_bits, reason

PLAIN = "age,mass,label\n61,23.5,ill\n38,21.0,well\n52,30.25,ill\n"


def written(tmp_path, text, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.replace("\n", "\r\n"),
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\n\n"),
        PLAIN.removesuffix("\n"),
        PLAIN.replace("ill", '"ill"').replace("61", '"61"'),
        PLAIN.replace("age,mass", " age , mass"),
        PLAIN.replace("23.5", " 2.35e1 "),
    ],
)
def test_one_table_in_many_forms(text, tmp_path):
    result = silos.table(written(tmp_path, text))
    assert result.features == ("age", "mass")
    assert result.train.x[:, :, 0, 0].tolist() == [[61, 23.5], [38, 21], [52, 30.25]]
    assert result.train.y.tolist() == ["ill", "well", "ill"]
    assert result.warnings == ()


WRONG = {
    "an index": (",a,label\n0,1,u\n1,2,v\n", "t.csv, line 1: column 1 has no name, like an index column of pandas"),
    "an index read and written again": ("Unnamed: 0,a,label\n0,1,u\n", "t.csv, line 1: column 1 has no name"),
    "a column behind the last": ("a,label,\n1,u,\n", "t.csv, line 1: column 3 has no name"),
    "no header": ("52.21,2.17,0\n64.35,2.25,1\n", "t.csv, line 1: the first line is no header, but 52.21,2.17,0"),
    "no header, and labels of text": ("52.21,2.17,ill\n64.35,2.25,well\n", "t.csv, line 1: the first line is no header"),
    "no header, and whole numbers that count up": ("0,1,ill\n7,5,well\n3,2,ill\n", "t.csv has no header, or only numbers"),
    "no header, and truth": ("True,ill\nFalse,well\n", "t.csv, line 1: the first line is no header, but True,ill"),
    "two labels": ("a,label,label\n1,0,1\n", "t.csv, line 1: columns 2 and 3 have the same name, label"),
    "two features of one name": ("a,b,a ,label\n1,0,1,u\n", "t.csv, line 1: columns 1 and 3 have the same name, a"),
    "a label in capitals": ("Label,a,b\nu,1,2\n", "t.csv has a column Label; rename the column to label"),
    "a client in capitals": ("a,CLIENT,label\n1,2,u\n", "t.csv has a column CLIENT; rename the column to client"),
    "decimal commas": ("a,b,label\n1,5,2,u\n", "t.csv, line 2: holds 4 values for 3 columns; write decimals with a point"),
    "quoted decimal commas": ('a,b,label\n"1,5",2,u\n', "t.csv, line 2: the column a holds 1,5; features must be finite"),
    "a long row": ("a,b,label\n1,2,u\n\n3,4,v,5\n", "t.csv, line 4: holds 4 values for 3 columns"),
    "a short row": ("a,label,client\n1,u,n\n2,v\n", "t.csv, line 3: holds 2 values for 3 columns"),
    "semicolons": ("a;b;label\n1;2;u\n", "t.csv, line 1: the columns are separated by semicolons (a;b;label)"),
    "semicolons and a comma in a name": (
        "a, net;b;label\n1,5;2;u\n",
        "t.csv, line 1: the columns are separated by semicolons",
    ),
    "tabs": ("a\tb\tlabel\n1\t2\tu\n", r"t.csv, line 1: the columns are separated by tabs (a\tb\tlabel)"),
    "bars": ("a|b|label\n1|2|u\n", "t.csv, line 1: the columns are separated by vertical bars"),
    "spaces": ("a b label\n1 2 u\n", "t.csv, line 1: has a single column, a b label"),
    "a comment before the header": ("# of 2024\na,label\n1,u\n", "t.csv, line 1: # of 2024 looks like a comment"),
    "a comment between the rows": ("a,label\n1,u\n# 2,v,w\n", "t.csv, line 3: # 2,v,w looks like a comment"),
    "text in quotes that do not end": ('a,label\n1,"u\n2,v\n', "t.csv, line 2: cannot be read as a row of a table"),
    "another encoding": ("a,label\n1,é\n".encode("latin1"), "t.csv cannot be read as a table ('utf-8' codec"),
    "underscores": ("a,label\n1,u\n1_000,v\n", "t.csv, line 3: the column a holds 1_000; features must be finite"),
    "truth and a number": ("a,label\nTrue,u\n2,v\n", "t.csv, line 2: the column a holds True; features must be finite"),
    "no value below a row of two lines": (
        'a,note,label\n1,2,"u\nw"\n,3,v\n',
        "t.csv, line 4: the column a is empty",
    ),
    "spaces for a label": ("a,label\n1,u\n2,  \n", "t.csv, line 3: the column label is empty"),
    "more digits than there are": (
        "t,label\n1700000000000000001,u\n1700000000000000002,v\n1700000000000000003,u\n",
        "t.csv: the column t holds numbers that 64-bit floats cannot distinguish",
    ),
    "nothing": ("\n", "t.csv has no columns"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_doubtful_table_is_refused_in_one_line(what, tmp_path):
    text, words = WRONG[what]
    with pytest.raises(ValueError) as raised:
        silos.table(written(tmp_path, text))
    assert f"{tmp_path}/{words}" in str(raised.value)
    assert reason(raised.value) == str(raised.value), "one line"


def test_columns_that_pandas_numbers_have_names(tmp_path):
    path = tmp_path / "t.csv"
    pd.DataFrame(np.eye(4)).assign(label=list("abab")).to_csv(path, index=False)
    assert silos.table(path).features == ("0", "1", "2", "3")


def test_truth_is_one_and_zero(tmp_path):
    result = silos.table(written(tmp_path, "a,label\nTrue,u\nfalse,v\nTRUE,u\n"))
    assert result.train.x[:, 0, 0, 0].tolist() == [1, 0, 1]


@pytest.mark.parametrize("numbers", [range(6), range(100, 106), [3, 1, 2, 0, 5, 4]])
def test_a_column_that_counts_the_rows_is_warned_of(numbers, tmp_path):
    rows = "".join(f"{i},{i * i},{'uv'[i % 2]}\n" for i in numbers)
    path = written(tmp_path, "id,x,label\n" + rows)
    text = f"{path}: the column id looks like row numbers and is used as a feature; remove the column if it is an index"
    assert silos.table(path).warnings == (text,)


def test_a_large_offset_takes_no_precision():
    """Seconds since 1970 are the run that the same seconds from 0 on are, to the rounding of 32 bits."""
    seconds = np.random.default_rng(0).permutation(80).astype(np.float64)
    x = np.stack([seconds + 1.7e9, seconds, seconds * 1e-50, np.full(80, 0.1)], 1)[:, :, None, None]
    result = in_32_bits(x, 60).astype(np.float64)[:, :, 0, 0]
    assert np.array_equal(result[:, 1], seconds)
    assert np.array_equal(result[:, 3], np.full(80, np.float32(0.1)))
    for column in result.T[:3]:
        standard = (seconds - seconds[:60].mean()) / seconds[:60].std()
        np.testing.assert_allclose((column - column[:60].mean()) / column[:60].std(), standard, atol=1e-5)


# --- .parquet ----------------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame(
    {
        "whole": np.array([3, -1, 2**40, 0], np.int64),
        "part_of": [0.1, 1e-9, -2.5, 1 / 3],
        "small": np.array([0.1, 0.2, 0.3, 7], np.float32),
        "truth": [True, False, True, True],
        "kind": pd.Categorical(["b", "a", "b", "a"]),
        "client": ["n", "s", "n", None],
        "part": ["train", "train", "train", "test"],
    }
)


def test_a_table_is_the_same_as_csv_and_as_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    FRAME.to_parquet(tmp_path / "t.parquet", index=False)
    for label in ("kind", "whole", "truth"):
        frame = FRAME if label == "kind" else FRAME.drop(columns="kind")
        frame.to_csv(tmp_path / "t.csv", index=False)
        frame.to_parquet(tmp_path / "t.parquet")
        item, other = (silos.table(tmp_path / f"t.{end}", label) for end in ("csv", "parquet"))
        assert item.features == other.features
        for a, b in zip(item.parts, other.parts, strict=True):
            assert np.array_equal(a.x.astype(np.float32), b.x.astype(np.float32))
            assert (a.y.tolist(), a.clients.tolist()) == (b.y.tolist(), b.clients.tolist())
    assert silos.clients(tmp_path / "t.parquet") == silos.clients(tmp_path / "t.csv") == ("n", "s")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.set_index("whole"), None),  # pandas keeps an index with a name as a column of this name
        (lambda f: f.set_axis(list("wxyz")), "column 8 has no name, like an index column of pandas"),
        (lambda f: f.assign(small=[1, None, 2, 3]), "t.parquet, row 2: the column small is empty"),
        (lambda f: f.assign(small=pd.to_datetime(["2024-01-01"] * 4)), "the column small holds timestamp"),
        (lambda f: f.assign(small=[[1]] * 4), "the column small holds list"),
    ],
)
def test_a_doubtful_parquet_file_is_refused_in_one_line(change, words, tmp_path):
    pytest.importorskip("pyarrow")
    change(FRAME).to_parquet(tmp_path / "t.parquet")
    if words is None:
        assert "whole" in silos.table(tmp_path / "t.parquet", "kind").features
        return
    with pytest.raises(ValueError) as raised:
        silos.table(tmp_path / "t.parquet", "kind")
    assert words in str(raised.value)
    assert reason(raised.value) == str(raised.value)


def test_a_file_that_is_no_parquet_is_refused_in_one_line(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"t\.parquet cannot be read as a table"):
        tables.read(written(tmp_path, "a,label\n1,u\n", "t.parquet"))


def test_without_pyarrow_a_parquet_file_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = written(tmp_path, "", "t.parquet")
    with pytest.raises(ValueError) as raised:
        tables.read(path)
    assert (
        str(raised.value) == f"{path}: reading .parquet files needs the package pyarrow; run python -m pip install pyarrow"
    )


# --- whatever table ----------------------------------------------------------------------------------------------------

SEPARATORS = st.sampled_from([";", "\t", "|", " "])
CLASSES = st.sampled_from(["ill", "well", "a,b", 'say "no"', "two\nlines", "é", "#1", "NA", "7"])
LABELS = st.sampled_from(["ill", "Ill", "ill ", "1", "1.0", "01", "0", "true", "", " ", "nan"])
PROPER = st.one_of(st.integers(-(10**6), 10**6), st.floats(-1e6, 1e6), st.sampled_from([" 2.5 ", "+3", "1e3"]))
NUMBERS = st.one_of(
    st.integers(17 * 10**17, 17 * 10**17 + 9),
    st.booleans(),
    st.sampled_from(["", "nan", "inf", "1,5", "1_0", "x", "0x1"]),
)
NAMES = st.sampled_from(["a", "b", "c d", "é", "0", "1", "2", "7.5", "", "Label", "a;b", "x,y", "#n", "Unnamed: 0", "a "])


def _cell(value, separator):
    """A cell as files have it: in quotes where it must be."""
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in f'{separator},"\n') else text


def test_a_table_is_read_as_it_is_or_refused(tmp_path):
    """What comes out, if anything, is what was written: the same names, numbers, labels, rows."""
    read = []

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(data=st.data())
    def tried(data):
        read.append(is_read(data, tmp_path / "t.csv"))

    tried()
    assert 0.2 < np.mean(read) < 0.8, "some of both"


def is_read(data, path):
    """Whether a table that is drawn is read; if it is, then as what it is."""
    draw = data.draw

    def odd():  # as a rule it is not
        return draw(st.integers(0, 5)) == 5

    separator = draw(SEPARATORS) if odd() else ","
    n_features, n_rows = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    usual = st.just([f"x{i}" for i in range(n_features)])
    names = draw(st.lists(NAMES, min_size=n_features, max_size=n_features) if odd() else usual)
    of_column = [NUMBERS if odd() else PROPER for _ in names]
    columns = [draw(st.lists(of_one, min_size=n_rows, max_size=n_rows)) for of_one in of_column]
    labels = draw(st.lists(LABELS if odd() else CLASSES, min_size=n_rows, max_size=n_rows))
    place = draw(st.integers(0, n_features))
    rows = [[*row[:place], label, *row[place:]] for *row, label in zip(*columns, labels, strict=True)]
    header = None if odd() else [*names[:place], "label", *names[place:]]
    if odd():
        row = rows[draw(st.integers(0, n_rows - 1))]
        row.append("9") if draw(st.booleans()) else row.pop()
    lines = [separator.join(_cell(value, separator) for value in row) for row in ([header] if header else []) + rows]
    path.write_bytes(draw(st.sampled_from(["\n", "\r\n"])).join(lines).encode())
    try:
        result = silos.table(path)
        classified(result)
    except ValueError as error:
        assert reason(error) == str(error), "one line"
        assert str(path) in str(error)
        return False
    if header is None:  # then what stands first can be names only where it is no number
        assert any(isinstance(column[0], str) for column in columns)
        return True
    assert separator == ","
    assert all(len(row) == len(header) for row in rows)
    assert result.features == tuple(name.strip() for name in names)
    assert len(set(result.features)) == len(names)
    assert result.train.y.tolist() == labels
    assert len({meaning(label) for label in labels}) == len(set(labels)), "no class is spelled in two ways"
    for read, column in zip(result.train.x[:, :, 0, 0].T, columns, strict=True):
        assert read.tolist() == [float(value) for value in column]
    return True


def meaning(label):
    """What spellings of a label have in common: those that are tried."""
    plain = label.strip().lower().replace("true", "1")
    return float(plain) if plain.replace(".", "").isdecimal() else plain
