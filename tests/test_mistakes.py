"""Every mistake in a command gives exit status 2 and one line that says what was wrong and what is allowed, and no more."""

import functools
import importlib
import json
import logging
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from conftest import ROOT, tiny_data
from PIL import Image

import algorithms
import experiment
import models
import run
from data import datasets, partition
from options import Averaging, Launch, Number, Options, flags_of

HUGE = 10**24  # more than 64 bits hold
# algorithms with --bn, but for those that take models with BatchNorm alone
AVERAGING = [
    name
    for name in algorithms.ALGORITHMS
    if issubclass(algorithms.options_of(name), Averaging) and not algorithms.says(name, "heads")
]

# (command line, words that its one line must contain); {tmp} is a folder with a file called `file` in it
CASES = [
    # names
    ("cfdk", ["algorithm cfdk", "one of fedavg, fedprox", "did you mean cfkd?"]),
    ("fedavg indpendent", ["algorithm indpendent", "did you mean independent?"]),
    ("fedavg qqq", ["algorithm qqq", "one of fedavg, fedprox"]),
    ("--dataset MNITS", ["--dataset MNITS", "one of digits, MNIST, FMNIST", "did you mean MNIST?"]),
    ("--model LeNet", ["--model LeNet", "one of LeNet5, LeNet5_classic, ResNet9", "did you mean LeNet5?"]),
    ("--model LeNet5,RestNet9", ["--model LeNet5,RestNet9", "several joined by commas", "did you mean ResNet9?"]),
    ("--partition dirichelt", ["--partition dirichelt", "one of dirichlet, lda, iid", "did you mean dirichlet?"]),
    ("--optimizer adamw", ["--optimizer adamw", "one of adam, sgd", "did you mean adam?"]),
    ("--reduced 0.5 --reduced_draw frist", ["--reduced_draw frist", "one of first, random", "did you mean first?"]),
    ("fd --fd_variant logits", ["--fd_variant logits", "one of leave_one_out, mse_logits"]),
    ("--device tpu", ["--device tpu", "auto, cpu, cuda or cuda:N"]),
    ("--device cuda:x", ["--device cuda:x", "auto, cpu, cuda or cuda:N"]),
    ("fedbn", ["algorithm fedbn", "use fedavg --bn local"]),
    ("cfkd FedAdam", ["algorithm FedAdam", "use fedopt --server_optimizer adam"]),
    # whole numbers
    ("--n_clients 0", ["--n_clients 0", "a whole number at least 1"]),
    ("--n_clients -3", ["--n_clients -3", "a whole number at least 1"]),
    ("--n_clients 2.5", ["--n_clients 2.5", "a whole number at least 1"]),
    ("--n_clients two", ["--n_clients two", "a whole number at least 1"]),
    ("--n_clients 1e1", ["--n_clients 1e1", "a whole number at least 1"]),
    ("--rounds 0", ["--rounds 0", "a whole number at least 1"]),
    ("--epoch_per_round 0", ["--epoch_per_round 0", "a whole number at least 1"]),
    ("--batch_size 0", ["--batch_size 0", "a whole number at least 1"]),
    ("--track_history -1", ["--track_history -1", "a whole number at least 0"]),
    ("--seed -1", ["--seed -1", "a whole number at least 0"]),
    ("--seed 0 1 x", ["--seed x", "a whole number at least 0"]),
    ("--threads 0", ["--threads 0", "a whole number at least 1 and at most 1024 or auto"]),
    ("--lr 0,1", ["--lr 0,1", "write decimals with a point"]),
    ("--n_avg 0", ["--n_avg 0", "a whole number at least 1"]),
    (f"--threads {HUGE}", ["--threads", str(HUGE)]),
    ("--threads 100000", ["--threads", "100000"]),  # more than a process can start
    (f"--batch_size {HUGE}", ["--batch_size", str(HUGE)]),
    (f"--feature_dim {HUGE}", ["--feature_dim", str(HUGE)]),
    ("--feature_dim 10000000000", ["--feature_dim 10000000000"]),  # 4.8 TB of weights
    (f"--n_clients {HUGE}", ["--n_clients", str(HUGE), "too large"]),
    (f"--n_clients {10**12}", ["--n_clients", str(10**12), "at most 1437"]),
    ("--reduced 0.0001", ["--reduced 0.0001", "none of the 1437 training images"]),
    # what does not go together
    (
        "--n_clients 1 --model LeNet5,ResNet9",
        ["--model LeNet5,ResNet9", "more architectures than clients; must be at most --n_clients 1"],
    ),
    ("fd --fd_variant leave_one_out --as_published", ["--fd_variant leave_one_out", "contradicts --as_published"]),
    ("fedavg --as_published --select per_round", ["--select per_round", "contradicts --as_published", "--select fixed"]),
    ("--data_dir data fedavg", ["--data_dir fedavg", "put it before the flags", "python run.py fedavg --data_dir data"]),
    ("fedavg --force=yes", ["--force=yes", "takes no value"]),
    *(
        (f"{name} --model MLP --bn local", ["--bn local", "--model MLP has no BatchNorm", *(models.with_batch_norm())])
        for name in AVERAGING
    ),
    # numbers
    ("--lr 0", ["--lr 0", "a number above 0"]),
    ("--lr -0.1", ["--lr -0.1", "a number above 0"]),
    ("--lr -1e-3", ["--lr -1e-3", "a number above 0"]),
    ("--lr -inf", ["--lr -inf", "a number above 0"]),
    ("--lr inf", ["--lr inf", "a number above 0"]),
    ("--lr 0,1", ["--lr 0,1", "a number above 0"]),
    ("--lr 1e39", ["--lr 1e39"]),  # more than a float32 holds
    ("--weight_decay 1e39", ["--weight_decay 1e39"]),
    ("--alpha 0", ["--alpha 0", "a number above 0 or inf"]),
    ("--alpha -1", ["--alpha -1", "a number above 0 or inf"]),
    ("--alpha uniform", ["--alpha uniform", "a number above 0 or inf"]),
    ("--reduced 0", ["--reduced 0", "above 0 and at most 1"]),
    ("--reduced 1.5", ["--reduced 1.5", "above 0 and at most 1"]),
    ("--validation 1", ["--validation 1", "at least 0 and below 1"]),
    ("--participation 0", ["--participation 0", "above 0 and at most 1"]),
    ("--optimizer sgd --momentum 1", ["--momentum 1", "at least 0 and below 1"]),
    ("--weight_decay -0.1", ["--weight_decay -0.1", "a number at least 0"]),
    ("--lambda_kd -1", ["--lambda_kd -1", "a number at least 0"]),
    # what cannot be dealt
    ("--n_clients 361", ["--n_clients 361", "than test images of digits", "at most 360"]),
    ("--n_clients 2 361", ["--n_clients 361", "at most 360"]),  # a grid is refused as a whole
    ("--n_clients 1438", ["--n_clients 1438", "than training images of digits", "at most 1437"]),
    ("--n_clients 20 --reduced 0.01", ["--n_clients 20", "--reduced 0.01", "at most 14"]),
    ("--sizes 0.6,0.6", ["--sizes 0.6,0.6", "add up to at most 1, got 1.2"]),
    ("--sizes 0.5 0.3 0.2", ["--sizes 0.5,0.3,0.2", "one size per client (--n_clients 2), got 3"]),
    ("--n_clients 3 --sizes 0.5,0.5", ["--sizes 0.5,0.5", "one size per client (--n_clients 3), got 2"]),
    ("--sizes 0.5,0", ["--sizes 0.5,0", "above 0 and at most 1"]),
    ("--sizes 0.5,0.001", ["--sizes 0.5,0.001", "360 test images", "at least 0.0028"]),
    ("--n_clients 1 --reduced 0.001 --validation 0.5", ["--validation 0.5", "client 0", "single training image"]),
    ("--partition shards --n_clients 2", ["--shard_per_user 2", "--n_clients 2", "10 classes", "must be 5 to"]),
    ("--partition shards --n_clients 100 --shard_per_user 50", ["--shard_per_user 50", "shards"]),
    ("--partition shards --shard_per_user 0", ["--shard_per_user 0", "at least 1"]),
    ("--partition classes --classes_per_client 11", ["--classes_per_client 11", "10 classes"]),
    ("--partition classes --n_clients 300 --classes_per_client 10", ["--classes_per_client 10", "300 pieces", "images"]),
    ("--partition writers", ["--partition writers", "--dataset MNIST"]),
    (
        "--feature_shift rotate",
        ["--feature_shift rotate", "one of none, rotation, noise, contrast", "did you mean rotation?"],
    ),
    ("--feature_shift rotation --shift_strength 45", ["--shift_strength 45", "at least 0 and at most 1"]),
    ("--shift_strength 0.3", ["--shift_strength 0.3", "applies only with --feature_shift other than none"]),
    (
        "--partition reference_blocks --n_clients 5 --feature_shift noise",
        ["--feature_shift noise", "--partition reference_blocks", "several clients have the same image", "must be none, or"],
    ),
    ("--partition writers --test_share 1", ["--test_share 1", "above 0 and below 1"]),
    # how others say it
    ("--num_users two", ["--num_users two", "a whole number at least 1"]),
    ("--num_users 3 --n_clients 3", ["--n_clients", "--num_users", "which is also set"]),
    ("--num_users 8 --num_select_clients 9", ["--num_select_clients 9", "at most --n_clients 8"]),
    ("--num_select_clients 1 --frac 0.5", ["--num_select_clients", "--frac", "which is also set"]),
    ("--partition_method hetero-fix", ["--partition_method hetero-fix", "one of dirichlet, lda"]),
    ("--iid --partition lda", ["--iid", "--partition", "which is also set"]),
    ("--gpu one", ["--gpu one", "a whole number at least -1"]),
    ("--preset fa", ["--preset fa", "one of fl, fd, il, cl"]),
    ("fedavg --preset fl", ["--preset fl", "fedavg is named"]),
    ("--preset fl --preset il", ["--preset fl", "allows no second preset"]),
    # schedules, gradients, augmentation
    ("--lr_schedule linear", ["--lr_schedule linear", "one of constant, step, cosine"]),
    ("--clip_grad -1", ["--clip_grad -1", "a number at least 0"]),
    ("--augment crop", ["--augment crop", "one of none, flip, crop_flip, crop_flip_cutout"]),
    # flags given in vain
    ("--shard_per_user 3", ["--shard_per_user 3", "applies only with --partition shards"]),
    ("--partition shards --alpha 0.5", ["--alpha 0.5", "applies only with --partition dirichlet or lda"]),
    ("--partition classes --test_share 0.5", ["--test_share 0.5", "applies only with --partition writers"]),
    ("--attribute Young", ["--attribute Young", "applies only with --dataset CELEBA"]),
    ("--image_size 16.5", ["--image_size 16.5", "a whole number at least 1"]),
    ("--alpha 0.5 --partition iid", ["--alpha 0.5", "applies only with --partition dirichlet or lda"]),
    ("--sizes 0.5,0.5 --partition lda", ["--sizes 0.5,0.5", "applies only with --partition dirichlet or iid"]),
    ("--momentum 0.9 --optimizer adam", ["--momentum 0.9", "applies only with --optimizer sgd"]),
    ("--feature_dim 50 --model MLP", ["--feature_dim 50", "applies only with --model LeNet5 or ResNet9"]),
    ("--reduced_draw random", ["--reduced_draw random", "applies only with --reduced below 1"]),
    ("fd --fd_gamma 2 --fd_variant mse_logits", ["--fd_gamma 2", "applies only with --fd_variant leave_one_out"]),
    ("fd --lambda_kd 10", ["--lambda_kd 10", "applies only with --fd_variant mse_logits"]),
    # a partition that would be an even split
    ("--partition lda", ["--partition lda", "--alpha", "or --alpha inf"]),
    ("--partition iid dirichlet", ["--partition dirichlet", "--alpha"]),
    ("fedavg fedprox --partition lda --split_seed seed", ["--partition lda", "--alpha"]),
    # flags of other systems that say less than ours
    ("fedavg --epochs 3", ["--epochs", "did you mean --epoch_per_round or --rounds?"]),
    ("fedavg --output x", ["--output", "did you mean --export_dir?"]),
    ("fedavg --beta 0.5", ["--beta", "it is a flag of pfedme", "did you mean --alpha?"]),
    ("fedavg --times 3", ["--times", "did you mean --seed 0 1 2, a run per seed?"]),
    ("fedavg --resume", ["--resume", "did you mean the same command without the flag, which resumes?"]),
    ("--partition noniid", ["--partition noniid", "one of dirichlet, lda, iid", "did you mean lda --alpha 0.3, or shards?"]),
    ("--algorithm fedavg", ["--algorithm", "did you mean an algorithm's name without a flag, before all flags?"]),
    ("-algo FedAvg -gr 5", ["--algorithm", "did you mean an algorithm's name without a flag, before all flags?"]),
    ("method=fedavg dataset.name=mnist", ["method=fedavg: is not a flag; write fedavg, and algorithms before the flags"]),
    ("fedavg protocol.n_rounds=5", ["protocol.n_rounds=5: is not a flag; write --n_rounds 5"]),
    ("fedavg model.name=lenet5", ["model.name=lenet5: is not a flag; write --model lenet5"]),
    ("fedavg --run-config x", ["--run_config", "did you mean the settings as flags, such as --rounds 5 --lr 0.1?"]),
    ("fedavg --fraction-evaluate 0.5", ["--fraction_evaluate", "did you mean --track_history?"]),
    ("fedavg --n-clients 0", ["--n_clients 0", "a whole number at least 1"]),
    ("fedavg -t 3", ["--times", "did you mean --seed 0 1 2, a run per seed?"]),
    ("fedavg -s 2", ["--shards", "did you mean --shard_per_user with --partition shards?"]),
    ("--partition pat", ["--partition pat", "did you mean classes --classes_per_client 2, or shards?"]),
    ("fedavg --model CNN", ["--model CNN", "did you mean CNN_McMahan or CNN4?"]),
    ("--learning_rate fast", ["--learning_rate fast", "a number above 0"]),
    ("Fed-Avgg", ["algorithm Fed-Avgg", "did you mean fedavg?"]),
    # flags that are not there
    ("--n_client 3", ["--n_client", "did you mean --n_clients?"]),
    ("--n_client=3", ["--n_client", "did you mean --n_clients?"]),
    ("--qqq 3", ["--qqq"]),
    ("-x 3", ["-x", "does not belong to a flag"]),
    ("fedavg --lambda_disc 1", ["--lambda_disc", "a flag of cfkd"]),
    ("fedavg independent --lambda_kd 1", ["--lambda_kd", "a flag of cfkd, fd"]),
    ("independent --as_published", ["--as_published", "a flag of fedavg, cfkd, fd, fedgkt"]),
    # values that are not there, or are too many
    ("--lr --seed 1", ["--lr", "the value is missing"]),
    ("--seed", ["--seed", "the value is missing"]),
    ("--force yes", ["yes", "does not belong to a flag"]),
    ("--data_dir a b", ["--data_dir", "takes one value, got 2"]),
    ("--quiet fedavg", ["fedavg", "put algorithms before the flags"]),
    ("--dataset digits fedavg", ["--dataset fedavg", "python run.py fedavg --dataset"]),
    ("cfkd --seed 0 fedavg", ["--seed fedavg", "put it before the flags"]),
    # models that do not go together, or not with the algorithm
    ("fedavg --model LeNet5,ResNet9", ["--model LeNet5,ResNet9", "fedavg", "must have the same architecture"]),
    ("centralized --model LeNet5,MLP", ["--model LeNet5,MLP", "centralized", "must have the same architecture"]),
    ("cfkd --model LeNet5,MLP", ["--model LeNet5,MLP", "the same feature dimension", "LeNet5 100, MLP 200"]),
    ("fedgkt --model LeNet5", ["--model LeNet5", "has no stem", "ResNet8"]),
    ("fedgkt --server_model ResNet", ["--server_model ResNet", "one of LeNet5"]),
    (
        "fedgkt --image_size 4 --server_model ResNet55",
        ["--server_model ResNet55", "does not fit the feature maps of"],
    ),
    ("fedgkt --distill_client 2", ["--distill_client 2", "one of 0, 1"]),
    ("fedgkt --temperature 0", ["--temperature 0", "a number above 0"]),
    ("fedgkt --augment_extract 0", ["--augment_extract 0", "applies only with --augment"]),
    ("fedgkt --stale drop", ["--stale drop", "applies only with --participation below 1"]),
    ("fedgkt --feature_dtype int8", ["--feature_dtype int8", "one of float32, float16, bfloat16"]),
    ("fedavg --precision bf8", ["--precision bf8", "one of float32, bf16"]),
    ("fedavg --server_model ResNet19", ["--server_model", "a flag of fedgkt"]),
    ("fedavg --rounds=--", ["--rounds=--: -- is not a value"]),
    ("--config_file=--", ["--config_file=--: -- is not a value"]),
    ("fedavg --plugin=--", ["--plugin=--: -- is not a value"]),
    # files and machines
    (
        "--export_dir {tmp}/file",
        ["--export_dir", "/file", "cannot be written", "use a folder that exists or can be created"],
    ),
    ("--export_dir {tmp}/file/below", ["--export_dir", "/file/below", "use a folder that exists or can be created"]),
    ("--export_dir {tmp}/" + 300 * "a", ["--export_dir", 300 * "a"]),
    ("--export_dir /proc/x", ["--export_dir /proc/x", "cannot be written"]),
    ("--dataset " + 300 * "a", ["--dataset aaa", "MNIST"]),  # no file has a name as long
    ("fedmd --public_dataset " + 300 * "a", ["--public_dataset aaa", "one of"]),
    ("--dataset ./" + 300 * "a", ["--dataset ./aaa", "no such file"]),
    ("--clients " + 300 * "a", ["--clients aaa", "no such file"]),
    ("--plugin " + 300 * "a" + ".py", ["aaa.py: no such file"]),
    ("./" + 300 * "a" + ".py", ["aaa.py: no such file"]),
    ("--dataset nothere.npz", ["--dataset nothere.npz", "no such file", "a .npz file or a folder"]),
    ("dpsgd --data_dir {tmp}/none", ["--dataset MNIST (the default of dpsgd; other methods use digits): ", "--data_dir"]),
    ("dpsgd --dataset mnist --data_dir {tmp}/none", ["--dataset MNIST: ", "--data_dir"]),
    (
        "--dataset MNIST --data_dir {tmp}/none",
        ["--dataset MNIST", "/none/MNIST/raw", "train-images-idx3-ubyte", "--data_dir"],
    ),
    ("--dataset FMNIST --data_dir {tmp}/file", ["--dataset FMNIST", "/file/FashionMNIST/raw", "--data_dir"]),
]


