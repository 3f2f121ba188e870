"""Clients that fail at the end of a round: at the cost of their work, and without any other trace."""

from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import line_of, options_for, tiny_federation
from test_algorithms import answers_of, equal, every_case, federation_for, options_of
from test_experiment import assert_same, prepared

import algorithms
import experiment
import saves
from algorithms import epidemic
from experiment import measuring
from experiment.preparation import federation_of
from helpers import train


def failing(federation, rounds, chance):
    return [federation.at(r).failing(chance) for r in range(1, rounds + 1)]


def test_a_client_fails_with_the_chance_that_is_given_by_itself_and_whatever_else_is_drawn():
    federation = tiny_federation(shares=[[k % 60] for k in range(200)], participation=0.5)
    for chance in (0.0, 0.2, 1.0):
        result = failing(federation, 40, chance)
        for r, (failed, others) in enumerate(result, start=1):
            assert failed | others == set(federation.at(r).sample())
            assert not failed & others
        rate = np.mean([len(failed) / 100 for failed, _ in result])
        assert abs(rate - chance) < 4 * np.sqrt(0.25 / 4000)
    assert failing(federation, 3, 0.2) == failing(replace(federation, threads=2), 3, 0.2)
    assert failing(federation, 3, 0.2) != failing(replace(federation, seed=1), 3, 0.2)
    first, more = (failing(federation, 3, chance) for chance in (0.2, 0.4))
    assert all(few[0] <= many[0] for few, many in zip(first, more, strict=True)), "who fails rarely fails often too"


def play_one(options, federation, state, r, before=None):
    """Play round r, which is not evaluated; returns (what it leaves, what was spent, what was sent)."""
    created = type(
        "Made", (), {"options": replace(options, rounds=99, track_history=0), "module": algorithms.module_of(options)}
    )
    counted = lambda federation, *_: {"of": (dict(federation.meter.spent), federation.wire.collect())}  # noqa: E731
    with mock.patch.object(measuring, "_entry", counted):
        done, entry, _ = measuring.play(created, federation, state, r, before=before)
    federation.meter.clear()
    return done, *entry["of"]


def run_rounds(case, chance, rounds, absent=()):
    """(state, what the rounds left, the federation) with this chance; without one the clients of `absent`, a set a round,
    are not there."""
    options = replace(options_of(case), client_failure=chance)
    module, federation = algorithms.module_of(options), federation_for(case)
    state, done, left = module.start(federation, options), None, []
    federation.meter.clear()
    federation.wire.collect()
    for r in range(1, rounds + 1):
        left.append(play_one(options, federation if chance else federation.without(absent[r - 1]), state, r, done))
        done = left[-1][0]
    return state, left, federation


def rounds_of_case(federation, chance):
    """Rounds up to the first in which some fail and some do not."""
    for r in range(1, 30):
        failed, others = federation.at(r).failing(chance)
        if not others:
            return None
        if failed:
            return r
    return None


@every_case
def test_a_client_that_failed_leaves_what_a_client_leaves_that_was_not_there(case):
    """State, answers and losses are those of a run in which it took no part; its steps and what it received and sent are
    counted beside, and nothing more of the server."""
    if getattr(algorithms.ALGORITHMS[case.split()[0]], "idle", False):
        pytest.skip("its clients do nothing in a round")
    federation = federation_for(case)
    chance, rounds = next((c, n) for c in (0.3, 0.4, 0.5, 0.6, 0.2) if (n := rounds_of_case(federation, c)))
    absent = [failed for failed, _ in failing(federation, rounds, chance)]
    state, left, here = run_rounds(case, chance, rounds)
    expected, without, there = run_rounds(case, 0.0, rounds, absent)
    assert equal(state, expected)
    (done, spent, sent), (run, alone, crossed) = left[-1], without[-1]
    assert list(done.clients) == list(run.clients)
    assert torch.equal(done.loss, run.loss)
    assert equal(answers_of(here, done), answers_of(there, run))
    assert done.metrics["failed"] == len(absent[-1])
    others = {key: n for key, n in spent.items() if n and not (key[1] == "client" and key[2] in absent[-1])}
    assert others == {key: n for key, n in alone.items() if n}
    for k in absent[-1]:
        assert spent["steps", "client", k] > 0, "it did its work"
        assert ("steps", "client", k) not in alone
    for kind, by_client in crossed.items():
        assert {k: n for k, n in sent[kind].items() if k not in absent[-1]} == by_client


