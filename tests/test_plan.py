"""What a run will cost is what it costs: its counts to the last one, its clock by a clock of the test's own."""

import json
import shlex

import pytest
import torch
from conftest import options_for, tiny_federation

import algorithms
import experiment
import run as command
import saves
from commandline import plan
from errors import DivergedError
from experiment import measuring, planning
from experiment.planning import Rehearsal
from federation import meter, optimizers
from helpers import train
from options import Launch, flags_of

SMALL = {
    "dataset": "digits",
    "reduced": 0.2,
    "n_clients": 3,
    "rounds": 5,
    "batch_size": 32,
    "track_history": 2,
    "image_size": 8,
    "threads": 1,
}
QUICK = "--dataset digits --rounds 3 --n_clients 3 --reduced 0.1 --model MLP --threads 1"
MODELS = {"mhmd": ("CNN4",), "fedgkt": ("ResNet4",)}
SHORT = {"fedgkt": {"server_model": "ResNet5"}, "feddf": {"distill_steps": 20}}
TUNED = {"ft_epochs": 1, "validation": 0.2}
CASES = [(name, {"participation": part, **TUNED}) for name in algorithms.ALGORITHMS for part in (1.0, 0.7)]
SAMPLED = ("fedavg", {"participation": 0.5})
CASES += [SAMPLED, ("fedavg", {"client_failure": 0.5}), ("fd", {"compress": "int8", "straggler": 0.5})]
CASES += [(name, {"as_published": True}) for name in algorithms.PUBLISHED]


def prepared(name, export, **flags):
    cls = algorithms.options_of(name)
    own = {"model": MODELS.get(name, ("MLP",)), **SHORT.get(name, {})}
    options = {"algorithm": name, **SMALL, "epoch_per_round": 1, **own, **flags}
    return experiment.prepare(cls(**options), Launch(export_dir=export))


def counted(frame):
    """The columns that must be those of the run."""
    return frame[[name for name in frame if name.startswith(("round", "client", "bytes", *measuring.COUNTED))]]


@pytest.mark.parametrize(("name", "flags"), CASES, ids=str)
def test_bytes_steps_and_flops_are_those_of_the_run_round_by_round_and_client_by_client(name, flags, tmp_path):
    run_experiment = prepared(name, tmp_path, **flags)
    planned = experiment.plan(run_experiment)
    assert not list(tmp_path.iterdir()), "nothing is saved"
    finished = experiment.run(run_experiment)
    assert counted(planned.history).equals(counted(finished.history))
    assert set(planned.history) == {*counted(planned.history), *saves.TIMING}, "no accuracies of models that did not learn"
    assert planned.state == planning.kept(finished.checkpoint()["state"], run_experiment.options.n_clients)
    network = finished.model(answer="personal" if name == "fedgkt" else None)
    assert planned.parameters == (sum(parameter.numel() for parameter in network.parameters()),)


def test_a_plan_does_few_steps_however_many_the_run_has_and_leaves_torchs_generator_alone(tmp_path, monkeypatch):
    done, step = [], optimizers.OPTIMIZERS["adam"]
    monkeypatch.setitem(optimizers.OPTIMIZERS, "adam", lambda *args: done.append(args) or step(*args))
    before = torch.get_rng_state()
    planned = experiment.plan(prepared("fedavg", tmp_path, rounds=50, epoch_per_round=3, optimizer="adam"), patience=0.0)
    steps, shapes = int(planned.rounds["steps"].sum()), 4  # of the batches: 32, and what is left of three shares
    assert len(done) <= (1 + 2) * shapes < steps / 10
    assert torch.equal(torch.get_rng_state(), before)


def kept(name, export, **flags):
    """What a plan says is kept, and the number of parameters D of a network of 64 pixels, 200 features and 10 classes."""
    planned = experiment.plan(prepared(name, export, rounds=2, **flags))
    assert planned.parameters == (64 * 200 + 200 + 200 * 10 + 10,)
    return planned.state, planned.parameters[0]


def test_the_state_of_fedavg_is_one_model(tmp_path):
    state, D = kept("fedavg", tmp_path)
    assert state == (0, 4 * D)


