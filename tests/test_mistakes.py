"""Every mistake in a command gives exit status 2 and one line that says what was wrong and what is allowed, and no more."""

import logging
from urllib.error import URLError

import pytest
import torch
from conftest import tiny_data

import algorithms
import run
from data import datasets
from options import Number, flags_of

HUGE = 10**24  # more than 64 bits hold

# (command line, words that its one line must contain); {tmp} is a folder with a file called `file` in it
CASES = [
    # names
    ("cfdk", ["algorithm cfdk", "one of cfkd, fd, fedavg", "did you mean cfkd?"]),
    ("fedavg indpendent", ["algorithm indpendent", "did you mean independent?"]),
    ("fedavg qqq", ["algorithm qqq", "one of cfkd, fd, fedavg"]),
    ("--dataset MNITS", ["--dataset MNITS", "one of digits, MNIST, FMNIST", "did you mean MNIST?"]),
    ("--dataset mnist", ["--dataset mnist", "did you mean MNIST?"]),
    ("--model LeNet", ["--model LeNet", "one of LeNet5, LeNet5_classic, ResNet9", "did you mean LeNet5?"]),
    ("--model LeNet5,RestNet9", ["--model LeNet5,RestNet9", "several joined by commas", "did you mean ResNet9?"]),
    ("--partition dirichelt", ["--partition dirichelt", "one of dirichlet, lda, iid", "did you mean dirichlet?"]),
    ("--optimizer adamw", ["--optimizer adamw", "one of adam, sgd", "did you mean adam?"]),
    ("--reduced 0.5 --reduced_draw frist", ["--reduced_draw frist", "one of first, random", "did you mean first?"]),
    ("fd --fd_variant logits", ["--fd_variant logits", "one of leave_one_out, mse_logits"]),
    ("--device tpu", ["--device tpu", "auto, cpu, cuda or cuda:N"]),
    ("--device cuda:x", ["--device cuda:x", "auto, cpu, cuda or cuda:N"]),
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
    ("--n_clients 1 --model LeNet5,ResNet9", ["--model LeNet5,ResNet9", "more architectures than --n_clients 1"]),
    ("fd --fd_variant leave_one_out --as_published", ["--fd_variant leave_one_out", "contradicts --as_published"]),
    ("fedavg --as_published --select per_round", ["--select per_round", "contradicts --as_published", "--select fixed"]),
    ("--data_dir data fedavg", ["--data_dir fedavg", "algorithms first", "python run.py fedavg --data_dir data"]),
    ("fedavg --force=yes", ["--force=yes", "takes no value"]),
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
    ("--n_clients 361", ["--n_clients 361", "360 test images of digits", "at most 360"]),
    ("--n_clients 2 361", ["--n_clients 361", "at most 360"]),  # a grid is refused as a whole
    ("--n_clients 1438", ["--n_clients 1438", "1437 training images of digits", "at most 1437"]),
    ("--n_clients 20 --reduced 0.01", ["--n_clients 20", "--reduced 0.01", "at most 14"]),
    ("--sizes 0.6,0.6", ["--sizes 0.6,0.6", "add up to at most 1, got 1.2"]),
    ("--sizes 0.5 0.3 0.2", ["--sizes 0.5,0.3,0.2", "one size for each of --n_clients 2, got 3"]),
    ("--n_clients 3 --sizes 0.5,0.5", ["--sizes 0.5,0.5", "one size for each of --n_clients 3, got 2"]),
    ("--sizes 0.5,0", ["--sizes 0.5,0", "above 0 and at most 1"]),
    ("--sizes 0.5,0.001", ["--sizes 0.5,0.001", "360 test images", "at least 0.0028"]),
    ("--n_clients 1 --reduced 0.001 --validation 0.5", ["--validation 0.5", "client 0", "single training image"]),
    # flags given in vain
    ("--alpha 0.5 --partition iid", ["--alpha 0.5", "read only with --partition dirichlet or lda"]),
    ("--sizes 0.5,0.5 --partition lda", ["--sizes 0.5,0.5", "read only with --partition dirichlet or iid"]),
    ("--momentum 0.9 --optimizer adam", ["--momentum 0.9", "read only with --optimizer sgd"]),
    ("--feature_dim 50 --model MLP", ["--feature_dim 50", "read only with --model LeNet5 or ResNet9"]),
    ("--reduced_draw random", ["--reduced_draw random", "read only with --reduced below 1"]),
    ("fd --fd_gamma 2 --fd_variant mse_logits", ["--fd_gamma 2", "read only with --fd_variant leave_one_out"]),
    ("fd --lambda_kd 10", ["--lambda_kd 10", "read only with --fd_variant mse_logits"]),
    # flags that are not there
    ("--n_client 3", ["--n_client", "did you mean --n_clients?"]),
    ("--n_client=3", ["--n_client", "did you mean --n_clients?"]),
    ("--qqq 3", ["--qqq"]),
    ("-x 3", ["-x", "belongs to no flag"]),
    ("fedavg --lambda_disc 1", ["--lambda_disc", "a flag of cfkd"]),
    ("fedavg independent --lambda_kd 1", ["--lambda_kd", "a flag of cfkd, fd"]),
    ("independent --as_published", ["--as_published", "a flag of cfkd, fd, fedavg"]),
    # values that are not there, or are too many
    ("--lr --seed 1", ["--lr", "a value is missing"]),
    ("--seed", ["--seed", "a value is missing"]),
    ("--force yes", ["yes", "belongs to no flag"]),
    ("--data_dir a b", ["--data_dir", "takes one value, got 2"]),
    ("--quiet fedavg", ["fedavg", "algorithms come first"]),
    ("--dataset digits fedavg", ["--dataset fedavg", "python run.py fedavg --dataset"]),
    ("cfkd --seed 0 fedavg", ["--seed fedavg", "name the algorithms first"]),
    # models that do not go together, or not with the algorithm
    ("fedavg --model LeNet5,ResNet9", ["--model LeNet5,ResNet9", "fedavg", "one architecture for all clients"]),
    ("centralized --model LeNet5,MLP", ["--model LeNet5,MLP", "centralized", "one architecture for all clients"]),
    ("cfkd --model LeNet5,MLP", ["--model LeNet5,MLP", "of one dimension", "LeNet5 100, MLP 200"]),
    # files and machines
    ("--export_dir {tmp}/file", ["--export_dir", "/file", "cannot be written", "must be a folder"]),
    ("--export_dir {tmp}/file/below", ["--export_dir", "/file/below", "must be a folder"]),
    ("--export_dir {tmp}/" + 300 * "a", ["--export_dir", 300 * "a"]),
    (
        "--dataset MNIST --data_dir {tmp}/none",
        ["--dataset MNIST", "/none/MNIST/raw", "train-images-idx3-ubyte", "--data_dir"],
    ),
    ("--dataset FMNIST --data_dir {tmp}/file", ["--dataset FMNIST", "/file/FashionMNIST/raw", "--data_dir"]),
]


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


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_cuda_device_that_is_not_there_is_one_line(device, line_for):
    line = line_for(["--device", device])
    assert f"--device {device}" in line
    assert "--device cpu or auto" in line


NUMBERS = [
    (name, flag)
    for name in algorithms.ALGORITHMS
    for flag, declared in flags_of(algorithms.options_of(name)).items()
    if isinstance(declared["takes"], Number) or isinstance(getattr(declared["takes"], "of", None), Number)
    if name == "cfkd" or flag not in flags_of(algorithms.options_of("cfkd"))
]


@pytest.mark.parametrize(("name", "flag"), NUMBERS)
@pytest.mark.parametrize("text", ["nan", "NaN", "", "1e", "0x1", "None", "True"])
def test_no_number_may_be(text, name, flag, line_for):
    line = line_for([name, f"--{flag}", text])
    assert f"--{flag} {text}" in line
    assert "number" in line


@pytest.mark.parametrize(("name", "flag"), [pair for pair in NUMBERS if pair[1] != "alpha"])
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


def test_an_unwritable_folder_is_found_out_before_the_data_are_read(line_for, monkeypatch):
    def fails(data_dir):
        raise AssertionError("data were read")

    monkeypatch.setitem(datasets.LOADERS, "digits", fails)
    assert "--export_dir" in line_for(["--export_dir", "{tmp}/file", "--data_dir", "{tmp}/unread"])
