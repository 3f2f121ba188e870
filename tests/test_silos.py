"""What users bring is read for what it is, by client where it is so; and a silo is nothing but its share of the whole."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import line_of
from PIL import Image

import run
import saves
from data import silos
from data.datasets import Source, load
from data.files import reason
from data.silos import clients, table

DRAW = np.random.default_rng(0)
N = {"ward_2": (6, 3), "ward_10": (9, 4), "annex": (4, 2)}  # training and test images of each client
ORDER = ["annex", "ward_2", "ward_10"]
LABELS = {name: tuple(np.sort(DRAW.permutation(np.arange(n) % 3)) for n in counts) for name, counts in N.items()}
IMAGES = {name: tuple(DRAW.integers(0, 256, (n, 8, 8), dtype=np.uint8) for n in counts) for name, counts in N.items()}


def arrays(name, test=True):
    """The .npz of a client."""
    results = {f"{what}_{part}": of[name][p] for what, of in (("x", IMAGES), ("y", LABELS)) for p, part in enumerate(PARTS)}
    return {key: array for key, array in results.items() if test or key.endswith("train")}


PARTS = ("train", "test")


def in_files(root, test=True):
    root.mkdir()
    for name in N:
        np.savez(root / f"{name}.npz", **arrays(name, test))
    return root


def as_pictures(root, test=True):
    """Images by class, which are in the order of the labels: they are sorted."""
    for name in N:
        for p, part in enumerate(PARTS[: 1 + test]):
            for i, (image, label) in enumerate(zip(IMAGES[name][p], LABELS[name][p], strict=True)):
                path = root / name / part / str(label) / f"{i:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    return root


def joined(test=True):
    """All clients' arrays in one, client after client, and whose each is."""
    results = {key: np.concatenate([arrays(name)[key] for name in ORDER]) for key in arrays("annex")}
    for p, part in enumerate(PARTS):
        results[f"client_{part}"] = np.repeat(ORDER, [N[name][p] for name in ORDER])
    return {key: array for key, array in results.items() if test or key.endswith("train")}


def in_one(root, test=True):
    root.mkdir()
    np.savez(root / "all.npz", **joined(test))
    return root / "all.npz"


def as_leaf(root, test=True):
    for p, part in enumerate(PARTS[: 1 + test]):
        (root / part).mkdir(parents=True)
        data = {name: {"x": IMAGES[name][p].tolist(), "y": LABELS[name][p].tolist()} for name in N}
        for file, names in (("a", list(N)[:1]), ("b", list(N)[1:])):
            held = {"users": names, "num_samples": [N[name][p] for name in names], "user_data": {n: data[n] for n in names}}
            (root / part / f"{file}.json").write_text(json.dumps(held))
    return root


LAYOUTS = [in_files, as_pictures, in_one, as_leaf]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("test", [True, False])
def test_every_layout_holds_the_same_data(layout, test, tmp_path):
    path = layout(tmp_path / "own", test)
    data, expected = load(str(path), Source(tmp_path)), joined(test)
    assert data.clients == clients(path) == tuple(ORDER)
    parts = PARTS[: 1 + test]
    x = np.concatenate([expected[f"x_{part}"] for part in parts])[:, None]
    order = np.arange(len(x))
    if layout is as_leaf:  # user by user as the files have them
        of = [np.concatenate([np.flatnonzero(expected[f"client_{part}"] == name) for name in N]) for part in parts]
        order = np.concatenate([of[0], *(len(expected["y_train"]) + more for more in of[1:])])
    assert np.array_equal(data.x.numpy(), x[order])
    assert np.array_equal(data.y.numpy(), np.concatenate([expected[f"y_{part}"] for part in parts])[order])
    owners = np.concatenate([expected[f"client_{part}"] for part in parts])[order]
    assert np.array_equal(np.array(ORDER)[data.owners.numpy()], owners)
    assert (data.n_train, data.classes) == (19, ("0", "1", "2"))


