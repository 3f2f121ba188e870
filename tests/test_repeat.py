"""Methods and conditions: the same bits, whatever is around. `make hard` has the whole table; here are all conditions in two
commands, between which the methods are dealt. (The same with workers: tests/test_algorithms.py and tests/test_pool.py; MHMD
and FedGKT, whose commands would be others for their models: tests/test_experiment.py.)"""

import pytest

import run as command
from checks.hard import methods, repeat

NAMES = [name for name in methods.NAMES if name not in methods.MODELS]
TINY = {"rounds": 2, "ft_epochs": 0, "track_features": 0}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The runs of all methods, in this process."""
    folder = tmp_path_factory.mktemp("plain")
    (words,) = methods.commands(NAMES, **TINY)
    assert command.main([*words, "--jobs", "1", "--quiet", "--export_dir", str(folder)]) == 0
    return methods.runs_in(folder)


@pytest.mark.parametrize("number", range(len(repeat.TOGETHER)))
def test_a_run_is_the_same_bits_whatever_is_around(number, plain, tmp_path):
    names = NAMES[number :: len(repeat.TOGETHER)]
    assert repeat.run_condition(repeat.TOGETHER[number], names, tmp_path / "läufe", **TINY) == []
    expected = {name: run for name, run in plain.items() if run.options["algorithm"] in names}
    assert len(expected) == len(names)
    assert repeat.against(expected, methods.runs_in(tmp_path / "läufe")) == []


def test_the_two_commands_are_under_all_conditions():
    for condition in repeat.CONDITIONS.values():
        for name, value in vars(condition).items():
            there = [vars(item)[name] for item in repeat.TOGETHER]
            if name == "environment":
                assert all(flag in {**there[0], **there[1]} for flag in value)
            else:
                assert value in there
