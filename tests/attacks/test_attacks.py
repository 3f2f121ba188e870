"""A recording holds what arrived and nothing else; attacks see the recording and public data; the judge counts fairly."""

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import line_of, tiny_data, tiny_federation

import models
import plugins
import run as command
import saves
import streams
from attacks import ATTACKS, __main__, judge, options_from, options_of, results, update_labels
from attacks.knowledge import Guess, Labelled, Public, Recording
from attacks.results import Attacked, Case
from federation.recording import Message, Recorder, rounds_of
from federation.wire import SERVER, Rows, Wire, leaves, mapped
from figures.compare import compare
from figures.leaked import leaked

METHODS = ("fedavg", "cfkd", "fd", "fedproto", "fednova", "fedbabu", "data_exchange", "centralized", "independent")
FLAGS = (
    "--dataset digits --reduced 0.2 --n_clients 3 --partition lda --alpha 0.5 --rounds 2 --epoch_per_round 2 --lr 0.05 "
    "--optimizer sgd --batch_size 16 --model MLP --jobs 1 --workers 1 --device cpu --quiet --record_wire first,last"
)


CHEAP = {  # what every attack must keep to holds for small searches too
    "linear_span": {"starts": 1, "programs": 1},
    "update_matching": {"iterations": 5},
    "lira": {"n_shadows": 2, "most_epochs": 2},
}


def cheap_options(name: str):
    options = options_of(name)
    return replace(options, **CHEAP.get(name, {})) if options else None


@cache
def folder_of_runs(tmp: Path) -> dict[str, saves.Run]:
    """A run of each of the methods, on the same small split of the digits."""
    assert command.main([*METHODS, *FLAGS.split(), "--export_dir", str(tmp)]) == 0
    runs = saves.find(tmp)
    return {run.options["algorithm"]: run for run in runs}


@pytest.fixture
def runs(tmp_path_factory) -> dict[str, saves.Run]:
    return folder_of_runs(tmp_path_factory.getbasetemp() / "attacked")


# --- the recording ------------------------------------------------------------------------------------------------------


def test_first_is_round_1_with_what_came_before_it_and_last_is_the_last_round():
    assert rounds_of(("first", "last"), 5) == (0, 1, 5)
    assert rounds_of((3, "last", 9), 5) == (3, 5)
    assert rounds_of((), 5) == ()


def recorded(compress: str = "none", n_rows: int = 100, rounds=(1,)):
    data = tiny_data()
    return data, Wire(compress, Recorder(data, rounds, n_rows))


def test_a_recording_holds_what_arrives_with_sender_and_receiver():
    _, wire = recorded("fp16")
    wire.begin(1)
    row = {"w": torch.tensor([1.0001, 2.0])}
    (arrived,) = wire.up("weights", [row], [2])
    wire.broadcast("weights", row, [0, 1])
    wire.between("weights", [row], [(0, 2)])
    messages = wire.recorder.messages
    assert [(m.round, m.direction, m.sender, m.receiver) for m in messages] == [
        (1, "up", 2, SERVER),
        (1, "down", SERVER, 0),
        (1, "down", SERVER, 1),
        (1, "between", 0, 2),
    ]
    for message in messages:
        assert torch.equal(message.content["w"], arrived["w"])
        assert not torch.equal(message.content["w"], row["w"])  # rounded as it was sent
    assert messages[1].content is messages[2].content  # a broadcast is stored once
    assert wire.recorder.nbytes == 3 * 8


def test_only_the_chosen_rounds_are_recorded():
    _, wire = recorded(rounds=(0, 2))
    for r, expected in ((0, 1), (1, 0), (2, 1)):
        wire.begin(r)
        wire.up("n_k", [torch.tensor(3)], [0])
        assert len(wire.recorder.messages) == expected