def test_silos_are_the_run_that_a_partition_file_of_the_pooled_data_makes(tmp_path, monkeypatch):
    """To the last bit: the same images in the same order, of the same clients, with the same test sets."""
    silos, whole = in_files(tmp_path / "own"), joined()
    np.savez(tmp_path / "pooled.npz", **{key: whole[key] for key in arrays("annex")})
    rows = [
        f"{i},{ORDER.index(name)},{part}"
        for first, part in ((0, "train"), (19, "test"))
        for i, name in enumerate(whole[f"client_{part}"], first)
    ]
    (tmp_path / "split.csv").write_text("\n".join(["example,client,part", *rows]))
    words = ["--model", "MLP", "--rounds", "2", "--batch_size", "4", "--quiet", "--export_dir"]
    assert run.main(["fedavg", "--clients", str(silos), *words, str(tmp_path / "one")]) == 0
    pooled = ["--dataset", str(tmp_path / "pooled.npz"), "--partition_file", str(tmp_path / "split.csv"), "--n_clients", "3"]
    assert run.main(["fedavg", *pooled, *words, str(tmp_path / "other")]) == 0
    (item,), (other,) = (saves.find(tmp_path / name) for name in ("one", "other"))
    weights = [run.weights()["global"] for run in (item, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    columns = ["loss", "global_mean", "personal_mean", "global_loss"]
    pd.testing.assert_frame_equal(item.rounds[columns], other.rounds[columns])
    pd.testing.assert_series_equal(item.clients["personal_accuracy"], other.clients["personal_accuracy"])
    assert (item.names, other.names) == (ORDER, [])
    assert pd.read_excel(item.folder / "history.xlsx", sheet_name="clients")["name"].tolist() == ORDER
    assert "name" not in pd.read_excel(other.folder / "history.xlsx", sheet_name="clients")


def test_names_are_shown_with_the_split_and_the_global_test_set_is_told(tmp_path, capsys):
    words = ["--model", "MLP", "--show_split", "--export_dir", str(tmp_path / "runs")]
    root = in_files(tmp_path / "own")
    assert run.main(["--clients", str(root), *words]) == 0
    result = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in result[1:5]] == ["client", *ORDER]
    assert " ".join(" ".join(result[5:]).split()).startswith(
        "the data have no common test set: the global test set is the union of the clients' test sets (9 examples)"
    )
    assert run.main(["--dataset", str(root), "--partition", "iid", *words]) == 0
    result = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in result[1:4]] == ["client", "0", "1"]
    assert " ".join(" ".join(result[4:]).split()).startswith(
        "the data have 3 clients, but this split is new; use --clients to keep the clients of the data"
    )
    shared = in_files(tmp_path / "shared")
    np.savez(shared / "test.npz", x_test=IMAGES["annex"][1], y_test=LABELS["annex"][1])
    assert run.main(["--clients", str(shared), *words]) == 0
    assert "global" not in capsys.readouterr().out


def test_clients_stand_for_data_partition_and_number(tmp_path):
    """So both commands are one run."""
    path = str(in_files(tmp_path / "own"))
    words = ["--model", "MLP", "--rounds", "1", "--quiet", "--export_dir", str(tmp_path / "runs")]
    assert run.main(["fedavg", "--clients", path, *words]) == 0
    assert run.main(["fedavg", "--dataset", path, "--partition", "silos", "--n_clients", "3", *words]) == 0
    (result,) = saves.find(tmp_path / "runs")
    assert result.options["clients"] is None


@pytest.mark.parametrize("shared", ["test", "test.npz"])
def test_a_test_set_that_all_share_is_nobodys(shared, tmp_path):
    root = as_pictures(tmp_path / "own", False) if shared == "test" else in_files(tmp_path / "own", False)
    x, y = DRAW.integers(0, 256, (5, 8, 8), dtype=np.uint8), np.array([0, 0, 1, 2, 2])
    if shared == "test":
        for i, (image, label) in enumerate(zip(x, y, strict=True)):
            (root / "test" / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / "test" / str(label) / f"{i}.png")
    else:
        np.savez(root / shared, x_test=x, y_test=y)
    data = load(str(root), Source(tmp_path))
    assert data.owners[data.n_train :].tolist() == [-1] * 5
    assert np.array_equal(data.x[data.n_train :, 0].numpy(), x)
    assert clients(root) == tuple(ORDER)


