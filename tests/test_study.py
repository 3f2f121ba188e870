"""Studies in files: what they ask for, what is refused, how settings are chosen, and a whole one from one command."""

import csv
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT, line_of

import algorithms
import commandline
import run as command
import saves
from commandline import study, tuning
from launch import Failed
from options import Launch, Problem

CLASSES = {name: algorithms.options_of(name) for name in algorithms.ALGORITHMS}
TEXT = """
[problem]
dataset = "digits"
partition = "lda"
alpha = [0.1, 1.0]
n_clients = 3
reduced = 0.1
model = "MLP"

[settings]
rounds = 2

[fedavg]
lr = [0.001, 0.02]

[light]
algorithm = "fedprox"
mu = 0.01
lr = [0.001, 0.02]

[independent]

[tuning]
validation = 0.3
seed = [50, 51]

[seeds]
seed = [0, 1]
split_seed = "seed"
"""


def read(tmp_path, text=TEXT):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return study.read(path, CLASSES)


def test_methods_are_run_on_every_problem_with_every_seed_in_the_shared_defaults(tmp_path):
    runs = read(tmp_path).runs(CLASSES)
    assert {method: len(of_it) for method, of_it in runs.items()} == {"fedavg": 8, "light": 8, "independent": 4}
    (first, *_) = runs["fedavg"]
    assert (first.optimizer, first.batch_size, first.rounds) == ("adam", 32, 2), "as named beside others"
    assert {(options.seed, options.split_seed) for options in runs["light"]} == {(0, 0), (1, 1)}
    assert {run.mu for run in runs["light"]} == {0.01}
    assert {item.validation for of_it in runs.values() for item in of_it} == {0.0}, "all training data"


def test_settings_are_tried_on_held_out_data_with_seeds_of_their_own_by_those_who_have_several(tmp_path):
    tried = read(tmp_path).tried(CLASSES)
    assert {method: len(of_it) for method, of_it in tried.items()} == {"fedavg": 8, "light": 8}
    assert {item.validation for of_it in tried.values() for item in of_it} == {0.3}
    assert {options.seed for of_it in tried.values() for options in of_it} == {50, 51}
    without = read(tmp_path, TEXT.replace("seed = [50, 51]\n", ""))
    assert {options.seed for of_it in without.tried(CLASSES).values() for options in of_it} == {2}, (
        "the next that is no result's"
    )


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("[fedavg]", "[fedagv]", "[fedagv]: must be an algorithm or one of problem, settings, execution, seeds, tuning"),
        ("rounds = 2", "round = 2", "[settings] round: not a flag that all methods have; did you mean rounds?"),
        ("rounds = 2", "alpha = 2", "[settings] alpha: must be in [problem]"),
        ("n_clients = 3", "lr = 3", "[problem] lr: must be in [settings]"),
        (
            "rounds = 2",
            "rounds = [2, 3]",
            "[settings] rounds: has several values; put tuned flags into the section of each method",
        ),
        (
            "mu = 0.01",
            "mu = [0.01, 1]",
            "numbers of settings are fedavg 2, light 4; must be equal for all methods, or add unequal = true",
        ),
        ("mu = 0.01", "n_clients = 4", "[light] n_clients: is part of the problem, which all methods share"),
        ("mu = 0.01", "nu = 0.01", "[light] nu: not a flag of fedprox"),
        ("seed = [50, 51]", "seed = [1, 51]", "[tuning] seed 1: is also in [seeds]"),
        ("validation = 0.3", "share = 0.3", "[tuning] share: must be validation, seed or unequal"),
        ("lr = [0.001, 0.02]\n\n[light]", "lr = [0.001, -1]\n\n[light]", "[fedavg] --lr -1: must be a number above 0"),
        ("[problem]", "alpha = 1\n[problem]", "alpha is outside a section"),
        ("[problem]", "[problem", "cannot be read as TOML"),
        ("rounds = 2", 'rounds = "--export_dir=elsewhere"', "[settings] --rounds --export_dir=elsewhere: must be a whole"),
        ("lr = [0.001, 0.02]", 'lr = [0.001, "--force"]', "[fedavg] --lr --force: must be a number above 0"),
        ("lr = [0.001, 0.02]", "lr = []", "[fedavg] lr: has no value"),
        ("lr = [0.001, 0.02]", "keep_optimizer = 1", "[fedavg] keep_optimizer: is a switch; must be true or false"),
        ("seed = [50, 51]", 'seed = ["00"]', "[tuning] seed 0: is also in [seeds]"),
        ("seed = [50, 51]", 'seed = "some"', "[tuning] --seed some: must be a whole number"),
        ("validation = 0.3", "validation = 0", "[tuning] validation 0.0: must be one number above 0"),
        ("validation = 0.3", "validation = [0.1, 0.2]", "[tuning] validation 0.1 0.2: must be one number above 0"),
        (
            "[tuning]",
            "[execution]\ntrack_history = [0, 1]\n[tuning]",
            "track_history: has several values; use one",
        ),
        ("[tuning]", "[execution]\ndata_dir = 3\n[tuning]", "[execution] data_dir 3: must be one folder, in quotes"),
        ("[tuning]", "[execution]\njobs = 2\n[tuning]", "[execution] jobs: must be on the command line"),
        ("rounds = 2", 'data_dir = "x"', "[settings] data_dir: must be in [execution]"),
        ("validation = 0.3", 'unequal = "no"', "[tuning] unequal no: must be true or false"),
    ],
)
def test_a_mistake_in_a_file_is_a_line(before, after, message, tmp_path):
    def runs():
        content = read(tmp_path, TEXT.replace(before, after, 1))
        return content.runs(CLASSES), content.tried(CLASSES)

    line = line_of(runs)
    assert line.startswith("--study ")
    assert message in line