def test_images_are_recorded_as_images_and_rows_up_to_the_cap():
    data, wire = recorded(n_rows=4)
    federation, indices = tiny_federation(data), torch.tensor([5, 2, 9, 1, 0, 3])
    wire.begin(1)
    wire.up("images", [federation.examples(indices)], [0])
    wire.up("features", [{"maps": Rows(torch.arange(12.0).view(6, 2))}], [0])
    images, features = (message.content for message in wire.recorder.messages)
    assert images.keys() == {"images", "labels"}
    assert torch.equal(images["images"], data.x[indices[:4]])
    assert torch.equal(images["labels"], data.y[indices[:4]])
    assert torch.equal(features["maps"], torch.arange(12.0).view(6, 2)[:4])


def test_messages_of_clients_that_fail_are_not_recorded():
    _, wire = recorded()
    wire.begin(1)
    other = wire.without(frozenset([1]))
    other.up("n_k", [torch.tensor(1)] * 3, [0, 1, 2])
    other.between("n_k", [torch.tensor(1)] * 2, [(0, 1), (0, 2)])
    assert [(m.sender, m.receiver) for m in wire.recorder.messages] == [(0, SERVER), (2, SERVER), (0, 2)]


def test_a_recording_changes_no_number_of_a_run(runs, tmp_path):
    flags = FLAGS.replace("--record_wire first,last", "").split()
    assert command.main(["fedavg", *flags, "--export_dir", str(tmp_path)]) == 0
    (plain,) = saves.find(tmp_path)
    here, there = plain.weights()["global"], runs["fedavg"].weights()["global"]
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert "recording-1.pt" not in plain.digests
    with pytest.raises(saves.UserError, match="rerun it with --record_wire first,last"):
        plain.recording()


def test_the_files_of_a_run_cover_its_recording_and_a_changed_one_is_damaged(runs, tmp_path):
    run = runs["fedavg"]
    assert {"recording-1.pt", "recording-2.pt"} <= run.digests.keys()
    messages, public = run.recording()
    assert Counter((m.round, m.direction, m.kind) for m in messages) == {
        (r, direction, kind): 3
        for r in (1, 2)
        for direction, kind in (("down", "weights"), ("up", "weights"), ("up", "n_k"))
    }
    assert public == {}
    other = tmp_path / run.folder.name
    other.mkdir()
    for path in run.folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "recording-1.pt").write_bytes((other / "recording-2.pt").read_bytes())
    with pytest.raises(saves.DamagedError, match="recording-1.pt"):
        saves.load(other).recording()


def test_a_recording_names_the_weights_that_everybody_knows(runs):
    _, public = runs["fedbabu"].recording()
    assert public.keys() == {"classifier.weight", "classifier.bias"}


def test_a_run_that_was_interrupted_records_the_same_messages(runs, tmp_path, monkeypatch):
    from experiment import checkpoints, rounds

    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)  # a checkpoint after every round
    play, calls = rounds.play, []

    def interrupted(*args, **options):
        calls.append(args[3])
        if calls == [1, 2]:
            raise KeyboardInterrupt
        return play(*args, **options)

    monkeypatch.setattr(rounds, "play", interrupted)
    words = ["fedavg", *FLAGS.split(), "--export_dir", str(tmp_path)]
    assert command.main(words) == 130
    assert command.main(words) == 0
    (again,) = saves.find(tmp_path)
    assert calls == [1, 2, 2]
    for name in ("recording-1.pt", "recording-2.pt"):
        assert again.digests[name] == runs["fedavg"].digests[name]


def test_a_plan_foretells_the_size_of_a_recording(capsys):
    words = ["fedavg", *FLAGS.split(), "--plan", "--json"]
    assert command.main(words) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["recording"] == sum(kind["run"] for kind in plan["bytes"].values())  # both rounds are recorded


# --- what an attacker sees ----------------------------------------------------------------------------------------------


def test_an_attacker_sees_no_seed_no_path_and_no_index(runs):
    view = Attacked(runs["data_exchange"], Path("data")).view("sent", "wire")
    assert not {"seed", "split_seed", "partition_file", "init_from", "clients"} & view.options.keys()
    assert view.networks == {}
    assert view.own is None
    kinds = {message.kind for message in view.messages}
    assert kinds == {"images", "weights"}
    shapes = {leaf.shape[1:] for m in view.messages if m.kind == "images" for leaf in leaves(m.content)}
    assert shapes == {view.shape, ()}  # images and labels


