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
    found = {f"{what}_{part}": of[name][p] for what, of in (("x", IMAGES), ("y", LABELS)) for p, part in enumerate(PARTS)}
    return {key: array for key, array in found.items() if test or key.endswith("train")}


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
    found = {key: np.concatenate([arrays(name)[key] for name in ORDER]) for key in arrays("annex")}
    for p, part in enumerate(PARTS):
        found[f"client_{part}"] = np.repeat(ORDER, [N[name][p] for name in ORDER])
    return {key: array for key, array in found.items() if test or key.endswith("train")}


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
    (one,), (other,) = (saves.find(tmp_path / name) for name in ("one", "other"))
    weights = [found.weights()["global"] for found in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    columns = ["loss", "global_mean", "personal_mean", "global_loss"]
    pd.testing.assert_frame_equal(one.rounds[columns], other.rounds[columns])
    pd.testing.assert_series_equal(one.clients["personal_accuracy"], other.clients["personal_accuracy"])
    assert (one.names, other.names) == (ORDER, [])
    assert pd.read_excel(one.folder / "history.xlsx", sheet_name="clients")["name"].tolist() == ORDER
    assert "name" not in pd.read_excel(other.folder / "history.xlsx", sheet_name="clients")


def test_names_are_shown_with_the_split_and_the_global_test_set_is_told(tmp_path, capsys):
    words = ["--model", "MLP", "--show_split", "--export_dir", str(tmp_path / "runs")]
    root = in_files(tmp_path / "own")
    assert run.main(["--clients", str(root), *words]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[1:5]] == ["client", *ORDER]
    assert told[5] == "no test set is common to all clients: the global one is the union of their own, 9 examples"
    assert run.main(["--dataset", str(root), "--partition", "iid", *words]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told[1:4]] == ["client", "0", "1"]
    assert told[4] == "the data come by 3 clients and are dealt anew; --clients keeps them as they come"
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
    (found,) = saves.find(tmp_path / "runs")
    assert found.options["clients"] is None


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
    found = joined()
    np.savez(tmp_path / "all.npz", **{**found, "client_test": np.full(9, "visitor")})
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
    found = table(csv(tmp_path / "t.csv"))
    assert found.features == ("age", "mass")
    assert found.train.x.dtype == np.float32
    assert np.array_equal(found.train.x[:, :, 0, 0], np.array([ROWS["age"], ROWS["mass"]], np.float32).T)
    assert found.train.y.tolist() == ROWS["label"]  # NA is a name like any other
    assert (found.train.clients, found.test) == (None, None)


def test_the_label_is_the_column_that_is_named_or_called_so_or_the_last(tmp_path):
    path = csv(tmp_path / "t.csv", kind=[3, 1, 3, 3, 1, 3], client=list("aabbab"))
    assert table(path).train.y.tolist() == ROWS["label"]
    other = csv(tmp_path / "u.csv", label=None, kind=[3, 1, 3, 3, 1, 3], client=list("aabbab"))
    assert table(other).train.y.tolist() == table(other, "kind").train.y.tolist() == list("313313")
    assert table(other, "age").features == ("mass", "kind")


def test_a_table_tells_clients_and_parts(tmp_path):
    told = {"client": ["b", "a", "b", "b", "a", ""], "part": ["train"] * 3 + ["test"] * 3, "label": list("uvvuvu")}
    path = csv(tmp_path / "t.csv", **told)
    data = load(str(path), Source())
    assert clients(path) == data.clients == ("a", "b")
    assert data.owners.tolist() == [1, 0, 1, 1, 0, -1]
    assert (data.n_train, data.shape, data.vectors) == (3, (2, 1, 1), True)


def test_features_are_standardised_one_by_one_by_the_training_rows(tmp_path):
    path = csv(tmp_path / "t.csv", label=list("abaaba"), part=["train"] * 4 + ["test"] * 2)
    data = load(str(path), Source())
    found = data.images(torch.arange(6), torch.float64)[:, :, 0, 0].numpy()
    x = np.array([ROWS["age"], ROWS["mass"]]).T
    np.testing.assert_allclose(found, (x - x[:4].mean(0)) / x[:4].std(0), rtol=1e-6)


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
    assert line == "--image_size 5: flat holds vectors of 16 features; read only with images, or with vectors of 5x5"


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
    "a missing value": (of_table(mass=[1, None, 3, 4, 5, 6]), "t.csv, line 3: the column mass has no value"),
    "infinity": (of_table(mass=[1, 2, np.inf, 4, 5, 6]), "line 4: the column mass holds inf; features must be finite"),
    "a row without a label": (of_table(label=["a", "b", "", "a", "b", "a"]), "line 4: the column label has no value"),
    "another part": (of_table(part=["train", "dev", *["test"] * 4]), "line 3: part is dev; must be train or test"),
    "only test rows": (of_table(part=["test"] * 6), "has no training examples"),
    "no features": (of_table(age=None, mass=None), "has no columns but label; all others are the features"),
    "no rows": (of_table(age=[], mass=[], label=[]), "t.csv has no rows"),
    "a training row of nobody": (of_table(client=["a", "", *"abab"]), "training examples are of a client without a name"),
    "a class that is tested only": (
        of_table(label=list("abaabc"), part=["train"] * 5 + ["test"]),
        "test examples are of class c, which the training examples lack",
    ),
    "a client that is tested only": (
        of_table(client=list("aabbac"), label=list("ababab"), part=["train"] * 4 + ["test"] * 2),
        "client c has test examples and no training examples",
    ),
    "a column less": (a_column_less, "the columns of b and a are not the same (mass)"),
    "another size": (of_files(x_train=np.zeros((6, 9, 8), np.uint8)), "an image of x_train is uint8 [1, 9, 8]"),
    "a client of another size": (
        of_files(x_train=np.zeros((6, 9, 8), np.uint8), x_test=np.zeros((3, 9, 8), np.uint8)),
        "an example of ward_2 is uint8 [1, 9, 8], of annex uint8 [1, 8, 8] [channels, height, width]; must be alike",
    ),
    "a client without labels": (of_files(y_train=np.zeros(0, int)), "ward_2.npz: y_train holds 0 labels for 6 images"),
    "a client with other classes": (of_files(classes=np.array(list("abc"))), "the classes of ward_2 and annex are not"),
    "a client without train": (spoiled(no_train), "later/train; each client must have train/CLASS/*.png"),
    "an empty test": (spoiled(empty_test), "ward_2/test holds no folders; must hold one for each class"),
    "folders and files": (spoiled(lambda own: np.savez(own / "x.npz", a=1)), "holds folders and files of clients"),
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


@pytest.mark.parametrize("name", ["none", "t.csv", "empty"])
def test_what_names_no_clients_is_one_line(name, tmp_path):
    csv(tmp_path / "t.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no clients|no such file") as raised:
        clients(tmp_path / name)
    assert silos.WANTED in reason(raised.value)