# --- files ---


def arrays(**changes):
    """The arrays of a proper .npz of 12 + 6 images [1, 8, 8] in 3 classes, some of them changed; None leaves one out."""
    draw = np.random.default_rng(0)
    held = {
        **{"x_train": draw.integers(0, 256, (12, 8, 8), dtype=np.uint8), "y_train": np.arange(12) % 3},
        **{"x_test": draw.integers(0, 256, (6, 8, 8), dtype=np.uint8), "y_test": np.arange(6) % 3},
    }
    return {name: value for name, value in {**held, **changes}.items() if value is not None}


def npz(**changes):
    def make(tmp):
        np.savez(tmp / "mine.npz", **arrays(**changes))

    return make


def spoiled(spoil):
    """A proper .npz whose bytes are changed."""

    def make(tmp):
        np.savez(tmp / "mine.npz", **arrays())
        (tmp / "mine.npz").write_bytes(spoil((tmp / "mine.npz").read_bytes()))

    return make


def pictures(size=8, **spoil):
    """train/ and test/ with three pictures each of two classes; `spoil`: what else is done, by name."""

    def make(tmp):
        for part in ("train", "test"):
            for name in ("cat", "dog"):
                (tmp / "pets" / part / name).mkdir(parents=True)
                for i in range(3):
                    Image.new("RGB", (size, size), (40 * i, 0, 0)).save(tmp / "pets" / part / name / f"{i}.png")
        for change in spoil.values():
            change(tmp / "pets")

    return make