@pytest.mark.parametrize("name", ["fedavg", "cfkd", "fd", "fedproto", "data_exchange"])
def test_an_attack_does_not_change_with_the_private_data_after_the_recording(runs, name, monkeypatch):
    """Nothing but the messages leads from the clients' data to an attack."""
    attacked = Attacked(runs[name], Path("data"))
    public, _ = attacked.drawn
    first = {
        attack: ATTACKS[attack].attack(attacked.view("sent", "wire"), public, cheap_options(attack)) for attack in ATTACKS
    }
    load = saves.Run.data

    def without_private_data(run, data_dir):
        data, private = load(run, data_dir), torch.from_numpy(run.arrays("split")["train"]).long()
        x, y = data.x.clone(), data.y.clone()
        x[private], y[private] = 0, 0
        other = replace(data, x=x, y=y)
        other.__dict__["digest"] = data.digest  # the split is of the data as they were
        return other

    monkeypatch.setattr(saves.Run, "data", without_private_data)
    view = Attacked(runs[name], Path("data")).view("sent", "wire")
    for attack, before in first.items():
        again = ATTACKS[attack].attack(view, public, cheap_options(attack))
        for part, other in zip(before, again, strict=True):
            assert part.keys() == other.keys()
            assert all(torch.equal(part[k], other[k]) for k in part)


# --- the judge ----------------------------------------------------------------------------------------------------------


def drawn(runs) -> tuple[Public, judge.Truth]:
    return Attacked(runs["fedavg"], Path("data")).drawn


def test_strangers_have_the_class_counts_of_the_clients_examples_and_are_not_public(runs):
    public, truth = drawn(runs)
    everyone = {image.numpy().tobytes() for image in public.examples.x}
    for k, candidates in public.candidates.items():
        own = torch.from_numpy(truth.is_member[k])
        members, strangers = (torch.bincount(candidates.y[part], minlength=10).double() for part in (own, ~own))
        assert len(candidates.y) > own.sum() > 0
        enough = strangers >= members  # the digits have too few images of some classes for more
        ratios = (strangers / members)[enough & (members > 0)]
        assert ratios.max() <= ratios.min() * 40
        pixels = [image.numpy().tobytes() for image in candidates.x]
        assert len(set(pixels)) == len(pixels)
        assert not set(pixels) & everyone


def is_member(n_members: int = 300, n_strangers: int = 1000) -> np.ndarray:
    return np.arange(n_members + n_strangers) < n_members


def test_exposed_is_1_for_perfect_scores_and_0_for_constant_ones():
    truth = is_member()
    assert judge.exposure([torch.from_numpy(truth).float()], [truth]).exposed == 1
    constant = judge.exposure([torch.zeros(len(truth))], [truth])
    assert constant.exposed == pytest.approx(0, abs=1e-12)  # ties count half
    assert constant.auc == 0.5
    assert constant.low < 0 < constant.high
    assert judge.exposure([None], [truth]).exposed == pytest.approx(0, abs=1e-12)


def test_exposed_is_the_share_of_members_that_scores_above_nearly_all_strangers():
    truth = is_member()
    scores = torch.zeros(len(truth))
    scores[:75] = 1  # a quarter of the members, and no stranger; the others are tied at 0
    result = judge.exposure([scores], [truth])
    rate = 0.25 + 0.75 * 0.01
    assert result.exposed == pytest.approx((rate - 0.01) / 0.99)
    assert (result.n_members, result.n_strangers) == (300, 1000)


def test_random_scores_are_within_the_interval_of_chance():
    truth = is_member()
    n_outside = 0
    for seed in range(40):
        scores = torch.from_numpy(np.random.default_rng(seed).random(len(truth)))
        result = judge.exposure([scores], [truth])
        n_outside += not result.low <= 0 <= result.high
    assert n_outside <= 6  # 95 %, and the threshold is estimated too