def test_an_included_file_has_the_sections_that_studies_share_and_the_study_itself_comes_first(tmp_path):
    shared, own = (
        "\n".join(TEXT.splitlines()),
        'include = "shared.toml"\n[fedavg]\nlr = [0.003, 0.3]\n[settings]\nrounds = 3\n',
    )
    (tmp_path / "shared.toml").write_text(shared)
    whole, result = read(tmp_path, TEXT), read(tmp_path, own)
    (avg, *others), (whole_avg, *whole_others) = result.methods, whole.methods
    assert (avg.flags, whole_avg.flags) == ({"lr": [0.003, 0.3]}, {"lr": [0.001, 0.02]})
    assert {name: value for name, value in avg.shared.items() if whole_avg.shared[name] != value} == {"rounds": [3]}
    assert [method.flags for method in others] == [method.flags for method in whole_others]
    assert (result.seeds, result.tuning) == (whole.seeds, whole.tuning)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include = 3", "include 3: must be the path of another study file"),
        ('include = "nowhere.toml"', "nowhere.toml: "),
        ('include = "other.toml"', "other.toml: include is outside a section"),
    ],
)
def test_a_mistake_in_an_include_is_a_line(text, message, tmp_path):
    (tmp_path / "other.toml").write_text('include = "study.toml"')
    line = line_of(lambda: read(tmp_path, text))
    assert line.startswith("--study ")
    assert message in line


def test_a_switch_with_two_values_tries_both_and_equal_numbers_are_one_setting(tmp_path):
    content = read(tmp_path, TEXT.replace("lr = [0.001, 0.02]", "keep_optimizer = [true, false]", 1))
    for of_it in (content.tried(CLASSES)["fedavg"], content.runs(CLASSES)["fedavg"]):
        assert {item.keep_optimizer for item in of_it} == {True, False}
    content = read(tmp_path, TEXT.replace("lr = [0.001, 0.02]", 'lr = [0.01, "1e-2"]'))
    assert content.tried(CLASSES) == {}
    content = read(tmp_path, TEXT.replace("seed = [0, 1]", 'seed = ["0", "01"]').replace("seed = [50, 51]\n", ""))
    assert {options.seed for options in content.tried(CLASSES)["fedavg"]} == {2}