def test_a_client_may_lack_a_class_that_another_has(tmp_path):
    root = in_files(tmp_path / "own")
    np.savez(root / "annex.npz", x_train=IMAGES["annex"][0], y_train=np.full(4, 2))
    assert load(str(root), Source()).classes == ("0", "1", "2")


def test_test_examples_of_strangers_alone_are_nobodys(tmp_path):
    """As LEAF splits by user: those who are tested are not those who train."""
    result = joined()
    np.savez(tmp_path / "all.npz", **{**result, "client_test": np.full(9, "visitor")})
    data = load(str(tmp_path / "all.npz"), Source())
    assert data.owners[data.n_train :].tolist() == [-1] * 9


# --- tables ------------------------------------------------------------------------------------------------------------

ROWS = {
    "age": [61, 30.5, 44, 52, 70, 38],
    "mass": [-1.5, 2, 0, 1e3, 7, 8],
    "label": ["ill", "well", "ill", "ill", "NA", "NA"],
}


def csv(path, **columns):
    pd.DataFrame({name: column for name, column in {**ROWS, **columns}.items() if column is not None}).to_csv(
        path, index=False
    )
    return path


def test_a_table_is_its_numbers_and_its_label(tmp_path):
    result = table(csv(tmp_path / "t.csv"))
    assert result.features == ("age", "mass")
    assert result.train.x.dtype == np.float64
    assert np.array_equal(result.train.x[:, :, 0, 0], np.array([ROWS["age"], ROWS["mass"]]).T)
    assert result.train.y.tolist() == ROWS["label"]  # NA is a name like any other
    assert (result.train.clients, result.test) == (None, None)


def test_the_label_is_the_column_that_is_named_or_called_so_or_the_last(tmp_path):
    path = csv(tmp_path / "t.csv", kind=[3, 1, 3, 3, 1, 3], client=list("aabbab"))
    assert table(path).train.y.tolist() == ROWS["label"]
    other = csv(tmp_path / "u.csv", label=None, kind=[3, 1, 3, 3, 1, 3], client=list("aabbab"))
    assert table(other).train.y.tolist() == table(other, "kind").train.y.tolist() == list("313313")
    assert table(other, "age").features == ("mass", "kind")


def test_a_table_tells_clients_and_parts(tmp_path):
    by_name = {"client": ["b", "a", "b", "b", "a", ""], "part": ["train"] * 3 + ["test"] * 3, "label": list("uvvuvu")}
    path = csv(tmp_path / "t.csv", **by_name)
    data = load(str(path), Source())
    assert clients(path) == data.clients == ("a", "b")
    assert data.owners.tolist() == [1, 0, 1, 1, 0, -1]
    assert (data.n_train, data.shape, data.vectors) == (3, (2, 1, 1), True)


def test_features_are_standardised_one_by_one_by_the_training_rows(tmp_path):
    path = csv(tmp_path / "t.csv", label=list("abaaba"), part=["train"] * 4 + ["test"] * 2)
    data = load(str(path), Source())
    result = data.images(torch.arange(6), torch.float64)[:, :, 0, 0].numpy()
    x = np.array([ROWS["age"], ROWS["mass"]]).T
    np.testing.assert_allclose(result, (x - x[:4].mean(0)) / x[:4].std(0), rtol=1e-6)


def test_a_table_without_a_test_part_holds_a_fifth_out_always_the_same(tmp_path):
    path = tmp_path / "t.csv"
    pd.DataFrame({"x": np.arange(50), "label": np.arange(50) % 2}).to_csv(path, index=False)
    data = load(str(path), Source())
    assert (data.n_train, len(data.y)) == (40, 50)
    values = data.x.flatten().numpy()
    assert sorted(values) == list(range(50))
    assert (values[:40] % 2 == data.y[:40].numpy()).all()
    assert not np.array_equal(values[40:], np.arange(40, 50)), "drawn, for tables are often sorted"
    assert load(str(path), Source()).digest == data.digest