def test_a_client_that_cannot_be_attacked_ranks_below_all_others():
    truth = [is_member(10, 50), is_member(10, 50)]
    result = judge.exposure([torch.from_numpy(truth[0]).float(), None], truth)
    assert result.exposed == pytest.approx((0.5 - 0.01) / 0.99, abs=0.02)


def test_a_label_mix_is_1_when_exact_and_0_when_public():
    public = Public(Labelled(torch.zeros(4, 1, 1, 1), torch.tensor([0, 0, 1, 1])), {})
    mixes = torch.tensor([[1.0, 0.0], [0.25, 0.75]], dtype=torch.float64)
    assert judge.label_mix(list(mixes), mixes, public) == 1
    assert judge.label_mix([None, None], mixes, public) == 0
    assert judge.label_mix([torch.tensor([3.0, 1.0]), None], mixes, public) == 0.25  # half the way for one of two clients
    assert judge.label_mix([None], public.mix(2)[None], public) is None  # nothing to learn


def test_images_score_candidates_by_their_distance_to_the_nearest_one(runs):
    public, truth = drawn(runs)
    exact = {k: candidates.x[torch.from_numpy(truth.is_member[k])] for k, candidates in public.candidates.items()}
    recording = Attacked(runs["fedavg"], Path("data")).view("sent", "wire")
    assert judge.verdict(Guess(images=exact), recording, public, truth)["exposed"] == 1
    some = dict.fromkeys(exact, public.examples.x[:50])
    chance = judge.verdict(Guess(images=some), recording, public, truth)
    assert chance["low"] <= 0 <= chance["high"]


# --- every attack -------------------------------------------------------------------------------------------------------


def changed(recording: Recording, function) -> Recording:
    messages = [m._replace(content=mapped(function, m.content)) for m in recording.messages]
    return replace(recording, messages=messages)


def of_other_clients(recording: Recording) -> Recording:
    def other(k: int) -> int:
        return k if k == SERVER else (k + 1) % 3

    messages = [m._replace(sender=other(m.sender), receiver=other(m.receiver)) for m in recording.messages]
    return replace(recording, messages=messages)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("method", METHODS)
def test_an_attack_is_at_its_baseline_on_recordings_that_reveal_nothing(runs, method, attack):
    attacked = Attacked(runs[method], Path("data"))
    recording, (public, truth) = attacked.view("sent", "wire"), attacked.drawn
    run_attack, options = ATTACKS[attack].attack, cheap_options(attack)
    assert run_attack(replace(recording, messages=[]), public, options) == Guess()
    for nothing in (changed(recording, torch.zeros_like), of_other_clients(recording)):
        numbers = judge.verdict(run_attack(nothing, public, options), nothing, public, truth)
        assert numbers.get("low", 0) <= 0
        assert (numbers.get("label_mix") or 0) <= 0.35


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("method", ["fedavg", "fedbabu"])
def test_an_attack_is_at_its_baseline_on_networks_that_were_not_trained(runs, method, attack):
    attacked = Attacked(runs[method], Path("data"))
    recording, (public, truth) = attacked.view("sent", "wire"), attacked.drawn

    def untrained(message: Message, draw: int) -> Message:
        if message.kind != "weights" or message.sender == SERVER:
            return message
        with streams.torch_seeded("untrained", draw, message.sender, message.round):
            network = models.make("MLP", recording.shape, len(recording.classes), recording.options["feature_dim"])
        return message._replace(content={name: network.state_dict()[name] for name in message.content})

    verdicts = []
    for draw in range(2):  # the interval leaves a chance of 2.5 % above it
        nothing = replace(recording, messages=[untrained(message, draw) for message in recording.messages])
        guess = ATTACKS[attack].attack(nothing, public, cheap_options(attack))
        verdicts.append(judge.verdict(guess, nothing, public, truth))
    assert min(numbers.get("low", 0) for numbers in verdicts) <= 0
    assert min(numbers.get("label_mix") or 0 for numbers in verdicts) <= 0.2