def lion(pets):
    (pets / "test" / "lion").mkdir()
    Image.new("RGB", (8, 8)).save(pets / "test" / "lion" / "0.png")


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def config(held):
    def make(tmp):
        (tmp / "c.json").write_text(held if isinstance(held, str) else json.dumps(held))

    return make


def saved_split(change=lambda arrays: arrays, **options):
    """A split of the digits, its arrays changed."""

    def make(tmp):
        data = datasets.load("digits", datasets.Source())
        split = partition.split(data, Options(**options))
        np.savez(tmp / "split.npz", **change(partition.arrays(data, split)))

    return make


@functools.cache
def finished(name, **flags):
    """The folder of a finished run on the digits."""
    import tempfile

    options = {"algorithm": name, "n_clients": 3, "rounds": 1, "reduced": 0.05, "model": ("MLP",), "threads": 1, **flags}
    folder = Path(tempfile.mkdtemp())
    return experiment.run(experiment.prepare(algorithms.options_of(name)(**options), Launch(export_dir=folder))).folder


def copied(name, change=lambda folder: None, **flags):
    def make(tmp):
        shutil.copytree(finished(name, **flags), tmp / "run")
        change(tmp / "run")

    return make


def silos(tmp, names="ab"):
    """A file of six vectors of five numbers a client."""
    (tmp / "own").mkdir()
    for name in names:
        np.savez(tmp / "own" / f"{name}.npz", x_train=np.ones((6, 5)), y_train=np.arange(6) % 2)


