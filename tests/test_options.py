"""From a command line to runs: grids, defaults, who owns which flag, the help, and options as plain text."""

import itertools
import json
import math
import re
from dataclasses import dataclass, fields

import pytest

import algorithms
import options
from errors import UserError
from options import Choice, Launch, Matching, Needs, Number, Options, Several, flag, flags_of, from_plain, nearest, plain

CLASSES = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
DESCRIBED = {name: algorithms.describe(name) for name in CLASSES}


def parse(line, classes=CLASSES):
    return options.parse(line.split(), classes, {name: f"what {name} sends" for name in classes})


def runs_of(line, classes=CLASSES):
    return parse(line, classes)[0]


def one(line, classes=CLASSES):
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
    depth: int = flag(1, Number(int, least=0), "how deep", Needs("--fast", lambda o: o.fast))


@dataclass(frozen=True)
class Right(options.Options):
    batch_size: int = 7
    nu: float = flag(0.75, Number(float, least=0), "weight of the right")
    both: int = flag(4, Number(int, least=1), "what both have")


TOYS = {"left": Left, "right": Right}


# --- algorithms --------------------------------------------------------------------------------------------------------


def test_no_algorithm_is_cfkd():
    for line in ("", "--seed 3"):
        run = one(line)
        assert run.algorithm == "cfkd"
        assert type(run) is CLASSES["cfkd"]


def test_algorithms_come_first_and_keep_their_order():
    assert [run.algorithm for run in runs_of("independent fd cfkd --seed 1")] == ["independent", "fd", "cfkd"]
    assert "name the algorithms first" in refused("--seed 1 fd")


def test_each_run_has_the_class_of_its_algorithm():
    assert [type(run) for run in runs_of(" ".join(CLASSES))] == list(CLASSES.values())


def test_an_algorithm_named_twice_runs_once():
    assert [run.algorithm for run in runs_of("fd cfkd fd")] == ["fd", "cfkd"]


# --- grids -------------------------------------------------------------------------------------------------------------


def test_several_values_are_a_grid_in_the_order_of_the_command_line():
    runs = runs_of("cfkd fd --seed 2 0 --lr 0.1 0.2 0.3 --n_clients 4")
    found = [(run.algorithm, run.seed, run.lr) for run in runs]
    assert found == list(itertools.product(("cfkd", "fd"), (2, 0), (0.1, 0.2, 0.3)))
    assert {run.n_clients for run in runs} == {4}


def test_values_given_twice_run_once():
    assert [run.seed for run in runs_of("--seed 1 0 1 0")] == [1, 0]
    assert [run.lr for run in runs_of("--lr 0.1 1e-1 .10")] == [0.1]


def test_a_grid_over_a_flag_that_a_run_does_not_read_does_not_multiply_it():
    runs = runs_of("--partition iid dirichlet --alpha 0.1 1")
    assert [(run.partition, run.alpha) for run in runs] == [("iid", math.inf), ("dirichlet", 0.1), ("dirichlet", 1.0)]


def test_a_comma_keeps_values_together():
    assert one("--model LeNet5,ResNet9").model == ("LeNet5", "ResNet9")
    assert [run.model for run in runs_of("--model LeNet5 ResNet9")] == [("LeNet5",), ("ResNet9",)]
    assert [run.model for run in runs_of("--model LeNet5,MLP MLP")] == [("LeNet5", "MLP"), ("MLP",)]


def test_sizes_are_one_split_however_they_are_spelled():
    for line in ("--sizes 0.7,0.3", "--sizes 0.7 0.3"):
        assert one(line).sizes == (0.7, 0.3)
    assert [run.sizes for run in runs_of("--sizes 0.7,0.3 0.5,0.5")] == [(0.7, 0.3), (0.5, 0.5)]
    assert one("--n_clients 1 --sizes 0.5").sizes == (0.5,)


def test_sizes_may_add_up_to_one_in_floats():
    """0.2 + 0.4 + 0.3 + 0.1 is 1.0000000000000002 in floats, and ten times 0.1 is 0.9999999999999999."""
    assert one("--n_clients 4 --sizes 0.2,0.4,0.3,0.1").sizes == (0.2, 0.4, 0.3, 0.1)
    assert one("--n_clients 10 --sizes " + ",".join(["0.1"] * 10)).sizes == (0.1,) * 10


def test_every_run_of_a_grid_is_checked():
    assert "--n_clients 3" in refused("--n_clients 2 3 --sizes 0.5,0.5")


# --- defaults and owners -----------------------------------------------------------------------------------------------