def test_the_state_of_scaffold_is_a_model_a_variate_and_a_variate_a_client(tmp_path):
    state, D = kept("scaffold", tmp_path)
    assert state == (3 * 4 * D, 2 * 4 * D)


@pytest.mark.parametrize(
    ("optimizer", "numbers", "tensors"),
    [
        ({"optimizer": "sgd"}, 1, 0),
        ({"optimizer": "sgd", "momentum": 0.5}, 2, 0),
        ({"optimizer": "adam"}, 3, 4),  # the moments, and of each of 4 tensors the number of steps
        ({"optimizer": "amsgrad"}, 4, 4),
    ],
    ids=str,
)
def test_the_state_of_independent_is_a_model_a_client_and_what_its_optimizer_remembers(
    optimizer, numbers, tensors, tmp_path
):
    state, D = kept("independent", tmp_path, **optimizer)
    assert state == (3 * 4 * (numbers * D + tensors), 0)


def test_the_state_of_fedproto_is_a_model_a_client_what_each_has_sent_and_the_prototypes_once(tmp_path):
    state, D = kept("fedproto", tmp_path, optimizer="sgd", momentum=0.0)
    classes, features = 10, 200
    sent = classes * (4 * features + 8)  # means, and counts of 64 bits
    assert state == (3 * (4 * D + sent) + classes * (4 * features + 1), 0)  # those received are one tensor, for all clients


def test_the_state_is_of_the_clients_that_have_taken_part_until_the_end(tmp_path):
    for rounds in (1, 2, 3):
        run_experiment = prepared("pfedme", tmp_path, rounds=rounds, participation=0.4)  # one of three in a round
        planned = experiment.plan(run_experiment)
        D = planned.parameters[0]
        took_part = {k for k in planned.history["client"][planned.history["steps"] > 0] if k >= 0}
        assert planned.state == (4 * D * len(took_part), 2 * 4 * D), "and the common start beside the model for all"


def test_a_tensor_that_several_hold_is_counted_once():
    item, other = torch.zeros(5), torch.zeros(3, dtype=torch.float64)
    assert planning.kept({"rows": [item, item, item.detach()], "by": {0: other, 7: torch.zeros(2)}}, 3) == (20 + 24 + 8, 0)
    assert planning.kept({"rows": [item, item, item], "all": item, "n": 4}, 3) == (0, 20), "it is common too"
    assert planning.kept({"rows": [item, torch.zeros(5)], "x": ()}, 3) == (0, 40), "no rows of 3 clients"


RATES = [
    (name, flag)
    for name in algorithms.ALGORITHMS
    for flag, declared in flags_of(algorithms.options_of(name)).items()
    if declared["rate"] and (flag not in ("lr", "ft_lr") or name == "fedavg")
]


@pytest.mark.parametrize(("name", "rate"), RATES)
def test_a_rehearsal_learns_next_to_nothing_however_high_a_rate_is(name, rate, tmp_path):
    high, usual = (prepared(name, tmp_path, **TUNED, **flags) for flags in ({rate: 1e30}, {}))
    assert counted(experiment.plan(high).history).equals(counted(experiment.plan(usual).history))