def three(tmp):
    silos(tmp, "abc")


def leaf(y, x=1.0):
    """LEAF's JSON of one user with these labels."""
    held = {"users": ["u"], "user_data": {"u": {"x": [[x, k] for k in range(len(y))], "y": y}}}
    return lambda tmp: (tmp / "all.json").write_text(json.dumps(held))


def table(tmp):
    (tmp / "t.csv").write_text("a,b,y\n1,2,u\n3,4,v\n5,6,u\n7,8,v\n")


def small_mnist(tmp):
    """Four files that are none of the published ones."""
    raw = tmp / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        axes = (20, 9, 9) if "images" in name else (20,)
        header = bytes([0, 0, 8, len(axes)]) + b"".join(n.to_bytes(4, "big") for n in axes)
        (raw / name).write_bytes(header + bytes(math.prod(axes)))


RUN = "--n_clients 3 --model MLP --init_from {tmp}/run"
FILES = {
    # what is made in {tmp}, the command, the words of its line
    "no such file": (None, "--dataset {tmp}/none.npz", ["--dataset", "none.npz", "a .npz file or a folder"]),
    "neither npz nor folder": (None, "--dataset {tmp}/file", ["--dataset", "/file", "npz"]),
    "empty npz": (spoiled(lambda b: b""), "--dataset {tmp}/mine.npz", ["mine.npz", "cannot be read as an .npz file"]),
    "truncated npz": (spoiled(lambda b: b[:700]), "--dataset {tmp}/mine.npz", ["mine.npz", "cannot be read"]),
    "corrupt npz": (
        spoiled(lambda b: b[:300] + bytes(100) + b[400:]),
        "--dataset {tmp}/mine.npz",
        ["mine.npz", "cannot be read"],
    ),
    "npz without labels": (npz(y_train=None), "--dataset {tmp}/mine.npz", ["mine.npz", "lacks y_train", "x_test"]),
    "npz with objects": (npz(x_train=np.array([{}])), "--dataset {tmp}/mine.npz", ["mine.npz", "x_train holds objects"]),
    "images of one axis": (npz(x_train=np.zeros(12)), "--dataset {tmp}/mine.npz", ["x_train", "[12]", "[n, height, width]"]),
    "pixels beyond 255": (npz(x_test=np.full((6, 8, 8), 300)), "--dataset {tmp}/mine.npz", ["x_test", "300", "0 .. 255"]),
    "pixels that are NaN": (npz(x_test=np.full((6, 8, 8), np.nan)), "--dataset {tmp}/mine.npz", ["x_test", "not finite"]),
    "unlike images": (
        npz(x_test=np.zeros((6, 9, 9), np.uint8)),
        "--dataset {tmp}/mine.npz",
        ["x_train", "x_test", "must be the same"],
    ),
    "negative labels": (npz(y_train=np.arange(12) % 3 - 1), "--dataset {tmp}/mine.npz", ["y_train", "-1", "0 .. C - 1"]),
    "labels that are floats": (
        npz(y_train=np.arange(12) % 3 / 1),
        "--dataset {tmp}/mine.npz",
        ["y_train", "float64", "integers"],
    ),
    "labels with a gap": (
        npz(y_train=np.arange(12) % 3 * 2),
        "--dataset {tmp}/mine.npz",
        ["no label 1, 3", "all of 0 .. 4"],
    ),
    "one class in all": (
        npz(y_train=np.zeros(12, int), y_test=np.zeros(6, int)),
        "--dataset {tmp}/mine.npz",
        ["--dataset", "mine.npz", "the class 0", "at least two classes"],
    ),
    "public images that are NaN": (
        npz(x_train=np.full((12, 8, 8), np.nan)),
        "feddf --public_dataset {tmp}/mine.npz",
        ["--public_dataset", "mine.npz: x_train", "not finite"],
    ),
    "a client's numbers that are infinite": (
        lambda tmp: (silos(tmp), np.savez(tmp / "own" / "c.npz", x_train=np.full((6, 5), np.inf), y_train=np.arange(6) % 2)),
        "--clients {tmp}/own --model MLP",
        ["own/c.npz: x_train", "not finite"],
    ),
    "a label of a table that is NaN": (
        lambda tmp: (tmp / "t.csv").write_text("a,y\n1,0\n3,1\n5,nan\n7,1\n"),
        "--dataset {tmp}/t.csv --model MLP",
        ["t.csv, line 4", "the column y holds nan", "not a class"],
    ),
    "a label of LEAF that is NaN": (
        leaf([0, 1, math.nan]),
        "--clients {tmp}/all.json --model MLP",
        ["all.json: user u", "a missing label"],
    ),
    "a label of LEAF that is null": (leaf([0, 1, None]), "--clients {tmp}/all.json --model MLP", ["a missing label"]),
    "a feature of LEAF that is NaN": (
        leaf([0, 1, 1], math.nan),
        "--clients {tmp}/all.json --model MLP",
        ["x of user u", "not finite"],
    ),
    "a client with one example and none to test on": (
        npz(client_train=np.array(["a"] + ["b"] * 11), client_test=np.array(["b"] * 6)),
        "--clients {tmp}/mine.npz --model MLP",
        ["a has a single example", "no test examples"],
    ),
    "a client with one example and none to hold out": (
        npz(client_train=np.array(["a"] + ["b"] * 11), client_test=np.array(["a"] + ["b"] * 5)),
        "--clients {tmp}/mine.npz --model MLP --validation 0.2",
        ["--validation 0.2", "client 0 has a single training image"],
    ),
    "fewer labels than images": (
        npz(y_test=np.arange(5) % 3),
        "--dataset {tmp}/mine.npz",
        ["y_test", "5 labels for 6 images"],
    ),
    "a test class that train lacks": (
        npz(y_test=np.arange(6)),
        "--dataset {tmp}/mine.npz",
        ["y_test", "label 5", "but y_train does not"],
    ),
    "a folder without train": (None, "--dataset {tmp}", ["--dataset", "/train", "train/CLASS/*.png"]),
    "one broken picture": (
        pictures(broken=lambda pets: half(pets / "train" / "dog" / "1.png")),
        "--dataset {tmp}/pets",
        ["--dataset", "/pets", "train/dog/1.png"],
    ),
    "a page for a picture": (
        pictures(page=lambda pets: (pets / "test" / "cat" / "2.png").write_text("<html>")),
        "--dataset {tmp}/pets",
        ["test/cat/2.png"],
    ),
    "pictures of unequal size": (
        pictures(large=lambda pets: Image.new("RGB", (9, 7)).save(pets / "train" / "cat" / "2.png")),
        "--dataset {tmp}/pets",
        ["8x8", "train/cat/2.png has 9x7", "--image_size"],
    ),
    "a class of test that train lacks": (pictures(lion=lion), "--dataset {tmp}/pets", ["test/lion", "cat, dog"]),
    "a class without pictures": (
        pictures(empty=lambda pets: (pets / "train" / "ant").mkdir()),
        "--dataset {tmp}/pets",
        ["train/ant", "holds no images"],
    ),
    "an image size of nothing": (pictures(), "--dataset {tmp}/pets --image_size 0", ["--image_size 0", "at least 1"]),
    "a model that such images do not fit": (
        pictures(size=3),
        "--dataset {tmp}/pets --model ResNet9",
        ["--model ResNet9", "3x3"],
    ),
    "more clients than test images": (pictures(), "--dataset {tmp}/pets --n_clients 7", ["--n_clients 7", "at most 6"]),
    "a wrong checksum": (
        small_mnist,
        "--dataset MNIST --data_dir {tmp}",
        ["--dataset MNIST", "train-images-idx3-ubyte", "md5", "6bbc9ace898e44ae57da46a324031adb", "--unverified_data"],
    ),
    "an attribute that CelebA has not": (
        None,
        "--dataset CELEBA --attribute Smile",
        ["--attribute Smile", "one of 5_o_Clock_Shadow", "did you mean Smiling?"],
    ),
    "CelebA is not there": (
        None,
        "--dataset CELEBA --data_dir {tmp}/none",
        ["--dataset CELEBA", "img_align_celeba", "--data_dir"],
    ),
    "a config that is not there": (
        None,
        "--config_file {tmp}/c.json",
        ["--config_file", "c.json", "cannot be read", "config.json"],
    ),
    "a config that is no JSON": (
        config("{"),
        "--config_file {tmp}/c.json",
        ["c.json", "cannot be read as JSON", "config.json of a saved run"],
    ),
    "a config with an unknown key": (
        config({"n_client": 3}),
        "--config_file {tmp}/c.json",
        ["c.json: --n_client", "did you mean"],
    ),
    "a config with another algorithm's flag": (
        config({"options": {"algorithm": "fedavg", "lambda_kd": 3}}),
        "--config_file {tmp}/c.json",
        ["c.json: --lambda_kd", "a flag of cfkd, fd"],
    ),
    "a config with a wrong value": (
        config({"algorithm": "fedavg", "lr": -1}),
        "--config_file {tmp}/c.json",
        ["c.json: --lr -1", "a number above 0"],
    ),
    "a config of another algorithm": (
        config({"algorithm": "fedavg"}),
        "cfkd --config_file {tmp}/c.json",
        ["c.json: is for fedavg, but cfkd is named"],
    ),
    "clients that are not there": (None, "--clients {tmp}/none", ["--clients", "/none", "no such file", "LEAF"]),
    "clients of a file that names none": (
        npz(),
        "--clients {tmp}/mine.npz",
        ["--clients", "names no clients", "client_train"],
    ),
    "clients and another number of them": (
        silos,
        "--clients {tmp}/own --n_clients 5",
        ["--n_clients 5", "has 2 clients"],
    ),
    "all clients are new": (silos, "--clients {tmp}/own --new_clients 2", ["--new_clients 2", "at least one must train"]),
    "more clients than there are, with new ones": (
        three,
        "--clients {tmp}/own --n_clients 2 --new_clients 2",
        ["--n_clients 2 with --new_clients 2", "has 3 clients"],
    ),
    "a new client that does not exist": (
        three,
        "--clients {tmp}/own --new_clients nobody --model MLP",
        ["--new_clients nobody", "must be among"],
    ),
    "a new client without names": (None, "--new_clients sketch", ["--new_clients sketch", "no names; use a number"]),
    "a negative number of new clients": (None, "--new_clients -1", ["--new_clients -1", "a whole number of clients"]),
    "more new clients than a whole": (None, "--new_clients 1.5", ["--new_clients 1.5", "a fraction below 1"]),
    "two rules of sizes": (None, "--sizes 0.5,0.5 --size_alpha 1", ["--size_alpha 1", "contradicts --sizes 0.5,0.5"]),
    "sizes of a rule that has its own": (None, "--partition lda --alpha 1 --size_alpha 1", ["--size_alpha 1", "iid"]),
    "a test set of nothing": (None, "--test_reduced 0.0001", ["--test_reduced 0.0001", "at least one"]),
    "more test images than there are": (None, "--test_reduced 400", ["--test_reduced 400", "360 test images"]),
    "a test image and a half": (None, "--test_reduced 1.5", ["--test_reduced 1.5", "a whole number"]),
    "clients and a rule": (silos, "--clients {tmp}/own --partition iid", ["--partition iid", "sets --partition silos"]),
    "clients and other data": (silos, "--clients {tmp}/own --dataset MNIST", ["--dataset MNIST", "contradicts --clients"]),
    "clients and a partition file": (
        silos,
        "--clients {tmp}/own --partition_file x.csv",
        ["--partition_file x.csv", "contradicts --clients", "allows no --partition_file"],
    ),
    "clients and a number of them that take part": (
        silos,
        "--clients {tmp}/own --num_select_clients 1",
        ["--num_select_clients 1", "with --clients; use --participation"],
    ),
    "convolutions on vectors": (silos, "--clients {tmp}/own --model CNN4", ["--model CNN4", "5 features", "MLP or"]),
    "vectors that are augmented": (silos, "--clients {tmp}/own --model MLP --augment flip", ["--augment flip", "vectors"]),
    "vectors that are resized": (silos, "--clients {tmp}/own --model MLP --image_size 9", ["--image_size 9", "5 features"]),
    "a label where there is no table": (silos, "--clients {tmp}/own --label y", ["--label y", "tables (.csv"]),
    "a label of a data set": (None, "--label y", ["--label y", "applies only with a table"]),
    "a label that is not there": (
        table,
        "--dataset {tmp}/t.csv --label z",
        ["no column z for --label", "the columns are a, b, y"],
    ),
    "text for a number": (table, "--dataset {tmp}/t.csv --label b", ["line 2", "the column y holds u", "finite numbers"]),
    "no such partition file": (
        None,
        "--partition_file {tmp}/none.npz",
        ["--partition_file", "none.npz", "split.npz of a run"],
    ),
    "a partition file that is none": (
        npz(),
        "--partition_file {tmp}/mine.npz",
        ["--partition_file", "mine.npz", "split.npz"],
    ),
    "a partition file of other data": (
        saved_split(lambda arrays: {**arrays, "data": np.array("0123456789abcdef")}),
        "--partition_file {tmp}/split.npz",
        ["--partition_file", "split.npz", "other data", "--dataset digits"],
    ),
    "a partition file of other clients": (
        saved_split(n_clients=3),
        "--partition_file {tmp}/split.npz",
        ["3 clients", "--n_clients 3"],
    ),
    "a partition file and a flag of a drawn split": (
        saved_split(),
        "--partition_file {tmp}/split.npz --alpha 0.5",
        ["--alpha 0.5", "applies only with"],
    ),
    "no such run to start from": (None, "--init_from {tmp}/none", ["--init_from", "/none", "folder of a finished run"]),
    "a folder that is no run": (None, "--init_from {tmp}", ["--init_from", "folder of a finished run"]),
    "a run that is not finished": (
        copied("fedavg", lambda run: (run / "done").unlink()),
        f"fedavg {RUN}",
        ["--init_from", "/run", "not finished"],
    ),
    "a run whose weights are broken": (
        copied("fedavg", lambda run: half(run / "weights.pt")),
        f"fedavg {RUN}",
        ["--init_from", "/run"],
    ),
    "a run of another architecture": (
        copied("fedavg"),
        "fedavg --n_clients 3 --model LeNet5 --init_from {tmp}/run",
        ["--init_from", "/run", "another architecture", "--model LeNet5"],
    ),
    "models of other clients": (
        copied("cfkd"),
        f"cfkd {RUN} --n_clients 2".replace("--n_clients 3 ", ""),
        ["3 clients", "--n_clients is 2"],
    ),
    "a model a client where one is needed": (
        copied("cfkd"),
        f"fedavg {RUN}",
        ["--init_from", "one model per client", "fedavg starts from a global model"],
    ),
}