def test_a_table_a_client(tmp_path):
    (tmp_path / "own").mkdir()
    for name in "ba":
        csv(tmp_path / "own" / f"{name}.csv", label=list("uvuvuv"))
    data = load(str(tmp_path / "own"), Source())
    assert (data.clients, data.owners.tolist(), data.n_train) == (("a", "b"), [0] * 6 + [1] * 6, 12)


def test_flat_images_are_unfolded_where_a_size_says_so(tmp_path):
    x, y = DRAW.random((6, 16)).astype(np.float32), np.arange(6) % 2
    np.savez(tmp_path / "flat.npz", x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:])
    np.savez(
        tmp_path / "images.npz", x_train=x[:4].reshape(4, 4, 4), y_train=y[:4], x_test=x[4:].reshape(2, 4, 4), y_test=y[4:]
    )
    flat, images = (load(str(tmp_path / f"{name}.npz"), Source(image_size=4)) for name in ("flat", "images"))
    assert torch.equal(flat.x, images.x)
    assert torch.equal(flat.mean, images.mean)
    line = line_of(load, str(tmp_path / "flat.npz"), Source(image_size=5))
    assert line == "--image_size 5: flat holds vectors of 16 features; applies only to images, or to vectors of 5x5 features"


# --- what is wrong -----------------------------------------------------------------------------------------------------


def of_table(**columns):
    return lambda root: csv(root / "t.csv", **columns)


def a_column_less(root):
    csv(root / "a.csv")
    csv(root / "b.csv", mass=None)
    return root


def of_files(**changes):
    def make(root):
        in_files(root / "own")
        np.savez(root / "own" / "ward_2.npz", **{**arrays("ward_2"), **changes})
        return root / "own"

    return make


def spoiled(change):
    def make(root):
        change(as_pictures(root / "own"))
        return root / "own"

    return make


def no_train(own):
    (own / "later").mkdir()


def empty_test(own):
    shutil.rmtree(own / "ward_2" / "test")
    (own / "ward_2" / "test").mkdir()


def of_text(root):
    as_leaf(root / "own")
    held = {"users": ["a"], "user_data": {"a": {"x": ["to be"], "y": ["o"]}}}
    (root / "own" / "train" / "a.json").write_text(json.dumps(held))
    return root / "own"