def test_every_flag_that_is_called_a_rate_is_one():
    named = {flag for name in algorithms.ALGORITHMS for flag in flags_of(algorithms.options_of(name)) if flag.endswith("lr")}
    assert {flag for _, flag in RATES} == named


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still where the test does not turn it: clock[0] += seconds."""
    now = [100.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
    return now


def test_work_of_a_known_kind_puts_the_clock_forward_and_is_not_done(clock):
    rehearsal, times = Rehearsal({}), []

    def work():
        times.append(0.5 if times else 4.0)  # the first of all takes longer
        clock[0] += times[-1]
        return f"done {len(times)}"

    began = rehearsal.now()
    assert rehearsal.work(work, "client", 0, "step") == "done 1"
    assert rehearsal.now() - began == 4, "what is done again to be timed counts as nothing"
    assert len(times) == 2
    for further in range(1, 11):
        assert rehearsal.work(work, "client", 1, "step") == "done 1", "what was done first"
        assert rehearsal.now() - began == 4 + 0.5 * further
    assert len(times) == 2
    assert rehearsal.passed_over == {"step": 5.0}
    rehearsal.work(work, "client", 0, "another kind")
    assert len(times) == 4


def test_a_rehearsal_without_patience_takes_the_seconds_of_what_is_done_first(clock):
    rehearsal = Rehearsal()

    def work():
        clock[0] += 4

    began = rehearsal.now()
    for times in (1, 2, 3):
        rehearsal.work(work, "client", 0, "step")
        assert rehearsal.now() - began == 4 * times
    assert clock == [104]


def test_work_is_timed_for_as_long_as_there_is_patience_and_the_mean_is_taken(clock):
    rehearsal, seconds = Rehearsal({"step": 10.0}), iter([9.0, 1.0, 2.0, 3.0, 4.0, 5.0])

    def work():
        clock[0] += next(seconds)

    began = rehearsal.now()
    rehearsal.work(work, "client", 0, "step")  # 9; then 1 + 2 + 3 + 4 are 10
    rehearsal.work(work, "client", 0, "step")
    assert rehearsal.now() - began == 9 + 2.5
    assert next(seconds) == 5


def test_a_plan_has_most_patience_with_what_takes_most_of_the_time(tmp_path, monkeypatch):
    options, rehearsal = [], planning.Rehearsal

    def noted(patience=None):
        options.append((rehearsal(patience), patience))
        return options[-1][0]

    monkeypatch.setattr(planning, "Rehearsal", noted)
    experiment.plan(prepared("fedavg", tmp_path, epoch_per_round=10))
    (first, nothing), (_, patience) = options
    assert nothing is None
    seconds = first.passed_over
    assert patience == pytest.approx({kind: seconds[kind] * planning.PART * 5 / 4 for kind in seconds}), "of 5 rounds 4"


def test_the_seconds_of_a_planned_round_are_those_of_its_work(clock):
    """Each step of a client takes a second and each batch of outputs ten, by the test's clock; nothing else takes any."""
    federation, options = tiny_federation(meter=Rehearsal()), options_for("independent", epoch_per_round=2)

    def loss(model, batch, context, options):
        clock[0] += 1
        return model(batch.x)[1].sum()

    algorithm = algorithms.module_of(options)
    state = algorithm.start(federation, options)
    began = federation.meter.now()
    train(federation.at(1), [0, 1, 2], state["weights"], loss, options)
    # batches of 8 in each of two epochs: 10 examples are 8 + 2, 20 are 8 + 8 + 4, 30 are 8 + 8 + 8 + 6
    assert federation.meter.now() - began == 2 * (2 + 3 + 4)
    assert federation.meter.seconds["train", "client"] == 2 * (2 + 3 + 4)


@pytest.mark.parametrize(
    ("flags", "first", "second"),
    [
        ({}, [1, 2, 3, 9], [1, 2, 3, 9]),  # 2 is evaluated, 3 is not
        ({"track_history": 1}, [1, 2, 9], [1, 2, 9]),
        ({"track_history": 0}, [1, 2, 9], [1, 2, 9]),
        ({"rounds": 1}, [1], [1]),
        ({"participation": 0.5}, [1, 2, 3, 9], list(range(1, 10))),
    ],
)
def test_rounds_that_are_alike_are_rehearsed_once(flags, first, second, tmp_path, monkeypatch):
    run_rounds, play_one = [], measuring.play
    monkeypatch.setattr(planning, "play", lambda e, f, s, r, **more: run_rounds.append(r) or play_one(e, f, s, r, **more))
    monkeypatch.setattr(planning, "_counts", lambda entry: {})  # even if sampled rounds cost the same by chance
    experiment.plan(prepared("fedavg", tmp_path, **{"rounds": 9, **flags}))
    assert run_rounds == first + second