@pytest.fixture(autouse=True)
def logging_as_before():
    """`run.main` sets logging up for a process of its own."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def download(self):
        raise URLError("no network")

    for source in ("MNIST", "FashionMNIST"):
        monkeypatch.setattr(getattr(datasets._torchvision(), source), "download", download)


@pytest.fixture
def line_for(tmp_path, capsys, monkeypatch):
    """A command line -> the one line it gets, after checking that there is no other and that nothing has happened."""

    def refuse(*_, **__):
        raise AssertionError("a wrong command was carried out")

    def check(words):
        monkeypatch.setattr(run, "launch", refuse)
        saves = tmp_path / "saves"
        words = [word.replace("{tmp}", str(tmp_path)) for word in words]
        if "--export_dir" not in words:
            words += ["--export_dir", str(saves)]
        before = sorted(tmp_path.rglob("*"))
        status = run.main(words)
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith("\n")
        assert len(err.splitlines()) == 1
        assert err.startswith("run.py: ")
        assert status == 2
        assert sorted(tmp_path.rglob("*")) == before
        return err

    (tmp_path / "file").write_text("in the way")
    return check


@pytest.mark.parametrize(("command", "words"), CASES, ids=[command[:60] for command, _ in CASES])
def test_a_mistake_is_one_line(command, words, line_for):
    line = line_for(command.split())
    for word in words:
        assert word in line


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_one_line(name, line_for, tmp_path):
    make, command, words = FILES[name]
    if make:
        make(tmp_path)
    line = line_for(command.split())
    for word in words:
        assert word in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_cuda_device_that_is_not_there_is_one_line(device, line_for):
    line = line_for(["--device", device])
    assert f"--device {device}" in line
    assert "must be cpu or auto" in line


NUMBERS = [
    (name, flag)
    for name in algorithms.ALGORITHMS
    for flag, declared in flags_of(algorithms.options_of(name)).items()
    if isinstance(declared["type"], Number) or isinstance(getattr(declared["type"], "of", None), Number)
    if name == "cfkd" or flag not in flags_of(algorithms.options_of("cfkd"))
]


@pytest.mark.parametrize(("name", "flag"), NUMBERS)
@pytest.mark.parametrize("text", ["nan", "NaN", "", "1e", "0x1", "None", "True"])
def test_no_number_may_be(text, name, flag, line_for):
    line = line_for([name, f"--{flag}", text])
    assert f"--{flag} {text}" in line
    assert "number" in line


@pytest.mark.parametrize(("name", "flag"), [pair for pair in NUMBERS if pair[1] not in ("alpha", "size_alpha")])
@pytest.mark.parametrize("text", ["inf", "1e999", "Infinity"])
def test_only_alpha_may_be_infinite(text, name, flag, line_for):
    line = line_for([name, f"--{flag}", text])
    assert f"--{flag} {text}" in line
    assert "number" in line


@pytest.mark.filterwarnings("always")  # a warning would be a second line
@pytest.mark.parametrize("model", ["ResNet9", "LeNet5_classic"])
def test_a_model_that_does_not_fit_the_images_is_one_line(model, line_for, tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.LOADERS, "digits", lambda data_dir: tiny_data(size=8))
    line = line_for(["--model", model, "--data_dir", str(tmp_path / "small")])
    for word in (f"--model {model}", "does not fit", "1 channels", "8x8 pixels"):
        assert word in line


class Normed(models.Net):
    """Normalises the features of a batch, which takes two examples."""

    def __init__(self, shape, n_classes):
        body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(math.prod(shape)))
        super().__init__(body, math.prod(shape), n_classes)


@pytest.mark.parametrize(
    ("command", "words"),
    [("--batch_size 1", "--batch_size is 1"), ("--n_clients 6", "client 0 has a single training example")],
)
def test_batch_norm_that_would_meet_one_example_is_one_line(command, words, line_for, tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "Normed", Normed)
    np.savez(tmp_path / "mine.npz", **arrays(x_train=np.zeros((6, 8, 8), np.uint8), y_train=np.arange(6) % 3))
    line = line_for(["fedavg", "--dataset", "{tmp}/mine.npz", "--model", "Normed", *command.split()])
    assert f"--model Normed: cannot train on a batch of one example, but {words}" in line


def test_an_unwritable_folder_is_found_out_before_the_data_are_read(line_for, monkeypatch):
    def fails(data_dir):
        raise AssertionError("data were read")

    monkeypatch.setitem(datasets.LOADERS, "digits", fails)
    assert "--export_dir" in line_for(["--export_dir", "{tmp}/file", "--data_dir", "{tmp}/unread"])


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files without a name are of Linux")
def test_that_a_folder_can_be_written_is_found_out_without_a_file_that_kill_could_leave(tmp_path, monkeypatch):
    created, opened = [], os.open
    monkeypatch.setattr(os, "mkdir", lambda path, *_: created.append(Path(path)))
    monkeypatch.setattr(os, "open", lambda path, *args: created.append(Path(path)) or opened(path, *args))
    experiment.prepare(algorithms.options_of("fedavg")(algorithm="fedavg"), Launch(export_dir=tmp_path / "saves"))
    monkeypatch.undo()
    assert tmp_path in created, "a file without a name is opened by its folder"
    assert not [path for path in created if tmp_path in path.parents]


@pytest.mark.parametrize(
    "words", [["run.py", "-h"], ["-m", "figures.table", "saves"], ["-m", "figures.status"], ["-m", "papers"]]
)
@pytest.mark.parametrize("left", [False, True], ids=["gone", "emptied"])
def test_code_that_was_removed_with_the_runs_is_a_line(words, left, tmp_path):
    kept = shutil.ignore_patterns("saves", ".git", ".venv*", "MNIST", "cifar*", "tests", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "house", ignore=kept)
    if left:
        (tmp_path / "house" / "saves").mkdir()
    done = subprocess.run([sys.executable, *words], cwd=tmp_path / "house", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "saves/ with code of Chorus is missing; restore it: git checkout saves\n"


@pytest.mark.parametrize("module", ["table", "report", "curves", "status", "diff"])
def test_a_folder_with_a_longer_name_than_any_is_not_there(module, capsys):
    command = importlib.import_module(f"figures.{module}")
    with pytest.raises(SystemExit) as end:
        command.main([300 * "a", 300 * "b"][: 2 if module == "diff" else 1])
    errors = capsys.readouterr().err
    assert end.value.code == 2
    assert "aaa" in errors.splitlines()[-1]
    assert "Errno" not in errors


@pytest.mark.parametrize("flag", ["--where", "--metric", "--output", "--target"])
def test_two_dashes_are_no_value_of_a_flag_of_a_table_or_a_picture(flag, capsys):
    command = importlib.import_module("figures.report")
    with pytest.raises(SystemExit) as end:
        command.main(["saves", f"{flag}=--"])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {flag}=--: -- is not a value\n")
