"""From a command line to runs: grids, defaults, who owns which flag, the help, and options as plain text."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields

import pytest
from conftest import ROOT, from_plain

import algorithms
import commandline
import options
import run as command
from commandline.page import page
from commandline.shorthand import MEANT, Shorthand
from data.datasets import LOADERS
from data.partition import PARTITIONS
from errors import UserError
from models import MODELS
from options import (
    Choice,
    CountOrNames,
    Launch,
    Matching,
    Number,
    Options,
    Requires,
    Several,
    flag,
    flags_of,
    nearest,
    plain,
)

CLASSES = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
DESCRIBED = {name: algorithms.describe(name) for name in CLASSES}


def parse(line, classes=CLASSES):
    return commandline.parse(line.split(), classes, {name: f"what {name} sends" for name in classes})


def runs_of(line, classes=CLASSES):
    return parse(line, classes)[0]


def run_of(line, classes=CLASSES):
    (run,) = runs_of(line, classes)
    return run


def refused(line, classes=CLASSES):
    with pytest.raises(UserError) as raised:
        parse(line, classes)
    return str(raised.value)


@dataclass(frozen=True)
class Left(options.Options):
    lr: float = 0.5
    mu: float = flag(0.25, Number(float, least=0), "weight of the left")
    both: int = flag(3, Number(int, least=1), "what both have")
    fast: bool = flag(False, None, "a switch of the left")
    depth: int = flag(1, Number(int, least=0), "how deep", Requires("--fast", lambda o: o.fast))


@dataclass(frozen=True)
class Right(options.Options):
    batch_size: int = 7
    nu: float = flag(0.75, Number(float, least=0), "weight of the right")
    both: int = flag(4, Number(int, least=1), "what both have")


TOYS = {"left": Left, "right": Right}


# --- algorithms --------------------------------------------------------------------------------------------------------


def test_no_algorithm_is_cfkd():
    for line in ("", "--seed 3"):
        run = run_of(line)
        assert run.algorithm == "cfkd"
        assert type(run) is CLASSES["cfkd"]


def test_algorithms_come_first_and_keep_their_order():
    assert [run.algorithm for run in runs_of("independent fd cfkd --seed 1")] == ["independent", "fd", "cfkd"]
    assert "put it before the flags" in refused("--seed 1 fd")


def test_a_value_may_have_an_algorithms_name():
    assert run_of("fedavg --init independent").init == "independent"
    assert [run.init for run in runs_of("fedavg --init shared independent")] == ["shared", "independent"]
    assert "put it before the flags" in refused("fedavg --init shared fd")


def test_each_run_has_the_class_of_its_algorithm():
    assert [type(run) for run in runs_of(" ".join(CLASSES))] == list(CLASSES.values())


def test_an_algorithm_named_twice_runs_once():
    assert [run.algorithm for run in runs_of("fd cfkd fd")] == ["fd", "cfkd"]


# --- grids -------------------------------------------------------------------------------------------------------------


def test_several_values_are_a_grid_in_the_order_of_the_command_line():
    runs = runs_of("cfkd fd --seed 2 0 --lr 0.1 0.2 0.3 --n_clients 4")
    results = [(run.algorithm, run.seed, run.lr) for run in runs]
    assert results == list(itertools.product(("cfkd", "fd"), (2, 0), (0.1, 0.2, 0.3)))
    assert {run.n_clients for run in runs} == {4}


def test_values_given_twice_run_once():
    assert [run.seed for run in runs_of("--seed 1 0 1 0")] == [1, 0]
    assert [run.lr for run in runs_of("--lr 0.1 1e-1 .10")] == [0.1]


def test_a_grid_over_a_flag_that_a_run_does_not_read_does_not_multiply_it():
    runs = runs_of("--partition iid dirichlet --alpha 0.1 1")
    assert [(run.partition, run.alpha) for run in runs] == [("iid", math.inf), ("dirichlet", 0.1), ("dirichlet", 1.0)]


def test_a_comma_keeps_values_together():
    assert run_of("--model LeNet5,ResNet9").model == ("LeNet5", "ResNet9")
    assert [run.model for run in runs_of("--model LeNet5 ResNet9")] == [("LeNet5",), ("ResNet9",)]
    assert [run.model for run in runs_of("--model LeNet5,MLP MLP")] == [("LeNet5", "MLP"), ("MLP",)]


def test_sizes_are_one_split_however_they_are_spelled():
    for line in ("--sizes 0.7,0.3", "--sizes 0.7 0.3"):
        assert run_of(line).sizes == (0.7, 0.3)
    assert [run.sizes for run in runs_of("--sizes 0.7,0.3 0.5,0.5")] == [(0.7, 0.3), (0.5, 0.5)]
    assert run_of("--n_clients 1 --sizes 0.5").sizes == (0.5,)


def test_sizes_may_add_up_to_one_in_floats():
    """0.2 + 0.4 + 0.3 + 0.1 is 1.0000000000000002 in floats, and ten times 0.1 is 0.9999999999999999."""
    assert run_of("--n_clients 4 --sizes 0.2,0.4,0.3,0.1").sizes == (0.2, 0.4, 0.3, 0.1)
    assert run_of("--n_clients 10 --sizes " + ",".join(["0.1"] * 10)).sizes == (0.1,) * 10


def test_every_run_of_a_grid_is_checked():
    assert "--n_clients 3" in refused("--n_clients 2 3 --sizes 0.5,0.5")


# --- defaults and owners -----------------------------------------------------------------------------------------------


def test_an_algorithm_named_alone_has_its_own_defaults():
    assert (run_of("left", TOYS).lr, run_of("right", TOYS).batch_size) == (0.5, 7)
    run = run_of("fedavg")
    assert (run.optimizer, run.lr, run.epoch_per_round, run.batch_size) == ("sgd", 0.05, 5, 10)  # McMahan et al. 2017
    assert parse("fedavg")[2] == []


def test_several_algorithms_have_the_shared_defaults_and_their_own_for_their_own_flags():
    left, right = runs_of("left right", TOYS)
    assert left.lr == right.lr == Options().lr
    assert left.batch_size == right.batch_size == Options().batch_size
    assert (left.mu, left.both, right.nu, right.both) == (0.25, 3, 0.75, 4)


def test_a_note_says_what_an_algorithm_alone_would_have_taken():
    _, _, (of_left, of_right) = parse("left right", TOYS)
    assert "left" in of_left
    assert "--lr 0.5" in of_left
    assert "right" in of_right
    assert "--batch_size 7" in of_right
    assert parse("left right --lr 0.1 --batch_size 5", TOYS)[2] == []  # nothing is left to a default
    assert len(parse("left right --lr 0.1", TOYS)[2]) == 1


def test_a_value_that_was_given_beats_every_default():
    assert run_of("left --lr 0.125", TOYS).lr == 0.125
    assert {run.lr for run in runs_of("left right --lr 0.125", TOYS)} == {0.125}


def test_a_flag_of_one_algorithm_applies_to_that_one_only():
    runs = runs_of("left right --mu 1 2", TOYS)
    assert [(run.algorithm, getattr(run, "mu", None)) for run in runs] == [("left", 1), ("left", 2), ("right", None)]


def test_a_flag_of_both_applies_to_both():
    assert [run.both for run in runs_of("left right --both 9", TOYS)] == [9, 9]


def test_a_flag_that_one_of_its_owners_does_not_read_is_left_at_that_ones_default():
    cfkd, fd = runs_of("cfkd fd --lambda_kd 3")
    assert cfkd.lambda_kd == 3
    assert fd.lambda_kd == CLASSES["fd"]().lambda_kd


def test_another_algorithms_flag_names_its_owner():
    line = refused("right --mu 1", TOYS)
    assert "--mu" in line
    assert "a flag of left" in line


def test_a_flag_that_nothing_reads_is_refused():
    assert refused("--alpha 0.5 --partition iid") == "--alpha 0.5: applies only with --partition dirichlet or lda"
    assert "applies only with --fast" in refused("left --depth 2", TOYS)
    assert run_of("left --depth 2 --fast", TOYS).depth == 2


def test_switches_take_no_value_and_are_off_by_default():
    assert (run_of("left", TOYS).fast, run_of("left --fast", TOYS).fast) == (False, True)
    assert parse("--force")[1] == Launch(force=True)
    assert parse("")[1] == Launch()
    refused("left --fast yes", TOYS)


def test_where_to_run_is_apart_from_what_to_run():
    (run,), launch, _ = parse("--export_dir out --data_dir in --json --quiet")
    assert run == run_of("")
    assert (str(launch.export_dir), str(launch.data_dir), launch.json, launch.quiet) == ("out", "in", True, True)
    assert "takes one value" in refused("--export_dir a b")


def test_flags_are_never_guessed_from_their_beginning():
    for line in ("--n_client 3", "--round 3", "left --dept 3 --fast"):
        assert line.split("--")[1].split()[0] in refused(line, TOYS if "left" in line else CLASSES)


def test_an_equals_sign_is_as_good_as_a_blank():
    assert run_of("--lr=0.125") == run_of("--lr 0.125")


# --- what a flag takes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("takes", "good", "bad"),
    [
        (Number(int, least=1), {"1": 1, "25": 25}, ["0", "-1", "1.0", "one", "", "nan", "inf"]),
        (Number(int, least=1, words=("auto",)), {"auto": "auto", "2": 2}, ["0", "automatic"]),
        (Number(float, above=0, most=1), {"1": 1.0, "1e-9": 1e-9}, ["0", "1.0001", "nan", "inf", "-inf", "x"]),
        (Number(float, least=0, below=1), {"0": 0.0, "0.5": 0.5}, ["1", "-0.1", "nan"]),
        (Number(float, above=0), {"1e38": 1e38}, ["inf", "1e999", "1e39", "-1", "nan"]),
        (Number(float, above=0, infinite=True), {"inf": math.inf, "1e15": 1e15}, ["-inf", "0", "nan"]),
        (Choice(("One", "two")), {"One": "One", "one": "One", "TWO": "two"}, ["three", "", "one,two", "a/b", "x.npz"]),
        (Choice(("one",), also={"uno": "one"}), {"uno": "one", "Uno": "one"}, ["un"]),
        (Choice(("one",), paths="a path"), {"one": "one", "a/one": "a/one", "x.npz": "x.npz"}, ["two"]),
        (Matching("cpu|cuda", "cpu or cuda"), {"cpu": "cpu"}, ["cpu ", "cuda1", "CPU"]),
        (Several(Number(int, least=0)), {"1,2": (1, 2), "3": (3,)}, ["1,", ",1", "1,-1", "1;2"]),
        (
            CountOrNames("clients"),
            {"0": 0, "3": 3, "0.25": 0.25, "a": ("a",), "a,b 2": ("a", "b 2")},
            ["-1", "1.5", "0.0", "1.2.3", "", "a,", "+-", "9" * 30],
        ),
        (Several(Choice(("a", "b"))), {"a,b,a": ("a", "b", "a")}, ["a,c", "a,,b", ""]),
    ],
    ids=str,
)
def test_what_is_allowed_is_read_and_all_else_is_not(takes, good, bad):
    for text, value in good.items():
        assert takes(text) == value
        assert type(takes(text)) is type(value)
    for text in bad:
        with pytest.raises(ValueError):  # noqa: B017, PT011
            takes(text)


@pytest.mark.parametrize(
    ("takes", "words"),
    [
        (Number(int, least=1), "a whole number at least 1"),
        (Number(float, above=0, most=1), "a number above 0 and at most 1"),
        (Number(float, least=0, below=1), "a number at least 0 and below 1"),
        (Number(float, above=0, infinite=True), "a number above 0 or inf"),
        (Number(int, least=1, words=("auto",)), "a whole number at least 1 or auto"),
        (Choice(("a", "b")), "one of a, b"),
        (Several(Choice(("a", "b"))), "one of a, b, or several joined by commas"),
    ],
)
def test_what_is_allowed_is_said_in_words(takes, words):
    assert str(takes) == words


def test_the_nearest_name_is_offered_only_where_one_is_near():
    assert nearest("lenet", ("ResNet9", "LeNet5")) == "; did you mean LeNet5?"
    assert nearest("mnist", ("digits", "MNIST")) == "; did you mean MNIST?"
    assert nearest("scaffold", ("cfkd", "fd", "fedavg", "fedbabu")) == "", "three letters of eight are not near"
    assert nearest("qqqq", ("ResNet9", "LeNet5")) == ""


# --- plain text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_options_survive_json(name):
    cls = CLASSES[name]
    sized = run_of(f"{name} --model MLP,MLP --n_clients 2 --partition dirichlet --alpha inf --sizes 0.6,0.4 --seed 7")
    for run in (cls(), sized, run_of(f"{name} --partition dirichlet --alpha inf --threads 2")):
        text = json.dumps(plain(run), allow_nan=False)
        again = from_plain(cls, json.loads(text))
        assert again == run
        assert [type(value) for value in vars(again).values()] == [type(value) for value in vars(run).values()]


def test_inf_and_tuples_are_plain_text():
    result = plain(Options(alpha=math.inf, sizes=(0.5, 0.5)))
    assert (result["alpha"], result["sizes"], result["model"]) == ("inf", [0.5, 0.5], ["LeNet5"])
    assert set(result) == {f.name for f in fields(Options)}
    assert next(iter(result)) == "algorithm", "what a reader of config.json looks for"
    assert from_plain(Options, result).alpha == math.inf


def test_no_value_of_a_flag_is_left_out_of_the_plain_text():
    """Two runs that differ in any flag differ in what they are named by."""
    outputs = [json.dumps(plain(run)) for run in runs_of("--seed 0 1 --lr 0.1 0.2 --n_clients 2 3 --model MLP LeNet5")]
    assert len(set(outputs)) == 16


# --- the help ----------------------------------------------------------------------------------------------------------


def helped(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        commandline.parse(line.split(), CLASSES, DESCRIBED)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def has_flag(text, name):
    return re.search(rf"^  --{name}\b", text, flags=re.MULTILINE) is not None


@pytest.mark.parametrize("name", CLASSES)
def test_every_flag_is_in_the_help_of_its_algorithm_with_its_text_and_default(name, capsys):
    shown = helped(f"{name} -h", capsys)
    text = re.sub(r"\s+", "", shown)  # the help is folded to the width of a screen
    for declared_in in (CLASSES[name], Launch):
        for one_flag, declared in flags_of(declared_in).items():
            assert has_flag(shown, one_flag)
            assert len(declared["help"]) > 10
            assert re.sub(r"\s+", "", declared["help"]) in text
            if declared["requires"]:
                assert re.sub(r"\s+", "", f"only {declared['requires'].words}") in text
            if one_flag in commandline.LISTED:
                assert f"--list{commandline.LISTED[one_flag]}" in text
            elif isinstance(declared["type"], Number | Choice | Several | Matching):
                assert re.sub(r"\s+", "", str(declared["type"])) in text
            if isinstance(declared["default"], int | float | str) and declared["type"] is not None:
                assert f"(default:{declared['default']})" in text


@pytest.mark.parametrize(
    ("kind", "table"),
    [("algorithms", CLASSES), ("datasets", LOADERS), ("models", MODELS), ("partitions", PARTITIONS)],
)
def test_a_list_has_every_name_with_a_line_each(kind, table, capsys):
    assert command.main(["--list", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(table)
    assert all(len(line.split()) > 2 and len(line) <= 100 for line in lines)


def test_the_first_page_of_the_help_fits_a_terminal():
    shown = page(algorithms.FAMILIES, {name: algorithms.describe(name) for name in CLASSES})
    assert max(map(len, shown.splitlines())) <= 100
    assert len(shown.splitlines()) <= 66


@pytest.mark.parametrize("name", CLASSES)
def test_the_help_of_an_algorithm_shows_no_other_algorithms_flags(name, capsys):
    shown = helped(f"{name} -h", capsys)
    own = set(flags_of(CLASSES[name]))
    others = {f for cls in CLASSES.values() for f in flags_of(cls)} - own
    assert not [f for f in others if has_flag(shown, f)]


def test_fedavgs_help_does_not_show_cfkds_flags(capsys):
    shown = helped("fedavg -h", capsys)
    assert "lambda" not in shown
    assert "n_avg" not in shown
    assert "(default: 0.05)" in shown  # its own default for a shared flag


def test_the_help_lists_every_algorithm_and_what_it_sends(capsys):
    text = re.sub(r"\s+", "", helped("-h", capsys))
    for name, described in DESCRIBED.items():
        assert re.sub(r"\s+", "", name + described.splitlines()[0].removesuffix(".")) in text


def test_the_help_without_an_algorithm_is_one_page_of_what_works(capsys):
    lines = helped("-h", capsys).splitlines()
    assert max(map(len, lines)) <= 100
    listed = [line for line in lines if line.split() and line.split()[0] in CLASSES]
    assert len(listed) == len(CLASSES), "a line an algorithm"
    assert len(lines) - len(listed) <= 33
    named = {name for line in lines for name in re.findall(r"--(\w+)", line)} - {"flag"}
    assert named <= {**flags_of(Launch), **flags_of(Shorthand), **flags_of(Options)}.keys()
    examples = [line.split()[2:] for line in lines if line.startswith("  python run.py")]
    assert len(examples) > 2
    for words in examples:
        assert commandline.parse(words, CLASSES, DESCRIBED)[0]


def test_the_help_of_an_algorithm_says_whose_it_is(capsys):
    message = " ".join(helped("fedbabu -h", capsys).split())
    assert "fedbabu: FedBABU: clients train and share the body" in message
    assert "S. Kim, S.-Y. Yun: FedBABU" in message
    assert "Differences" not in message


@pytest.mark.parametrize("line", ["--preset fl -h", "fedavg -h", "--lr 0.1 --preset fl -h"])
def test_the_help_of_what_names_an_algorithm_is_of_that(line, capsys):
    assert has_flag(helped(line, capsys), "keep_optimizer")


@pytest.mark.parametrize("cls", [Launch, *CLASSES.values()])
def test_every_field_but_the_algorithm_is_a_flag_with_a_help_text(cls):
    """A field without a flag is an option that nobody can set."""
    flags = flags_of(cls)
    assert [f.name for f in fields(cls) if f.name != "algorithm"] == list(flags)
    assert all(declared["help"] for declared in flags.values())


@pytest.mark.parametrize("name", CLASSES)
def test_every_default_is_a_value_that_the_flag_takes(name):
    for one_flag, declared in flags_of(CLASSES[name]).items():
        default, takes = declared["default"], declared["type"]
        if takes is None:
            assert default is False, one_flag
        elif default is not None:
            text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
            assert takes(text) == default, one_flag


@pytest.mark.parametrize("name", CLASSES)
def test_an_algorithm_does_not_declare_a_shared_flag_anew(name):
    """It may have another default, but not another meaning."""
    shared = flags_of(Options)
    for one_flag, declared in flags_of(CLASSES[name]).items():
        if one_flag in shared:
            assert declared["help"] == shared[one_flag]["help"]
            assert str(declared["type"]) == str(shared[one_flag]["type"]), "other words for the same values at most"


def test_a_flag_given_twice_is_refused_rather_than_half_heard():
    assert "--lr: is set twice" in refused("fedavg --lr 0.1 --lr 0.2")


def test_a_negative_number_in_any_spelling_is_a_value():
    for text in ("-1", "-0.5", "-1e-3", "-inf"):
        assert f"--lr {text}: must be" in refused(f"fedavg --lr {text}")


# --- how others say it -------------------------------------------------------------------------------------------------

SPELLED = [(name, other) for name, declared in flags_of(Options).items() for other in declared["aliases"]]
EXAMPLES = {
    **{"n_clients": "7", "rounds": "3", "epoch_per_round": "4", "batch_size": "11", "lr": "0.125", "weight_decay": "0.5"},
    **{"participation": "0.25", "partition": "shards", "alpha": "0.75", "seed": "5"},
    **{"new_clients": "2", "ft_epochs": "2"},
}


def test_the_word_seed_draws_a_split_with_each_seed_and_a_number_keeps_one():
    runs = runs_of("fedavg --seed 1 2 --split_seed seed")
    assert [(run.seed, run.split_seed) for run in runs] == [(1, 1), (2, 2)]
    runs = runs_of("fedavg --seed 1 2 --split_seed 3")
    assert [(run.seed, run.split_seed) for run in runs] == [(1, 3), (2, 3)]
    assert Options(seed=4, split_seed="seed") == Options(seed=4, split_seed=4), "a run has what it does"


def test_short_flags_of_pfllib_are_the_flags():
    short = "-data digits -m MLP -gr 3 -nc 7 -jr 0.25 -ls 4 -lbs 11 -lr 0.125 -did -1 --partition dir --alpha 0.5"
    short += " -nnc 2 -ften 3"
    own = "--dataset digits --model MLP --rounds 3 --n_clients 7 --participation 0.25 --epoch_per_round 4 --batch_size 11"
    own += " --new_clients 2 --ft_epochs 3"
    assert run_of(f"fedavg {short}") == run_of(f"fedavg {own} --lr 0.125 --device cpu --partition lda --alpha 0.5")


def test_short_flags_of_fl_bench_and_flags_with_hyphens_are_the_flags():
    assert run_of("fedavg -d MNIST -cn 7 -a 0.5") == run_of("fedavg --dataset MNIST --n_clients 7 --alpha 0.5")
    assert run_of("fedavg --n-clients=7 --local-epochs 4 --num-server-rounds 3") == run_of(
        "fedavg --n_clients 7 --epoch_per_round 4 --rounds 3"
    )
    assert run_of("fedavg --seed 1 --weight-decay 1e-3 --init-from=a-b") == run_of(
        "fedavg --seed 1 --weight_decay 1e-3 --init_from a-b"
    ), "values keep their hyphens"


def test_data_sets_have_other_names():
    assert run_of("fedavg --dataset Fashion-MNIST").dataset == run_of("fedavg --dataset fmnist").dataset == "FMNIST"


def test_the_versions_are_printed_with_or_without_a_method(capsys):
    for line in ("--version", "fedavg --version"):
        with pytest.raises(SystemExit) as exit:
            parse(line)
        assert exit.value.code == 0
        assert re.fullmatch(r"Chorus \S+, Python 3\.\d+\.\d+, torch \S+\n", capsys.readouterr().out)


@pytest.mark.parametrize(("name", "other"), SPELLED)
def test_another_name_of_a_flag_is_the_flag(name, other):
    also = " --partition lda" if name == "alpha" else ""
    assert run_of(f"fedavg --{other} {EXAMPLES[name]}{also}") == run_of(f"fedavg --{name} {EXAMPLES[name]}{also}")
    assert f"--{other}" in refused(f"fedavg --{other} {EXAMPLES[name]} --{name} {EXAMPLES[name]}{also}")


def test_names_that_are_asked_back_are_no_flags_and_the_flags_in_question_are():
    by_name = {name: words for words, names in MEANT.items() for name in names}
    assert len(by_name) == sum(map(len, MEANT.values()))
    known = set(flags_of(Options)) | set(flags_of(Launch)) | set(flags_of(Shorthand))
    assert not by_name.keys() & (known | {other for _, other in SPELLED})
    assert {flag for words in MEANT for flag in re.findall(r"--(\w+)", words)} <= known
    for name, words in by_name.items():
        assert refused(f"fedavg --{name} 3").endswith(f"; did you mean {words}?")


@pytest.mark.parametrize("name", CLASSES)
def test_an_algorithm_is_known_in_any_case_with_or_without_hyphens(name):
    for text in (name.upper(), name.title(), name.replace("_", "-"), f"{name[:3]}-{name[3:]}"):
        assert {run.algorithm for run in runs_of(f"{text} --seed 0 1")} == {name}


def test_what_alpha_is_may_be_said_anywhere(tmp_path):
    assert run_of("fedavg --partition lda --alpha inf").alpha == math.inf
    assert run_of("fedavg --partition iid").partition == "iid"
    saved = tmp_path / "config.json"
    for alpha in (0.5, math.inf):
        saved.write_text(json.dumps(plain(run_of(f"fedavg --alpha {alpha}"))))
        assert run_of(f"--config_file {saved} --partition lda") == run_of(f"fedavg --partition lda --alpha {alpha}")

    @dataclass(frozen=True)
    class Skewed(Options):
        alpha: float = 0.25

    assert run_of("skewed --partition lda", {**CLASSES, "skewed": Skewed}).alpha == 0.25
    assert "--alpha" in refused("skewed fedavg --partition lda", {**CLASSES, "skewed": Skewed})


@pytest.mark.parametrize("partition", ["lda", "dirichlet", "iid"])
def test_the_command_of_a_run_says_alpha_where_it_must(partition):
    run = CLASSES["dpsgd"](algorithm="dpsgd", partition=partition)
    assert runs_of(commandline.command_of(run).removeprefix("python run.py ")) == [run]


def test_a_mistake_under_another_name_is_told_under_that_name():
    assert "--num_users two: must be a whole number at least 1" in refused("--num_users two")
    assert "--partition_method heter: must be one of" in refused("--partition_method heter")


def test_names_are_read_in_any_case_and_other_systems_words_too():
    assert run_of("--dataset mnist --model mlp --optimizer SGD").dataset == "MNIST"
    assert run_of("--dataset mnist --model mlp --optimizer SGD").optimizer == "sgd"
    assert run_of("--model resnet9").model == ("ResNet9",)
    assert run_of("--partition_method homo").partition == "iid"
    assert run_of("--partition_method hetero --partition_alpha 0.5") == run_of("--partition lda --alpha 0.5")


def test_a_number_of_selected_clients_is_a_fraction():
    run = run_of("fedavg --num_clients 8 --num_select_clients 4")
    assert run == run_of("fedavg --n_clients 8 --participation 0.5")
    assert run_of("fedavg --n_clients 7 --num_select_clients 3").participation == 3 / 7
    assert [r.participation for r in runs_of("fedavg --n_clients 8 --num_select_clients 2 8")] == [0.25, 1.0]
    assert "at most --n_clients 8" in refused("fedavg --n_clients 8 --num_select_clients 9")
    assert "several --n_clients; use --participation" in refused("fedavg --n_clients 8 9 --num_select_clients 4")
    assert "--frac" in refused("fedavg --n_clients 8 --num_select_clients 4 --frac 0.5")
    # the two clients that the shared defaults have
    assert run_of("fedavg --num_select_clients 1").participation == 0.5


def test_a_gpu_number_is_a_device_and_the_cpu_where_there_is_none(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    runs, _, notes = parse("fedavg --gpu 0")
    assert runs[0].device == "cpu"
    assert notes == ["--gpu 0 is --device cpu here, because no CUDA device is available"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert run_of("fedavg --gpu 1").device == "cuda:1"
    assert run_of("fedavg --gpu -1").device == "cpu"


def test_iid_is_a_partition():
    assert run_of("fedavg --iid").partition == "iid"
    assert "--iid" in refused("fedavg --iid --partition lda")
    assert parse("fedavg --iid")[2] == ["--iid is --partition iid here"]


def test_the_command_of_another_system_as_typed():
    line = "--dataset MNIST --model CNN_scratch {} --batch_size 100 {} 5e-5 --optimizer adam"
    theirs = "--n_clients 8 --num_select_clients 4 --global_epoch 5 --local_epoch 5"
    ours = "--n_clients 8 --participation 0.5 --rounds 5 --epoch_per_round 5"
    assert run_of(f"fedavg {line.format(theirs, '--init_lr')}") == run_of(f"fedavg {line.format(ours, '--lr')}")


def test_every_other_name_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parse("fedavg -h")
    out = " ".join(capsys.readouterr().out.split())
    assert all(f"--{other}" in out for _, other in SPELLED)


# --- presets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "suggestion"),
    [
        ("fl", "fedavg --optimizer adam --lr 1e-3 --batch_size 32 --epoch_per_round 1 --keep_optimizer"),
        ("fd", "fd --fd_variant mse_logits"),
        ("il", "independent"),
        ("cl", "centralized"),
    ],
)
def test_a_preset_is_an_algorithm_with_its_flags(preset, suggestion):
    assert run_of(f"--preset {preset} --n_clients 3 --seed 4") == run_of(f"{suggestion} --n_clients 3 --seed 4")


def test_a_flag_beside_a_preset_has_the_last_word():
    assert run_of("--preset fl --lr 0.5").lr == 0.5
    assert [run.lr for run in runs_of("--preset fl --lr 0.5 0.25")] == [0.5, 0.25]
    # what only Adam reads would be an error beside another optimizer, if it had been typed
    assert run_of("--preset fl --optimizer sgd --momentum 0.5").optimizer == "sgd"


def test_a_preset_stands_alone():
    assert "sets the algorithm, but cfkd is named" in refused("cfkd --preset fl")
    assert "must be one of fl, fd, il, cl" in refused("--preset xx")
    for line in ("--preset fl fd", "--preset fl --preset fd", "--preset fl --config_file x"):
        assert "allows no second preset or configuration file; remove the others" in refused(line)
    assert "the value is missing" in refused("--preset")


# --- saved configurations ----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    def write(held):
        path = tmp_path / "config.json"
        path.write_text(held if isinstance(held, str) else json.dumps(held))
        return path

    return write


@pytest.mark.parametrize(
    "line",
    [
        "cfkd",
        "fedavg --partition lda --alpha 0.5 --n_clients 3 --optimizer sgd --momentum 0.9 --keep_optimizer",
        "fd --model LeNet5,MLP --sizes 0.25,0.75 --validation 0.125 --track_history 0 --threads 2",
        "independent --partition shards --shard_per_user 3 --n_clients 9 --augment flip",
        "fedavg --as_published --device cpu --reduced 0.5 --reduced_draw random --split_seed 12345678901234",
    ],
)
def test_a_saved_configuration_is_the_very_same_run(line, saved):
    run = run_of(line)
    for held in ({"options": plain(run), "source": "abc"}, plain(run)):
        path = saved(held)
        again = run_of(f"--config_file {path}")
        assert again == run
        assert type(again) is type(run)
        assert run_of(f"{run.algorithm} --config_file {path}") == run  # the algorithm may be named


def test_a_saved_run_that_is_older_than_a_flag_is_the_very_same_run(saved):
    """The default may be another value than the one that says what was done before the flag was there."""
    held = plain(CLASSES["feddf"](algorithm="feddf", distill_steps=0, public_share=0.2))
    older = {name: value for name, value in held.items() if name not in ("distill_steps", "compress")}
    assert run_of(f"--config_file {saved(older)}").distill_steps == 0
    assert run_of(f"--config_file {saved({'algorithm': 'feddf', 'public_share': 0.2})}").distill_steps == 1000


def test_a_flag_beside_a_saved_configuration_has_the_last_word(saved):
    path = saved(plain(run_of("fedavg --partition lda --alpha 0.5 --rounds 3")))
    assert [(run.seed, run.alpha) for run in runs_of(f"--config_file {path} --seed 1 2")] == [(1, 0.5), (2, 0.5)]
    assert run_of(f"--config_file {path} --partition iid") == run_of("fedavg --partition iid --rounds 3")
    assert "--alpha 0.1: applies only with" in refused(f"--config_file {path} --partition iid --alpha 0.1")


def test_a_number_of_selected_clients_is_a_fraction_of_those_of_the_file(saved):
    path = saved(plain(run_of("fedavg --n_clients 20")))
    assert run_of(f"--config_file {path} --num_select_clients 5").participation == 0.25
    assert run_of(f"--config_file {path} --num_select_clients 5 --n_clients 10").participation == 0.5


def test_a_file_of_flags_need_not_name_an_algorithm(saved):
    path = saved({"n_clients": 5, "alpha": 0.5, "sizes": None, "seed": 3})
    assert run_of(f"--config_file {path}") == run_of("cfkd --n_clients 5 --alpha 0.5 --seed 3")
    runs = runs_of(f"fd independent --config_file {path}")
    assert runs == runs_of("fd independent --n_clients 5 --alpha 0.5 --seed 3")


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ({"n_clientss": 3}, "--n_clientss: not a flag of these methods; did you mean --n_clients?"),
        ({"foo": False}, "--foo: not a flag of these methods"),
        ({"algorithm": "fedavg", "lambda_kd": 1}, "--lambda_kd: not a flag of these methods; it is a flag of"),
        ({"algorithm": "fedsgd"}, "algorithm fedsgd: must be one of fedavg"),
        ({"algorithm": 3}, "algorithm 3: must be one of fedavg"),
        ({"rounds": "many"}, "--rounds many: must be a whole number at least 1"),
        ({"rounds": False}, "--rounds False: must be a whole number"),
        ({"rounds": {"a": 1}}, "--rounds"),
        ({"algorithm": "fedavg", "keep_optimizer": "yes"}, "yes"),
        ({"config_file": "other.json"}, "contains --config_file"),
        ({"model": "-h"}, "--model -h: must be one of LeNet5"),
        ("[1, 2]", "contains no flags"),
        ("{", "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        (b"\xff\xfe".decode("latin1"), "cannot be read as JSON"),
    ],
    ids=str,
)
def test_a_file_that_is_no_configuration_is_one_line(held, words, saved):
    path = saved(held)
    line = refused(f"--config_file {path}")
    assert line.startswith(f"--config_file {path}: ")
    assert words in line
    assert "\n" not in line


def test_a_configuration_of_another_algorithm_than_the_one_named(saved):
    path = saved(plain(run_of("fedavg")))
    for named in ("cfkd", "fedavg cfkd"):
        assert f"is for fedavg, but {named} is named" in refused(f"{named} --config_file {path}")


# --- a shell that asks -------------------------------------------------------------------------------------------------


def test_a_shell_is_told_algorithms_flags_and_names(tmp_path):
    """argcomplete's protocol: the line in the environment, the answers on descriptor 8, one a line."""

    def request(line):
        environment = {
            **{"_ARGCOMPLETE": "2", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_SUPPRESS_SPACE": "1"},
            **{"COMP_TYPE": "9", "COMP_LINE": line, "COMP_POINT": str(len(line))},
        }
        command = f"'{sys.executable}' run.py 8> '{tmp_path}/answers'"
        subprocess.run(["sh", "-c", command], cwd=ROOT, env={**os.environ, **environment}, check=True, capture_output=True)
        return (tmp_path / "answers").read_text().split("\n")

    assert request("python run.py fedav") == ["fedavg"]
    assert request("python run.py cfkd --lambda") == ["--lambda_kd", "--lambda_disc"]
    assert request("python run.py cfkd --model LeN") == ["LeNet5", "LeNet5_classic"]