def test_two_methods_that_are_run_in_one_setting_are_one_run_a_seed_with_both_names(tmp_path, capsys):
    text = """
    problem = {dataset = "digits", n_clients = 3, reduced = 0.1, model = "MLP", partition = "lda", alpha = 0.5}
    settings = {rounds = 1}
    a = {algorithm = "fedavg", lr = 0.01}
    b = {algorithm = "fedavg", lr = [0.01, 0.0001]}
    seeds = {seed = [0, 1], split_seed = "seed"}
    """
    read(tmp_path, text)
    words = f"--study {tmp_path / 'mine.toml'} --export_dir {tmp_path / 'saves'} --quiet --jobs 1"
    assert command.main(shlex.split(words)) == 0
    out = capsys.readouterr().out
    assert "results: 2 runs" in out
    (_,) = [line for line in out.splitlines() if line.startswith("fedavg ")]
    assert "n = 2 seeds" in out, "two runs are two seeds"
    assert "methods of the study: a, b: fedavg --lr 0.01" in out


def test_of_each_method_on_each_problem_the_setting_with_the_best_mean_validation_accuracy_is_chosen(tmp_path):
    content = read(tmp_path)

    class Told:
        def __init__(self, options):
            best = 0.02 if (options.alpha == 0.1) == (options.algorithm == "fedavg") else 0.001
            self.rounds = self
            # a seed that goes the other way, and a mean that does not
            value = {50: 0.9 if options.lr == best else 0.2, 51: 0.4 if options.lr == best else 0.5}[options.seed]
            self.iloc, self.validation, self.diverged = [value], value, None

        def __getitem__(self, name):
            return self

    tried = {method: [(item, Told(item)) for item in of_it] for method, of_it in content.tried(CLASSES).items()}
    settings = tuning.choose(content, tried)
    chosen = {
        (setting.method, setting.problem[tuning.OF_THE_PROBLEM.index("alpha")]): setting.values["lr"]
        for setting in settings
        if setting.chosen
    }
    assert chosen == {("fedavg", 0.1): 0.02, ("fedavg", 1.0): 0.001, ("light", 0.1): 0.001, ("light", 1.0): 0.02}
    final = tuning.results_of(content, content.runs(CLASSES), chosen_of(settings))
    assert {(options.algorithm, options.alpha): options.lr for options in final if options.algorithm == "fedavg"} == {
        ("fedavg", 0.1): 0.02,
        ("fedavg", 1.0): 0.001,
    }
    assert len(final) == 3 * 2 * 2, "methods, problems, seeds"
    assert {setting.note for setting in settings} == {"the largest lr tried", "", "the smallest lr tried"}, "of the chosen"
    # a setting of which a run failed is not chosen
    gone = Failed("fedavg: the training loss of client 0 is nan in round 1; a smaller --lr may help", tmp_path)
    tried["fedavg"] = [(options, gone if options.lr == 0.02 else run) for options, run in tried["fedavg"]]
    settings = tuning.choose(content, tried)
    assert {setting.values["lr"] for setting in settings if setting.chosen and setting.method == "fedavg"} == {0.001}
    reason = "2 of 2 runs failed: the training loss of client 0 is nan in round 1"
    assert f"\nfedavg --lr 0.02: {reason}\n" in f"{tuning.table(settings)}\n"
    tried = {method: [(item, Told(item)) for item in of_it] for method, of_it in content.tried(CLASSES).items()}
    for entry, run in tried["fedavg"]:
        run.diverged = 1 if entry.lr == 0.02 else None
    settings = tuning.choose(content, tried)
    assert {setting.values["lr"] for setting in settings if setting.chosen and setting.method == "fedavg"} == {0.001}, (
        "0.02 diverged"
    )
    assert "2 of 2 runs failed: diverged in round 1" in {setting.note for setting in settings}
    # without a choice the method is left out, on this problem alone
    tried["fedavg"] = [(item, gone if item.alpha == 0.1 else run) for item, run in tried["fedavg"]]
    settings = tuning.choose(content, tried)
    (line,) = tuning.left_out(settings)
    assert line == "fedavg is left out (on 1 of 2 problems): every setting failed or diverged in tuning"
    final = tuning.results_of(content, content.runs(CLASSES), chosen_of(settings))
    assert {options.alpha for options in final if options.algorithm == "fedavg"} == {1.0}
    assert {options.alpha for options in final if options.algorithm == "independent"} == {0.1, 1.0}