def test_an_algorithm_named_alone_has_its_own_defaults():
    assert (one("left", TOYS).lr, one("right", TOYS).batch_size) == (0.5, 7)
    run = one("fedavg")
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
    assert one("left --lr 0.125", TOYS).lr == 0.125
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
    assert refused("--alpha 0.5 --partition iid") == "--alpha 0.5: read only with --partition dirichlet or lda"
    assert "read only with --fast" in refused("left --depth 2", TOYS)
    assert one("left --depth 2 --fast", TOYS).depth == 2


def test_switches_take_no_value_and_are_off_by_default():
    assert (one("left", TOYS).fast, one("left --fast", TOYS).fast) == (False, True)
    assert parse("--force")[1] == Launch(force=True)
    assert parse("")[1] == Launch()
    refused("left --fast yes", TOYS)


def test_where_to_run_is_apart_from_what_to_run():
    (run,), launch, _ = parse("--export_dir out --data_dir in --json --quiet")
    assert run == one("")
    assert (str(launch.export_dir), str(launch.data_dir), launch.json, launch.quiet) == ("out", "in", True, True)
    assert "takes one value" in refused("--export_dir a b")


def test_flags_are_never_guessed_from_their_beginning():
    for line in ("--n_client 3", "--round 3", "left --dept 3 --fast"):
        assert line.split("--")[1].split()[0] in refused(line, TOYS if "left" in line else CLASSES)


def test_an_equals_sign_is_as_good_as_a_blank():
    assert one("--lr=0.125") == one("--lr 0.125")


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
        (Choice(("one", "two")), {"one": "one"}, ["One", "three", "", "one,two"]),
        (Matching("cpu|cuda", "cpu or cuda"), {"cpu": "cpu"}, ["cpu ", "cuda1", "CPU"]),
        (Several(Number(int, least=0)), {"1,2": (1, 2), "3": (3,)}, ["1,", ",1", "1,-1", "1;2"]),
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
    assert nearest("qqqq", ("ResNet9", "LeNet5")) == ""


# --- plain text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_options_survive_json(name):
    cls = CLASSES[name]
    for run in (cls(), one(f"{name} --model MLP,MLP --sizes 0.6,0.4 --seed 7"), one(f"{name} --alpha inf --threads 2")):
        text = json.dumps(plain(run), allow_nan=False)
        again = from_plain(cls, json.loads(text))
        assert again == run
        assert [type(value) for value in vars(again).values()] == [type(value) for value in vars(run).values()]


def test_inf_and_tuples_are_plain_text():
    said = plain(Options(alpha=math.inf, sizes=(0.5, 0.5)))
    assert (said["alpha"], said["sizes"], said["model"]) == ("inf", [0.5, 0.5], ["LeNet5"])
    assert list(said) == [f.name for f in fields(Options)]
    assert from_plain(Options, said).alpha == math.inf


def test_no_value_of_a_flag_is_left_out_of_the_plain_text():
    """Two runs that differ in any flag differ in what they are named by."""
    said = [json.dumps(plain(run)) for run in runs_of("--seed 0 1 --lr 0.1 0.2 --n_clients 2 3 --model MLP LeNet5")]
    assert len(set(said)) == 16


# --- the help ----------------------------------------------------------------------------------------------------------


def helped(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        options.parse(line.split(), CLASSES, DESCRIBED)
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
            if declared["needs"]:
                assert re.sub(r"\s+", "", f"only with {declared['needs'].words}") in text
            if isinstance(declared["takes"], Number | Choice | Several | Matching):
                assert re.sub(r"\s+", "", str(declared["takes"])) in text
            if isinstance(declared["default"], int | float | str) and declared["takes"] is not None:
                assert f"(default:{declared['default']})" in text


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
        assert re.sub(r"\s+", "", name + described) in text


@pytest.mark.parametrize("cls", [Launch, *CLASSES.values()])
def test_every_field_but_the_algorithm_is_a_flag_with_a_help_text(cls):
    """A field without a flag is an option that nobody can set."""
    found = flags_of(cls)
    assert [f.name for f in fields(cls) if f.name != "algorithm"] == list(found)
    assert all(declared["help"] for declared in found.values())


@pytest.mark.parametrize("name", CLASSES)
def test_every_default_is_a_value_that_the_flag_takes(name):
    for one_flag, declared in flags_of(CLASSES[name]).items():
        default, takes = declared["default"], declared["takes"]
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
            assert declared["takes"] == shared[one_flag]["takes"]


def test_a_flag_given_twice_is_refused_rather_than_half_heard():
    assert "--lr: given twice" in refused("fedavg --lr 0.1 --lr 0.2")


def test_a_negative_number_in_any_spelling_is_a_value():
    for text in ("-1", "-0.5", "-1e-3", "-inf"):
        assert f"--lr {text}: must be" in refused(f"fedavg --lr {text}")