@pytest.mark.parametrize(
    ("method", "attack", "least"),
    [
        ("cfkd", "declared_labels", 1.0),
        ("fedproto", "declared_labels", 1.0),
        ("centralized", "declared_labels", 1.0),
        ("fedavg", "update_labels", 0.3),
        ("fednova", "update_labels", 0.3),
        ("fedbabu", "mean_predictions", 0.2),
    ],
)
def test_an_attack_finds_the_label_mix_that_a_method_reveals(runs, method, attack, least):
    numbers = Attacked(runs[method], Path("data")).case(Case("sent", "wire", attack))
    assert numbers["label_mix"] >= least


def test_class_outputs_find_a_mix_to_which_a_network_errs():
    mix = torch.tensor([0.6, 0.3, 0.1, 0.0])
    held = mix > 0
    means = held.unsqueeze(1) * (0.5 * torch.eye(4) + 0.5 * mix)
    message = Message(1, "up", "mean outputs", 0, SERVER, {"means": means, "held": held})
    guess = ATTACKS["class_outputs"].attack(recording_of([message], 4), None, None).mixes[0]
    assert guess[3] == 0
    assert (guess / guess.sum() - mix).abs().sum() / 2 < 0.15


def recording_of(messages, n_classes: int) -> Recording:
    classes = tuple(map(str, range(n_classes)))
    return Recording(messages, {"model": ["MLP"]}, (1, 1, 1), classes, torch.zeros(1), torch.ones(1))


def test_raw_images_are_found_exactly(runs):
    assert Attacked(runs["centralized"], Path("data")).case(Case("sent", "wire", "sent_images"))["exposed"] == 1


def test_the_bias_gives_the_mix_of_exact_steps():
    confusion, q = np.random.default_rng(0).dirichlet(np.ones(4), size=4), np.array([0.6, 0.3, 0.1, 0.0])
    change = 0.1 * (np.eye(4) - confusion.T) @ q
    assert update_labels.solved(confusion, change, 0.1) == pytest.approx(q)
    assert update_labels.solved(confusion, change) == pytest.approx(q)  # a class is absent, as the answer assumes
    balanced = np.full(4, 0.25)
    change = 0.1 * (np.eye(4) - confusion.T) @ balanced
    assert update_labels.solved(confusion, change, 0.1) == pytest.approx(balanced)
    assert update_labels.solved(confusion, change) != pytest.approx(balanced)


# --- results, tables and the command ------------------------------------------------------------------------------------