def test_where_later_rounds_cost_something_else_every_round_is_rehearsed(tmp_path, monkeypatch):
    """An algorithm that in its last rounds sends weights twice."""
    fedavg = algorithms.ALGORITHMS["fedavg"]
    communicate = fedavg.communicate

    def growing(federation, state, options):
        done = communicate(federation, state, options)
        if federation.round > 3:
            federation.wire.up("more", [torch.zeros(federation.round)] * 3, [0, 1, 2])
        return done

    monkeypatch.setattr(fedavg, "communicate", growing)
    run_experiment = prepared("fedavg", tmp_path, rounds=6)
    planned = experiment.plan(run_experiment)
    assert planned.rounds["bytes_up:more"].tolist() == [0, 0, 0, 0, 3 * 16, 3 * 20, 3 * 24]
    assert counted(planned.history).equals(counted(experiment.run(run_experiment).history))


def test_the_command_tells_what_each_run_of_the_grid_will_cost_and_runs_nothing(tmp_path, capsys):
    words = f"fedavg cfkd independent --seed 0 1 {QUICK} --export_dir {tmp_path}"
    assert command.main(shlex.split(f"{words} --plan --json")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert not list(tmp_path.iterdir())
    assert [(item["algorithm"], item["seed"]) for item in lines] == [
        (n, s) for n in ("fedavg", "cfkd", "independent") for s in (0, 1)
    ]
    assert command.main(shlex.split(f"{words} --json")) == 0
    for expected, line in zip(lines, capsys.readouterr().out.splitlines(), strict=True):
        run = json.loads(line)
        same = ("folder", "steps", "steps_server", "flops", "flops_server", "options")
        assert {name: expected[name] for name in same} == {name: run[name] for name in same}
        assert sum(n["run"] for name, n in expected["bytes"].items() if name.startswith("up:")) == run["bytes_up"]
        assert sum(n["run"] for name, n in expected["bytes"].items() if name.startswith("down:")) == run["bytes_down"]
        for nbytes in expected["bytes"].values():
            assert nbytes["before"] + 3 * nbytes["a_round"] == nbytes["run"]
        assert expected["state"]["all"] == 3 * expected["state"]["a_client"] + expected["state"]["common"]
        assert expected["seconds"] > 0
        assert expected["memory"] > 1e6


def test_a_plan_of_a_start_that_is_not_finite_is_a_line_and_the_others_are_planned(tmp_path, capsys, monkeypatch):
    play = planning.play

    def diverging(item, *rest, **more):
        if item.options.seed == 0:
            raise DivergedError("fedavg: the training loss of client 0 is nan")
        return play(item, *rest, **more)

    monkeypatch.setattr(planning, "play", diverging)
    assert command.main(shlex.split(f"fedavg --seed 0 1 {QUICK} --export_dir {tmp_path} --plan --json")) == 1
    captured = capsys.readouterr()
    assert "run.py: fedavg: the training loss of client 0 is nan" in captured.err
    assert [json.loads(line)["seed"] for line in captured.out.splitlines()] == [1]


def test_the_table_of_a_plan_has_a_row_a_run_and_a_row_for_every_kind_of_message(tmp_path, capsys):
    words = f"fedavg dpsgd --lr 0.1 0.2 {QUICK} --export_dir {tmp_path} --quiet --plan"
    assert command.main(shlex.split(words)) == 0
    runs, _, kinds, words = capsys.readouterr().out.split("\n\n")
    run_experiment = prepared("fedavg", tmp_path, n_clients=3, reduced=0.1, rounds=3, image_size=None)
    weights = 4 * experiment.plan(run_experiment).parameters[0]
    assert f"{3 * weights:,}" in kinds
    assert f"{9 * weights:,}" in kinds
    assert runs.splitlines()[0].split()[:2] == ["algorithm", "--lr"]
    assert [line.split()[:2] for line in runs.splitlines()[3:]] == [
        ["fedavg", "0.1"],
        ["fedavg", "0.2"],
        ["dpsgd", "0.1"],
        ["dpsgd", "0.2"],
    ]
    assert [line.split()[2:5] for line in kinds.splitlines()[3:6]] == [
        ["up", "n_k", "0"],
        ["up", "weights", "0"],
        ["down", "weights", "0"],
    ]
    assert [line.split()[2:5] for line in kinds.splitlines()[-1:]] == [["to", "neighbours", "weights"]]
    assert words.startswith("4 runs: ")
    assert " ".join(words.split()).endswith("nothing was trained or saved")


@pytest.mark.parametrize(
    ("name", "flags"), [(name, flags) for name, flags in CASES if flags.get("participation") != 0.7], ids=str
)
def test_what_is_said_to_cost_the_same_does(name, flags, tmp_path):
    """Runs that differ in all that costs nothing have one plan; where clients are drawn the seed is none of that."""
    flags = {**flags, **({"variate": 1} if name == "scaffold" else {})}  # the other one takes no momentum
    run_experiment = prepared(name, tmp_path, optimizer="sgd", **flags)
    sampled = run_experiment.options.participation < 1 or bool(
        run_experiment.options.straggler or run_experiment.options.client_failure
    )
    free = {"lr": 0.7, "lr_schedule": "cosine", "weight_decay": 0.1}
    free |= {"ft_lr": 0.3} if run_experiment.options.ft_epochs else {}
    other = prepared(name, tmp_path, optimizer="sgd", **flags, **free, **({} if sampled else {"seed": 5}))
    assert experiment.costs_of(run_experiment) == experiment.costs_of(other)
    planned, like_it = experiment.plan(run_experiment), experiment.plan(other)
    assert counted(planned.history).equals(counted(like_it.history))
    assert planned.state == like_it.state
    assert (
        experiment.costs_of(prepared(name, tmp_path, optimizer="sgd", **flags, seed=5))
        == experiment.costs_of(run_experiment)
    ) != (sampled)


def test_what_may_cost_something_else_is_planned_anew(tmp_path):
    others = (
        {},
        {"batch_size": 16},
        {"rounds": 6},
        {"threads": 2},
        {"optimizer": "amsgrad"},
        {"partition": "lda"},
        {"mu": 2.0},
        {"momentum": 0.5},  # which is remembered
    )
    experiments = [prepared("fedprox", tmp_path, **flags) for flags in others]
    assert len({experiment.costs_of(run_experiment) for run_experiment in experiments}) == len(others)
    drawn = [prepared("fedprox", tmp_path, partition="lda", alpha=0.5, split_seed="seed", seed=seed) for seed in (0, 1)]
    assert len({experiment.costs_of(item) for item in drawn}) == 2, "another split"


def test_runs_that_cost_the_same_are_planned_once_and_shown_for_all(tmp_path, capsys, monkeypatch):
    planned, plan_one = [], experiment.plan
    monkeypatch.setattr(experiment, "plan", lambda item, watch, patience: planned.append(item) or plan_one(item))
    words = f"fedavg cfkd --lr 0.1 0.2 --seed 0 1 {QUICK} --export_dir {tmp_path} --quiet --plan --jobs 2"
    assert command.main(shlex.split(words)) == 0
    assert [item.options.algorithm for item in planned] == ["fedavg", "cfkd"]
    runs, *_, words = capsys.readouterr().out.split("\n\n")
    assert [line.split()[:3] for line in runs.splitlines()[3:]] == [
        [name, lr, seed] for name in ("fedavg", "cfkd") for lr in ("0.1", "0.2") for seed in "01"
    ]
    assert words.startswith("8 runs: ")
    joined = " ".join(words.split())
    assert "one run after another, or " in joined
    assert "in parallel with --jobs 2; only 2 planned: seed, lr, " in joined


def test_many_plans_share_those_of_other_draws_and_say_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "MANY", 1)
    words = f"fedavg --lr 0.1 0.2 --seed 0 1 --split_seed seed --partition lda --alpha 0.3 {QUICK} --export_dir {tmp_path} "
    assert command.main(shlex.split(words + "--quiet --plan")) == 0
    joined = " ".join(capsys.readouterr().out.split())
    assert "4 runs: " in joined
    assert "only 1 planned: seed, lr, " in joined
    assert "other draws of clients and splits are taken to cost the same" in joined