WRONG = {
    "text in a feature": (
        of_table(age=[61, 30, "old", 4, 5, 6]),
        "line 4: the column age holds old; features must be finite",
    ),
    "a missing value": (of_table(mass=[1, None, 3, 4, 5, 6]), "t.csv, line 3: the column mass is empty"),
    "infinity": (of_table(mass=[1, 2, np.inf, 4, 5, 6]), "line 4: the column mass holds inf; features must be finite"),
    "a row without a label": (of_table(label=["a", "b", "", "a", "b", "a"]), "line 4: the column label is empty"),
    "another part": (
        of_table(part=["train", "dev", *["test"] * 4]),
        "line 3: the column part is dev; must be train or test",
    ),
    "only test rows": (of_table(part=["test"] * 6), "has no training examples"),
    "no features": (
        of_table(age=None, mass=None, client=list("aabbab")),
        "has only the column label; add columns of features",
    ),
    "no rows": (of_table(age=[], mass=[], label=[]), "t.csv has no rows"),
    "a training row of nobody": (of_table(client=["a", "", *"abab"]), "training examples belong to a client without a name"),
    "a class that is tested only": (
        of_table(label=list("abaabc"), part=["train"] * 5 + ["test"]),
        "test examples have the class c, but no training example has it",
    ),
    "a client that is tested only": (
        of_table(client=list("aabbac"), label=list("ababab"), part=["train"] * 4 + ["test"] * 2),
        "client c has test examples but no training examples",
    ),
    "a column less": (a_column_less, "the columns of b and a differ (mass)"),
    "another size": (of_files(x_train=np.zeros((6, 9, 8), np.uint8)), "an image of x_train is uint8 [1, 9, 8]"),
    "a client of another size": (
        of_files(x_train=np.zeros((6, 9, 8), np.uint8), x_test=np.zeros((3, 9, 8), np.uint8)),
        "examples of ward_2 are uint8 [1, 9, 8], of annex uint8 [1, 8, 8] [channels, height, width]; use the same type",
    ),
    "a client without labels": (of_files(y_train=np.zeros(0, int)), "ward_2.npz: y_train holds 0 labels for 6 images"),
    "a client with other classes": (of_files(classes=np.array(list("abc"))), "the classes of ward_2 and annex differ"),
    "a client without train": (spoiled(no_train), "later/train; add it, each client must have train/CLASS/*.png"),
    "an empty test": (spoiled(empty_test), "ward_2/test holds no folders; must hold one folder per class"),
    "folders and files": (spoiled(lambda own: np.savez(own / "x.npz", a=1)), "holds both folders and files of clients"),
    "text of users": (of_text, "x of user a holds a str; must be numbers"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_with_it_is_one_line(what, tmp_path):
    make, words = WRONG[what]
    path = make(tmp_path)
    line = line_of(load, str(path), Source(tmp_path))
    assert line.startswith(f"--dataset {path}: ")
    assert words in line
    assert len(line.splitlines()) == 1


# --- what is refused, and what is only told ----------------------------------------------------------------------------


def leaf_of(path, **changes):
    """A file of LEAF's with two users of four examples, changed."""
    of_user = {"x": [[1, 2], [3, 4], [5, 6], [7, 8]], "y": [0, 1, 0, 1]}
    held = {"users": ["a", "b"], "num_samples": [4, 4], "user_data": {"a": of_user, "b": dict(of_user)}}
    path.write_text(json.dumps({name: value for name, value in {**held, **changes}.items() if value is not None}))
    return path


NOTHING = {"x": [], "y": []}
SOME = {"x": [[1, 2], [3, 5]], "y": [0, 1]}
WRONG_LEAF = {
    "a user twice": ({"users": ["a", "b", "a"], "num_samples": [4, 4, 4]}, "user a is listed 2 times in users"),
    "another count": ({"num_samples": [4, 3]}, "user b has 4 labels, but num_samples says 3"),
    "too few counts": ({"num_samples": [4]}, "num_samples holds 1 numbers for 2 users"),
    "a user too many": ({"user_data": {"a": SOME, "b": SOME, "c": SOME}}, "user c is in user_data but not in users"),
    "a user too few": ({"user_data": {"a": SOME}}, "user b is in users but not in user_data"),
    "labels without examples": (
        {"user_data": {"a": SOME, "b": {"x": [], "y": [1]}}, "num_samples": None},
        "user b has 0 examples and 1",
    ),
    "examples without labels": (
        {"user_data": {"a": SOME, "b": {"x": [[1, 2]], "y": []}}, "num_samples": None},
        "user b has 1 examples and 0",
    ),
    "numbers in two spellings": (
        {"user_data": {"a": SOME, "b": {**SOME, "y": [0.0, 1.0]}}, "num_samples": None},
        "'0' ({path}, user a) and '0.0' ({path}, user b) look like two spellings of one class",
    ),
    "truth and numbers": (
        {"user_data": {"a": SOME, "b": {**SOME, "y": [False, True]}}, "num_samples": None},
        "look like two spellings of one class",
    ),
}


@pytest.mark.parametrize("what", WRONG_LEAF)
def test_a_leaf_file_that_contradicts_itself_is_refused(what, tmp_path):
    changes, words = WRONG_LEAF[what]
    path = leaf_of(tmp_path / "all.json", **changes)
    line = line_of(load, str(path), Source(tmp_path))
    assert line.startswith(f"--dataset {path}: ")
    assert words.format(path=path) in line


def test_a_leaf_user_in_two_files_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    item, other = (leaf_of(tmp_path / "train" / f"{name}.json") for name in "ab")
    assert f"{other}: user a is also in {item}" in line_of(load, str(tmp_path), Source(tmp_path))


def test_a_key_that_json_has_twice_is_refused(tmp_path):
    path = tmp_path / "all.json"
    path.write_text('{"users": ["a"], "user_data": {"a": {"x": [[1]], "y": [0]}, "a": {"x": [[2]], "y": [1]}}}')
    assert "the key a occurs twice in one object" in line_of(load, str(path), Source(tmp_path))


def test_leaf_users_without_examples_are_told(tmp_path):
    held = {"a": SOME, "b": NOTHING, "c": SOME, "d": NOTHING}
    path = leaf_of(tmp_path / "all.json", users=list(held), user_data=held, num_samples=[2, 0, 2, 0])
    data = load(str(path), Source(tmp_path))
    assert (data.clients, data.warnings) == (("a", "c"), (f"{path}: left out users without examples (2): b, d",))


def tables_of(root, names=("north", "south"), **columns):
    root.mkdir()
    for name in names:
        csv(root / f"{name}.csv", **{"label": list("uvuvuv"), **columns})
    return root


def pictures_of(root, names=("train", "test")):
    for name in names:
        for label in "uv":
            (root / name / label).mkdir(parents=True)
            Image.fromarray(IMAGES["annex"][0][0]).save(root / name / label / "0.png")
    return root


def beside(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


UNREAD = {
    "beside tables": (
        lambda root: beside(tables_of(root), "south.xlsx", "plots/a.png", "README.md"),
        "README.md, plots/, south.xlsx",
    ),
    "beside images": (
        lambda root: beside(pictures_of(root), "val/u/0.png", "valid/u/0.png", "validation/u/0.png", "more.png"),
        "more.png, val/, valid/, validation/",
    ),
    "in a class": (
        lambda root: beside(pictures_of(root), "train/u/more/1.png", "test/v/a.txt"),
        "test/v/a.txt, train/u/more/",
    ),
    "in a part": (lambda root: beside(pictures_of(root), "train/loose.png"), "train/loose.png"),
    "beside images of clients": (
        lambda root: beside(pictures_of(root, ("n/train", "n/test", "s/train")), "n/val/u/0.png", "s/notes.txt", "a.txt"),
        "a.txt, n/val/, s/notes.txt",
    ),
    "beside LEAF": (
        lambda root: beside(as_leaf(root), "val/a.json", "train/a.npz", "test/u/0.png"),
        "test/u/, train/a.npz, val/",
    ),
    "many": (lambda root: beside(pictures_of(root), *(f"{c}.txt" for c in "abcdef")), "a.txt, ..., f.txt (6 in all)"),
}


@pytest.mark.parametrize("what", UNREAD)
def test_what_lies_in_a_folder_and_is_not_read_is_told_in_a_line(what, tmp_path):
    make, words = UNREAD[what]
    root = make(tmp_path / "own")
    beside(root, ".hidden", "train/.DS_Store") if (root / "train").is_dir() else beside(root, "Thumbs.db")
    assert load(str(root), Source(tmp_path)).warnings == (f"{root}: not read: {words}",)


@pytest.mark.parametrize("make", [tables_of, pictures_of, as_leaf, in_files, as_pictures])
def test_of_a_folder_that_is_read_whole_nothing_is_told(make, tmp_path):
    assert load(str(make(tmp_path / "own")), Source(tmp_path)).warnings == ()


def and_an_npz(root):
    np.savez(tables_of(root) / "north.npz", **arrays("annex"))


def two_tests(root):
    csv(tables_of(root) / "test.csv", label=list("uvuvuv"))
    np.savez(root / "test.npz", x_test=IMAGES["annex"][1], y_test=LABELS["annex"][1])


def a_test_that_trains(root):
    csv(tables_of(root) / "test.csv", label=list("uvuvuv"), part=["train", *["test"] * 5])


FOLDERS = {
    "two files of one name": (and_an_npz, "{root}/north.csv and {root}/north.npz have the same name, north"),
    "two test sets": (two_tests, "{root}/test.csv and {root}/test.npz have the same name, test"),
    "a suffix in capitals": (
        lambda root: csv(tables_of(root) / "north.CSV", label=list("uvuvuv")),
        "{root}/north.CSV and {root}/north.csv have the same name",
    ),
    "a validation set": (lambda root: tables_of(root, ("north", "val")), "{root}/val.csv has the name of a validation set"),
    "a test set that trains": (a_test_that_trains, "{root}/test.csv holds training examples"),
    "another client in a file": (
        lambda root: tables_of(root, client=list("nnssss")),
        "north.csv names client n, but the file name says client north",
    ),
    "clients in two spellings": (
        lambda root: tables_of(root, ("north", "North")),
        "look like two spellings of one client",
    ),
    "classes in two spellings": (
        lambda root: [(part / "u").rename(part / "V") for part in pictures_of(root).iterdir()],
        "'V' ({root}/train/V) and 'v' ({root}/train/v) look like two spellings of one class",
    ),
}


@pytest.mark.parametrize("what", FOLDERS)
def test_a_doubtful_folder_is_refused(what, tmp_path):
    make, words = FOLDERS[what]
    root = tmp_path / "own"
    make(root)
    assert words.format(root=root) in line_of(load, str(root), Source(tmp_path))


def test_clients_in_two_spellings_are_refused_with_their_lines(tmp_path):
    path = csv(tmp_path / "t.csv", client=["n", "s", "n ", "s", "n", "s"], label=list("uvuvuv"))
    line = line_of(load, str(path), Source(tmp_path))
    assert (
        f"'n' ({path}, line 2: the column client) and 'n ' ({path}, line 4: the column client) look like two spellings of "
        "one client" in line
    )


def test_a_mistake_names_the_flag_that_was_typed(tmp_path, capsys):
    root = tables_of(tmp_path / "own", label=["u", "U", *"uvuv"])
    words = ["--model", "MLP", "--export_dir", str(tmp_path / "runs")]
    assert run.main(["fedavg", "--clients", str(root), *words]) == 2
    assert f"run.py: --clients {root}: 'U' ({root}/north.csv, line 3" in capsys.readouterr().err
    assert run.main(["fedavg", "--dataset", str(root), "--partition", "silos", "--n_clients", "2", *words]) == 2
    assert f"run.py: --dataset {root}: 'U' (" in capsys.readouterr().err


def test_a_large_offset_changes_no_normalised_number(tmp_path):
    """In a table, in vectors and in LEAF's JSON; also where clients have files of their own."""
    seconds = np.random.default_rng(0).permutation(80)[:60].reshape(2, 30)
    by_name = {}
    for offset in (0, 1_700_000_000):
        root = tmp_path / str(offset)
        root.mkdir()
        (root / "csv").mkdir()
        (root / "npz").mkdir()
        users = {}
        for name, own in zip("ns", seconds + offset, strict=True):
            pd.DataFrame({"t": own, "label": own % 2}).to_csv(root / "csv" / f"{name}.csv", index=False)
            np.savez(root / "npz" / f"{name}.npz", x_train=own[:, None], y_train=own % 2)
            users[name] = {"x": own[:, None].tolist(), "y": (own % 2).tolist()}
        (root / "leaf.json").write_text(json.dumps({"users": list(users), "user_data": users}))
        for kind in ("csv", "npz", "leaf.json"):
            data = load(str(root / kind), Source())
            by_name[kind, offset] = data.images(torch.arange(60)).flatten().numpy()
    for kind in ("csv", "npz", "leaf.json"):
        np.testing.assert_allclose(by_name[kind, 0], by_name[kind, 1_700_000_000], atol=1e-5)


def test_a_warning_reaches_the_user(tmp_path, capsys):
    root = beside(tables_of(tmp_path / "own"), "notes.txt")
    words = ["--model", "MLP", "--show_split", "--export_dir", str(tmp_path / "runs")]
    assert run.main(["--clients", str(root), *words]) == 0
    assert capsys.readouterr().err == f"{root}: not read: notes.txt\n"


@pytest.mark.parametrize("name", ["none", "t.csv", "empty"])
def test_what_names_no_clients_is_one_line(name, tmp_path):
    csv(tmp_path / "t.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no clients|no such file") as raised:
        clients(tmp_path / name)
    assert silos.WANTED in reason(raised.value)