def test_the_command_attacks_each_run_once_keeps_the_results_and_shows_them(runs, capsys, monkeypatch):
    folder = str(runs["fedavg"].folder.parent)
    __main__.main([folder, "--attacks", "declared_labels", "sent_images", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == len(METHODS) * 2 * 2
    monkeypatch.setattr(Attacked, "case", lambda self, case: pytest.fail("attacked again"))
    __main__.main([folder, "--attacks", "declared_labels", "sent_images"])
    text = capsys.readouterr().out
    assert "centralized" in text
    assert max(map(len, text.splitlines())) <= 100
    saves.verify(runs["fedavg"])


def test_a_plan_says_what_is_missing_and_how_long_it_took_elsewhere(runs, tmp_path, capsys):
    run, cases = runs["fedproto"], results.cases_of(["sent_images"], ["wire"])
    results.run_attacks(run, cases, Path("data"))
    saved = json.loads((run.folder / saves.LEAKAGE).read_text())
    saved["results"]["sent wire sent_images"]["seconds"] = 90.0
    saves.write_json(run.folder / saves.LEAKAGE, saved)
    (other := tmp_path / run.folder.name).mkdir()
    for path in run.folder.iterdir():
        if path.name != saves.LEAKAGE:
            (other / path.name).write_bytes(path.read_bytes())
    both = [run, saves.load(other)]
    assert results.estimate(both, cases[:1], {}) == (1, 90.0, [])
    assert results.estimate([both[1]], cases[:1], {}) == (1, 0.0, ["sent wire sent_images"])
    __main__.main([str(other), "--attacks", "sent_images", "--plan"])
    assert "2 of 2 attacks are missing" in capsys.readouterr().out
    assert both[1].leakage() == {}, "nothing was attacked"


def test_options_of_an_attack_are_part_of_its_result(runs):
    run, cases = runs["fednova"], results.cases_of(["update_matching"], ["wire"])[:1]
    chosen = options_from(["update_matching.iterations=1", "update_matching.tv=0"])
    assert chosen["update_matching"] == replace(options_of("update_matching"), iterations=1, tv=0.0)
    results.run_attacks(run, cases, Path("data"), options=chosen)
    assert run.leakage()["sent wire update_matching"]["options"]["iterations"] == 1
    assert results.missing_of(run, cases, chosen) == []
    assert results.missing_of(run, cases) == cases


def test_a_table_shows_the_best_attack_and_a_run_that_sends_nothing_leaks_nothing(runs):
    attacks = ["declared_labels", "sent_images"]
    for name in ("cfkd", "independent", "centralized"):
        results.run_attacks(runs[name], results.cases_of(attacks, ["wire"]), Path("data"))
    chosen = [runs[name] for name in ("cfkd", "independent", "centralized")]
    assert [leaked([run], "exposed")[0] for run in chosen] == [0, 0, 1]
    assert [leaked([run], "label_mix")[0] for run in chosen] == [1, 0, 1]
    assert leaked([runs["cfkd"]], "exposed", "sent", "network") is None  # this was not tried
    (table,) = compare(chosen, columns=["exposed", "label_mix"]).tables
    by_method = {row["algorithm"].value: row["exposed"].value for row in table.rows}
    assert by_method == {"cfkd": 0, "independent": 0, "centralized": 100}


def test_results_of_other_files_do_not_count(runs, tmp_path):
    run = runs["independent"]
    results.run_attacks(run, results.cases_of(["sent_images"], ["wire"]), Path("data"))
    assert run.leakage()
    saved = json.loads((run.folder / saves.LEAKAGE).read_text())
    saves.write_json(run.folder / saves.LEAKAGE, {**saved, "run": "0" * 64})
    assert run.leakage() == {}
    saves.write_json(run.folder / saves.LEAKAGE, saved)


def test_an_attack_of_a_users_file_takes_part(runs, tmp_path, capsys):
    file = tmp_path / "largest_class.py"
    file.write_text(
        '"""Everybody has class 0."""\nimport torch\nfrom attacks.knowledge import Guess\n\n\n'
        "def attack(recording, public, options):\n    return Guess(mixes={k: torch.eye(10)[0] for k in public.candidates})\n"
    )
    try:
        __main__.main([str(runs["fedavg"].folder), "--plugin", str(file), "--attacks", "largest_class", "--json"])
        row = json.loads(capsys.readouterr().out.splitlines()[0])
        assert row["attack"] == "largest_class"
        assert row["label_mix"] <= 1
    finally:
        ATTACKS.pop("largest_class", None)
        plugins.LOADED.pop("largest_class", None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["RUN", "--attacks", "nothing"], "--attacks nothing: must be one of "),
        (["RUN", "--knows", "all"], "invalid choice: 'all'"),
        (["RUN", "--set", "lyra.n_shadows=1"], "--set lyra.n_shadows=1: lyra is no attack; did you mean lira?"),
        (["RUN", "--set", "lira.n=1"], "--set lira.n=1: must be one of lira.n_shadows=8, "),
        (["RUN", "--set", "lira.n_shadows=few"], "--set lira.n_shadows=few: must be a whole number"),
        (["RUN", "--set", "sent_images.n=1"], "--set sent_images.n=1: sent_images has no options"),
    ],
)
def test_a_mistake_is_one_line(runs, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        __main__.main([str(runs["fedavg"].folder) if word == "RUN" else word for word in words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_without_a_recording_says_what_to_do(runs, tmp_path):
    flags = FLAGS.replace("--record_wire first,last", "").replace("--rounds 2", "--rounds 1").split()
    assert command.main(["fedavg", *flags, "--export_dir", str(tmp_path)]) == 0
    (plain,) = saves.find(tmp_path)
    line = line_of(Attacked(plain, Path("data")).case, Case("sent", "wire", "sent_images"))
    assert line.endswith("has no recorded messages; rerun it with --record_wire first,last")