@every_case
def test_a_client_that_fails_costs_what_it_costs_where_nobody_fails(case):
    """In the first round with failures, from the same state: all bytes by direction, kind and client, steps and samples."""
    if getattr(algorithms.ALGORITHMS[case.split()[0]], "idle", False):
        pytest.skip("its clients do nothing in a round")
    federation = federation_for(case)
    chance, r = next((c, n) for c in (0.3, 0.4, 0.5, 0.6, 0.2) if (n := rounds_of_case(federation, c)))
    counted = []
    for requested in (chance, 0.0):
        options, federation = replace(options_of(case), client_failure=requested), federation_for(case)
        state = algorithms.module_of(options).start(federation, options)
        federation.meter.clear()
        federation.wire.collect()
        _, spent, sent = play_one(options, federation, state, r)
        counted.append((sent, {key: n for key, n in spent.items() if key[1] == "client" and key[0] != "flops"}))
    assert counted[0] == counted[1]


SERVERLESS = [
    ("epidemic", {"fanout": 2}),
    ("epidemic", {"peers": "oracle", "fanout": 2}),
    ("dpsgd", {"topology": "ring"}),
    ("data_exchange", {"topology": "ring", "mixing": "uniform", "share_ratio": 0.0}),
]


@pytest.mark.parametrize(("name", "flags"), SERVERLESS)
def test_without_a_server_all_send_and_what_is_from_or_to_a_failed_client_is_dropped(name, flags):
    """One round of eight clients written out: everyone trains, draws receivers not knowing who fails, and sends; a client
    that does not fail averages its model and those that it received of others that did not."""
    chance, n = 0.4, 8
    federation = tiny_federation(shares=[range(3 * k, 3 * k + 3) for k in range(n)], model="MLP")
    options = options_for(name, client_failure=chance, **flags)
    module = algorithms.module_of(options)
    state, r = module.start(federation, options), rounds_of_case(federation, chance)
    before, here = state["weights"], federation.at(r)
    failed = {k for k in range(n) if here.stream("failure", k).random() < chance}
    assert 0 < len(failed) < n - 2
    trained = train(here, range(n), before, module.loss, options).weights
    if name == "epidemic":
        sends = epidemic.recipients(here, range(n), options)
    else:
        sends = {k: [(k - 1) % n, (k + 1) % n] for k in range(n)}
    federation.wire.collect()
    done, _, sent = play_one(options, federation, state, r)
    size = sum(tensor.nbytes for tensor in trained[0].values())
    assert sent == {("between", "weights"): {k: len(sends[k]) * size for k in range(n)}}
    assert done.metrics["failed"] == len(failed)
    arrived = {k: [j for j in range(n) if k in sends[j] and j not in failed] for k in range(n)}
    for k in range(n):
        if k in failed:
            expected = before[k]
        elif name == "dpsgd":  # Metropolis weights on the ring without the failed
            w = {j: 1 / (1 + max(len(arrived[j]), len(arrived[k]))) for j in arrived[k]}
            own = 1 - sum(w.values())
            expected = {key: own * v + sum(w[j] * trained[j][key] for j in w) for key, v in trained[k].items()}
        else:
            rows = [trained[j] for j in (k, *arrived[k])]
            expected = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        for key, tensor in expected.items():
            torch.testing.assert_close(state["weights"][k][key], tensor, rtol=0, atol=1e-12)


