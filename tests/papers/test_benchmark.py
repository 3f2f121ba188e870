"""The benchmark: its studies are what the protocol says, its tables have the runs of the chosen settings."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

import algorithms
import experiment
from commandline import study
from figures.statistics import holm
from options import Launch
from papers import benchmark
from papers.tables import METRICS, Cell, Results, Table, runs_of

CLASSES = algorithms.all_options()
LEFT_OUT = {"mhmd", "fedgkt"}  # README.md of the benchmark says why


@pytest.mark.parametrize("problem", benchmark.PROBLEMS)
def test_each_method_has_six_settings_with_its_own_default_on_the_same_seeds(problem):
    content = study.read(benchmark.HERE / f"{problem}.toml", CLASSES)
    assert {method.algorithm for method in content.methods} == set(algorithms.ALGORITHMS) - LEFT_OUT
    assert {method.n_settings for method in content.methods} == {6}
    assert (content.seeds["seed"], content.tuning["seed"]) == ([1, 2, 3, 4, 5, 6], [100])
    for method in content.methods:
        own = {name: values for name, values in method.flags.items() if name != "lr" and len(values) > 1}
        default = CLASSES[method.algorithm](method.algorithm)
        for name, values in own.items():
            assert getattr(default, name) in values or method.algorithm == "fedopt", (method.name, name)
        shared = {name: values for name, values in method.shared.items() if name != "public_share"}
        assert all(len(values) == 1 for values in shared.values()), "a problem, not several"


def test_the_command_of_a_row_requests_the_runs_of_the_study():
    content = study.read(benchmark.HERE / "strong_skew.toml", CLASSES)
    runs = content.runs(CLASSES)
    for method in content.methods:
        first = benchmark.setting(runs[method.name][0], list(method.flags))
        requested = [run for run in runs[method.name] if benchmark.setting(run, list(method.flags)) == first]
        assert len(requested) == 6
        assert [built.options for built in runs_of(benchmark.command(requested))] == requested


def results_of(values):
    """A problem's table and its results: {method: a personal accuracy per seed}, in percent."""
    names = dict(zip(values, algorithms.ALGORITHMS, strict=False))
    cells = {name: Cell(f"{algorithm} --seed 1 2 3 4 5 6", "personal") for name, algorithm in names.items()}
    rows = {
        built.key: {"personal": value, "other": ""}
        for name, of_method in values.items()
        for built, value in zip(runs_of(cells[name].command), of_method, strict=True)
    }
    return Table("tiny", "", "", {name: {"personal": cell} for name, cell in cells.items()}), Results(rows)


def test_a_problems_tests_are_paired_and_adjusted_for_the_methods_that_collaborate():
    draw = np.random.default_rng(0)
    values = {name: 70 + draw.normal(size=6) for name in ("fedavg", "ditto", "fedrep", "independent")}
    values["ditto"] = values["fedavg"] + 5 + 0.1 * draw.normal(size=6)
    result = benchmark.comparisons(*results_of(values))
    assert set(result) == {"fedavg", "ditto", "fedrep"}, "learning alone is no competitor"
    ps = [stats.ttest_rel(values[name], values["fedavg"]).pvalue for name in ("ditto", "fedrep")]
    assert [result[name]["p fedavg"] for name in ("ditto", "fedrep")] == pytest.approx(holm(ps))
    assert "p best" not in result["ditto"], "it is the best itself"
    assert result["ditto"]["difference"] == pytest.approx((values["ditto"] - values["fedavg"]).mean())


def test_ranks_are_means_over_the_problems_that_all_methods_have(monkeypatch):
    by_problem = {
        "one": {"a": 80.0, "b": 70.0},
        "two": {"a": 60.0, "b": 65.0},
        "three": {"a": 50.0, "b": 40.0},
        "four": {"a": 1.0},
    }
    rows = {name: {p: None for p, means in by_problem.items() if name in means} for name in "ab"}
    monkeypatch.setattr(benchmark, "OVERVIEW", SimpleNamespace(rows={**rows, "independent": {}}))
    monkeypatch.setattr(benchmark, "BY_PROBLEM", by_problem)
    known = SimpleNamespace(mean=lambda table, method, problem: by_problem[problem][method])
    problems, average, means = benchmark.ranks(known)
    assert problems == ["one", "two", "three"]
    assert average == pytest.approx({"a": (1 + 2 + 1) / 3, "b": (2 + 1 + 2) / 3})
    assert means.tolist() == [[80, 70], [60, 65], [50, 40]]


def test_what_collaboration_brings_is_measured_against_the_same_seed_alone(tmp_path):
    common = (
        "--dataset digits --n_clients 3 --partition lda --alpha 0.3 --model MLP --reduced 0.3 --threads 1 --split_seed seed"
    )
    lines = (
        f"fedavg {common} --rounds 3 --seed 1 --lr 0.05 --optimizer sgd",
        f"independent {common} --rounds 1 --seed 1 --lr 1e-6",
    )
    requested = [built for line in lines for built in runs_of(line)]
    own, alone = (experiment.run(experiment.prepare(built.options, Launch(export_dir=tmp_path))) for built in requested)
    gain = METRICS["gain"].of(own, alone)
    assert gain == pytest.approx(100 * (own.summary()["personal_mean"] - alone.summary()["personal_mean"]))
    assert METRICS["harmed"].of(alone, alone) == 0
    assert METRICS["rounds to alone"].of(own, alone) <= 1, "alone has learned nothing"
    assert METRICS["rounds to alone"].of(alone, own) == np.inf