def test_a_value_at_the_limit_of_its_flag_is_no_edge(tmp_path):
    content = read(tmp_path, TEXT.replace("lr = [0.001, 0.02]", 'optimizer = "sgd"\nmomentum = [0.0, 0.5]', 1))
    method = content.methods[0]
    assert tuning.edges(method, {"momentum": 0.0}) == "", "no value is below 0"
    assert tuning.edges(method, {"momentum": 0.5}) == "the largest momentum tried"


def chosen_of(settings):
    return {(setting.method, setting.problem): tuple(setting.values.values()) for setting in settings if setting.chosen}


def test_a_method_that_always_diverges_is_left_out_and_ends_no_study(tmp_path, capsys):
    text = """
    problem = {dataset = "digits", n_clients = 2, reduced = 0.1, model = "MLP", partition = "lda", alpha = [0.5, 1.0]}
    settings = {rounds = 1}
    fedavg = {lr = [1e30, 1e31], optimizer = "sgd"}
    independent = {}
    """
    read(tmp_path, text)
    words = f"--study {tmp_path / 'mine.toml'} --export_dir {tmp_path / 'saves'} --quiet --jobs 1"
    assert command.main(shlex.split(words)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "results: 2 runs" in out
    assert "global accuracy (%) after the last round, by problem" in out
    assert "personal accuracy (%) after the last round, by problem" in out
    assert "fedavg is left out: every setting failed or diverged in tuning" in out
    with (tmp_path / "saves" / "mine" / "tuning.csv").open() as file:
        assert all("1 of 1 runs failed: " in row["note"] for row in csv.DictReader(file))
    read(tmp_path, text.replace("independent = {}", ""))
    assert command.main(shlex.split(words)) == 2
    assert "every setting of every method failed or diverged" in capsys.readouterr().err


def test_a_study_may_name_the_folder_of_the_data_and_the_command_line_another(tmp_path):
    content = read(tmp_path, TEXT + '[execution]\ntrack_history = 0\ndata_dir = "elsewhere"\n')
    assert {item.track_history for of_it in content.runs(CLASSES).values() for item in of_it} == {0}
    assert content.placed(Launch()).data_dir == Path("elsewhere")
    assert content.placed(Launch(data_dir=Path("typed"))).data_dir == Path("typed")
    text = study.text_of(content.runs(CLASSES)["independent"], Launch(data_dir=Path("elsewhere")))
    assert read(tmp_path, text).data_dir == Path("elsewhere"), "--save_study writes it"


def test_one_command_tunes_runs_and_prints_the_table_and_again_trains_nothing(tmp_path, capsys):
    read(tmp_path)
    words = f"--study {tmp_path / 'mine.toml'} --export_dir {tmp_path / 'saves'} --quiet --jobs 1"
    assert command.main(shlex.split(words)) == 0
    out = capsys.readouterr().out
    assert "alpha 0.1" in out
    assert "average" in out
    folder = tmp_path / "saves" / "mine"
    result = list(saves.find(folder))
    assert len(result) == 3 * 2 * 2
    assert {run.options["validation"] for run in result} == {0.0}
    held_out = list(saves.find(folder / "tuning"))
    assert len(held_out) == 16
    with (folder / "tuning.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    for row in (row for row in rows if row["chosen"]):
        of_it = [other for other in rows if (other["method"], other["alpha"]) == (row["method"], row["alpha"])]
        assert float(row["validation %"]) == max(float(other["validation %"]) for other in of_it)
    for item in result:
        if item.options["algorithm"] == "fedavg":
            by_name = {row["alpha"]: row["settings"] for row in rows if row["chosen"] and row["method"] == "fedavg"}
            assert f"--lr {item.options['lr']}" == by_name[str(item.options["alpha"])]
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("weights.pt")}
    assert command.main(shlex.split(words)) == 0
    assert written == {path: path.stat().st_mtime_ns for path in folder.rglob("weights.pt")}
    assert "alpha 0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags", ["lr = [0.001, 0.02]", 'optimizer = ["adam", "sgd"]\nmomentum = 0.9'], ids=["lr", "unread"]
)
def test_a_study_is_planned_without_any_training(flags, tmp_path, capsys):
    read(tmp_path, TEXT.replace("lr = [0.001, 0.02]", flags, 1))
    assert (
        command.main(shlex.split(f"--study {tmp_path / 'mine.toml'} --export_dir {tmp_path / 'saves'} --quiet --plan")) == 0
    )
    words, content = " ".join(capsys.readouterr().out.split()), study.read(tmp_path / "mine.toml", CLASSES)
    n_tuning = sum(map(len, content.tried(CLASSES).values()))
    n_results = sum(len(content.runs(CLASSES)[method.name]) // method.n_settings for method in content.methods)
    assert f"{n_tuning + n_results} runs: " in words, "as many as will be trained"
    assert "nothing was trained or saved" in words
    assert not (tmp_path / "saves").exists()


@pytest.mark.parametrize("words", ["fedavg", "cfkd", "--seed 0", "--preset fl", "--gpu -1"])
def test_nothing_but_where_and_how_stands_beside_a_study(words, tmp_path, capsys):
    read(tmp_path)
    assert command.main([*words.split(), "--study", str(tmp_path / "mine.toml")]) == 2
    assert "has its own algorithms and flags" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--save_study", "other.toml"], ["--show_split"]])
def test_a_study_is_not_passed_over_by_a_flag_that_runs_nothing(words, tmp_path, capsys, monkeypatch):
    read(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert command.main([*words, "--study", str(tmp_path / "mine.toml")]) == 2
    assert "applies only without --save_study and --show_split" in capsys.readouterr().err


LINES = (
    "fedavg cfkd --lr 0.01 0.1 --alpha 0.1 inf --partition lda --seed 0 1 --rounds 5 --lambda_kd 3",
    "fedavg --seed 3",
    "fedavg cfkd --seed 0 1 2 --split_seed seed",
    "fedavg fedprox --partition iid lda --alpha inf",
    "cfkd fd --model LeNet5,ResNet4 --feature_dim 16 --sizes 0.5,0.5 --n_clients 2",
    "fedavg fedprox --as_published --mu 0 1 --participation 0.5 --track_history 0",
)


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_that_is_written_as_a_study_asks_for_the_same_runs(line, tmp_path):
    runs, _, _ = commandline.parse(shlex.split(line), CLASSES, dict.fromkeys(CLASSES, ""))
    path = tmp_path / "written.toml"
    path.write_text(study.text_of(runs, Launch()))
    content = study.read(path, CLASSES).runs(CLASSES)
    assert {item for of_it in content.values() for item in of_it} == set(runs)


def test_what_differs_between_the_two_steps_of_a_study_is_validation_and_seeds_alone():
    assert set(tuning.OF_THE_PROBLEM) == set(Problem.__dataclass_fields__) - {"validation"}


def test_the_file_of_the_docs_is_a_study(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "studies.md").read_text(), re.DOTALL)
    content = read(tmp_path, text)
    assert {method: len(runs) for method, runs in content.tried(CLASSES).items()} == {"fedavg": 6, "cfkd": 6}
    assert {method: len(runs) for method, runs in content.runs(CLASSES).items()} == {
        "fedavg": 18,
        "cfkd": 18,
        "independent": 6,
    }


def test_the_file_of_the_docstring_is_a_study(tmp_path):
    lines = study.__doc__.splitlines()
    content = read(tmp_path, "\n".join(line[4:] for line in lines if line.startswith("    ")))
    assert [method.algorithm for method in content.methods] == ["fedavg", "fedprox"]