@pytest.mark.parametrize("flags", [{"as_published": True}, {"select": "fixed"}, {"aggregate": "all", "init": "independent"}])
def test_who_fails_is_one_of_those_that_a_published_variant_takes(flags):
    """Each of them trains once in a round and sends its model and n_k once, those that fail too, and nobody else does."""
    case = {"shares": [range(k, 60, 6) for k in range(6)], "participation": 0.5, "model": "MLP"}
    counts = []
    for chance in (0.5, 0.0):
        federation, options = tiny_federation(**case), options_for("fedavg", client_failure=chance, **flags)
        created = type("Made", (), {"options": options, "module": algorithms.module_of(options)})
        counts.append([])
        for r in range(1, 9):
            here, state = federation.at(r), created.module.start(federation, options)
            takers = (here if "init" in flags else federation.at(0)).sample()
            failed = {k for k in takers if here.stream("failure", k).random() < chance}
            if failed == set(takers):
                assert measuring.passed_over(created, federation, r)
                continue
            done, spent, sent = play_one(options, federation, state, r)
            assert set(done.clients) == set(takers) - failed
            assert done.metrics.get("failed", 0) == len(failed)
            assert {key[2] for key in spent} == set(takers)
            counts[-1].append((r, sent, spent))
    assert len(counts[0]) > 3
    expected = {r: (crossed, spent) for r, crossed, spent in counts[1]}
    assert {r: (crossed, spent) for r, crossed, spent in counts[0]} == {r: expected[r] for r, _, _ in counts[0]}


def test_centralized_has_no_client_that_could_fail():
    state, left, federation = run_rounds("centralized", 1.0, 2)
    expected, without, there = run_rounds("centralized", 0.0, 2, [frozenset()] * 2)
    assert equal(state, expected)
    assert "failed" not in left[-1][0].metrics
    assert equal(answers_of(federation, left[-1][0]), answers_of(there, without[-1][0]))


FLAGS = {"n_clients": 2, "rounds": 8, "client_failure": 0.6, "seed": 1}  # 4, 6, 7, 8 are passed over


def test_a_round_in_which_all_fail_is_passed_over_and_recorded(tmp_path):
    run_experiment = prepared("fedavg", tmp_path, **FLAGS)
    federation = federation_of(run_experiment)
    gone = [r for r in range(1, 9) if measuring.passed_over(run_experiment, federation, r)]
    assert gone == [4, 6, 7, 8]
    rounds = experiment.run(run_experiment).rounds.set_index("round")
    for r in gone:
        assert rounds["failed"][r] == 2
        assert np.isnan(rounds["loss"][r])
        assert rounds["global_mean"][r] == rounds["global_mean"][r - 1], "the model is what it was"
        assert rounds["bytes_up"][r] > 0, "and was sent, and lost"
    assert rounds["failed"].iloc[1:].tolist() == [len(failed) for failed, _ in failing(federation, 8, 0.6)]


@pytest.mark.parametrize("name", ["fedavg", "ditto"])
def test_a_run_that_is_killed_beside_such_rounds_goes_on_to_the_same_bits(name, tmp_path):
    whole = experiment.run(prepared(name, tmp_path / "whole", **FLAGS))
    for stop in range(1, 8):
        cut = prepared(name, tmp_path / str(stop), **FLAGS)

        def watch(row, stop=stop):
            if not isinstance(row, str) and row["round"] == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            experiment.run(cut, watch=watch)
        assert saves.saved_round(cut.folder) <= stop
        assert_same(experiment.run(cut), whole)


def test_a_run_of_which_nothing_ever_arrives_is_told(tmp_path):
    run = partial(experiment.run, prepared("fedavg", tmp_path, rounds=2, client_failure=1.0, track_features=0))
    assert line_of(run) == "--client_failure 1: all clients failed in all 2 rounds; use a smaller value"


def test_nothing_changes_where_nobody_fails():
    assert options_for("fedavg").client_failure == 0
    assert tiny_federation(participation=0.7).failing(0.0)[0] == frozenset()
