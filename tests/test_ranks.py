"""One run on the ranks of a torchrun: who does which clients, the same bits, and what happens where a rank fails or dies."""

import json
import pickle
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT, default_signals
from hypothesis import given
from hypothesis import strategies as st
from on_ranks import run_case
from test_algorithms import MODULES

import run as command
import saves
from checks.hard.methods import apart
from errors import UserError
from federation import ranks
from launch import launch, scheduling
from options import Launch

QUICK = "--n_clients 5 --rounds 2 --reduced 0.2 --partition lda --alpha 0.5"
LONG = "fedavg --n_clients 4 --epoch_per_round 1 --model MLP --lr 1e-4 --track_history 0"


def torchrun(n, *words, **flags):
    """A command on n ranks of this machine."""
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(n), "--standalone"]
    with default_signals():
        return subprocess.Popen(
            [*start, *map(str, words)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **flags
        )


def ended(process, seconds=120):
    """(its exit status, what it printed, what it complained of)."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def ranks_of(process):
    """The processes of the ranks, the leader first."""
    results = [p for p in psutil.Process(process.pid).children(recursive=True) if "run.py" in " ".join(p.cmdline()[:4])]
    return sorted(results, key=lambda p: int(p.environ()["RANK"]))


def until(holds, process, seconds=60):
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.1)


def runs_in(folder):
    return {path.parent.name: saves.load(path.parent) for path in folder.glob("*/done")}


# --- who does what ---


def as_rank(monkeypatch, rank, world):
    for name, value in {"TORCHELASTIC_RUN_ID": "one", "WORLD_SIZE": world, "RANK": rank, "LOCAL_WORLD_SIZE": world}.items():
        monkeypatch.setenv(name, str(value))


def test_without_torchrun_there_is_one_rank_which_leads(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # as other launchers may set it
    assert (ranks.world(), ranks.rank(), ranks.on_this_machine()) == (1, 0, 1)


def test_the_longest_are_dealt_first_to_the_rank_that_is_done_first(monkeypatch):
    as_rank(monkeypatch, 0, 2)
    assert ranks.Ranks().dealt("train", [0, 1, 2, 3], [10, 40, 20, 30]) == [[1, 0], [3, 2]]


def test_where_times_are_known_they_count_and_not_the_examples(monkeypatch):
    as_rank(monkeypatch, 0, 2)
    those = ranks.Ranks()
    those._seconds = {("train", 0): 5.0, ("train", 1): 2.0, ("train", 2): 2.0, ("test", 3): 9.0}
    assert those.dealt("train", [0, 1, 2], [10, 40, 20]) == [[0], [1, 2]]
    # client 3 has 14 examples, for each of which the others take 9/70 of a second: 1.8 seconds
    assert those.dealt("train", [0, 1, 2, 3], [10, 40, 20, 14]) == [[0], [1, 2, 3]]


def test_a_rank_with_more_workers_has_more_clients(monkeypatch):
    as_rank(monkeypatch, 0, 2)
    those = ranks.Ranks()
    those._workers = [3, 1]
    assert [len(places) for places in those.dealt("train", range(8), [1] * 8)] == [6, 2]


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(2, 5))
def test_every_client_is_dealt_once_and_no_rank_has_a_client_too_many(examples, world):
    with pytest.MonkeyPatch.context() as patch:
        as_rank(patch, 0, world)
        dealt = ranks.Ranks().dealt("train", range(len(examples)), examples)
    assert sorted(sum(dealt, [])) == list(range(len(examples)))
    loads = [sum(examples[place] for place in places) for places in dealt]
    for places, load in zip(dealt, loads, strict=True):
        if places:
            assert load - examples[places[-1]] <= min(loads), "its last one was not for another"


def test_ranks_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.undo()  # of one core for all tests
    alone = scheduling.cores()
    as_rank(monkeypatch, 0, 2)
    assert scheduling.cores() == max(1, alone // 2)


@pytest.mark.parametrize("flags", [{"jobs": 2}, {"ray": "local"}])
def test_runs_side_by_side_are_refused(flags, monkeypatch):
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(UserError, match="not supported by torchrun, whose 2 ranks"):
        list(launch([], Launch(**flags)))


def test_a_cuda_device_is_refused(monkeypatch):
    as_rank(monkeypatch, 0, 2)
    with pytest.raises(UserError, match="--device cuda: not supported by torchrun"):
        list(launch([SimpleNamespace(options=SimpleNamespace(device="cuda:0"))], Launch()))


# --- the same bits ---


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """A file of what every algorithm leaves without ranks."""
    file = tmp_path_factory.mktemp("expected") / "played"
    file.write_bytes(pickle.dumps({case: run_case(case) for case in MODULES}))
    return file


# more ranks than cores take long: a method with a server, a method without, and a method with a server that trains
@pytest.mark.parametrize(("n", "cases"), [(2, list(MODULES)), (4, ["fedavg", "dpsgd", "fedgkt"])])
def test_every_algorithm_is_the_same_bits_and_the_same_counts_on_every_rank(n, cases, expected, tmp_path):
    code, out, err = ended(torchrun(n, "tests/on_ranks.py", expected, tmp_path / "rank", *cases), 300)
    assert code == 0, err
    for rank in range(n):
        assert json.loads((tmp_path / f"rank{rank}").read_text()) == {case: [] for case in cases}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Runs of three algorithms, without ranks, in this process."""
    folder = tmp_path_factory.mktemp("alone")
    line = f"fedavg cfkd fedbabu --ft_epochs 1 {QUICK} --quiet --jobs 1 --workers 1 --export_dir {folder}"
    assert command.main(line.split()) == 0
    return runs_in(folder)


def test_runs_of_two_ranks_with_workers_leave_the_same_files_and_say_the_same_once(alone, tmp_path):
    line = f"fedavg cfkd fedbabu --ft_epochs 1 {QUICK} --workers 2 --json --export_dir {tmp_path}"
    code, out, err = ended(torchrun(2, "run.py", *line.split()))
    assert code == 0, err
    assert [json.loads(line)["algorithm"] for line in out.splitlines()] == ["fedavg", "cfkd", "fedbabu"]
    runs = runs_in(tmp_path)
    assert sorted(runs) == sorted(alone)
    for name, run in runs.items():
        assert apart(alone[name], run) == []


# --- where a rank fails or dies ---


# what is otherwise on rank 1, in its command alone: (what is put there, and words of the reason that is told)
FAILING = {
    "the data": ({"experiment.preparation.data_of": "fails"}, "ZeroDivisionError"),
    "the identity": ({"experiment.identity._digest": "other"}, "must be the same on all ranks"),
    "a round": (
        dict.fromkeys(("federation.Federation.server", "federation.Federation.sample"), "fails"),
        "ZeroDivisionError",
    ),
    "a client": ({"federation.local.OPTIMIZERS": "empty"}, "KeyError"),
}
BOTH = "fedavg independent"
COMMANDS = {"all ranks": ("fedavg --lr 1e30 0.01 --optimizer sgd", {})} | {
    title: (BOTH, otherwise) for title, (otherwise, _) in FAILING.items()
}
IN_TURN = """
import contextlib, json, logging, os, sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, os.getcwd())
import run

put = {"fails": lambda *_: 1 / 0, "other": lambda parts: "other", "empty": {}}
place = Path(sys.argv[1])
for title, (words, otherwise) in json.loads((place / "commands").read_text()).items():
    logging.getLogger().handlers.clear()  # of the command before
    with contextlib.ExitStack() as stack:
        for target, what in otherwise.items() if os.environ["RANK"] == "1" else ():
            stack.enter_context(mock.patch(target, put[what]))
        err = stack.enter_context((place / f"{title} {os.environ['RANK']}").open("w"))
        stack.enter_context(contextlib.redirect_stderr(err))
        status = run.main([*words.split(), "--export_dir", str(place / title)])
        print(status, file=err)
sys.exit(status)
"""


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """{a command of COMMANDS: (the leader's exit status, what both ranks tell on standard error, its runs)}; two ranks carry
    them all out, since it takes these seconds to begin."""
    place = tmp_path_factory.mktemp("told")
    (place / "script.py").write_text(IN_TURN)
    lines = {title: (f"{words} {QUICK} --quiet", otherwise) for title, (words, otherwise) in COMMANDS.items()}
    (place / "commands").write_text(json.dumps(lines))
    code, _, err = ended(torchrun(2, place / "script.py", place))
    assert code == 1, err
    results = {}
    for title in COMMANDS:
        both = [(place / f"{title} {rank}").read_text().splitlines() for rank in (0, 1)]
        of_leader, _ = (int(lines.pop()) for lines in both)
        results[title] = of_leader, sum(both, []), runs_in(place / title)
    return results


def test_a_run_that_fails_on_all_ranks_stops_no_other(failures):
    status, lines, created = failures["all ranks"]
    assert status == 1
    assert "\n".join(lines).count("a smaller --lr") == 1
    assert len(created) == 1


@pytest.mark.parametrize("where", FAILING)
def test_what_fails_on_one_rank_alone_is_told_by_the_leader(where, failures):
    status, lines, _ = failures[where]
    assert status == 1
    of_rank_1 = [line for line in lines if line.startswith("run.py: rank 1 of 2 (")]
    assert len(of_rank_1) == 2, "of each run"
    assert all(FAILING[where][1] in line for line in of_rank_1), of_rank_1


def test_a_rank_that_is_killed_costs_what_is_not_saved_and_torchrun_goes_on(tmp_path):
    line = f"{LONG} --rounds 120"
    process = torchrun(2, "--max-restarts", 1, "run.py", *line.split(), "--export_dir", tmp_path)
    until(lambda: list(tmp_path.glob("*/checkpoint-*.pt")), process)
    ranks_of(process)[1].send_signal(signal.SIGKILL)
    code, out, err = ended(process)
    assert code == 0, err
    assert "resumed after round" in err
    (shared,) = runs_in(tmp_path).values()
    assert command.main(f"{line} --quiet --jobs 1 --workers 1 --export_dir {tmp_path / 'alone'}".split()) == 0
    assert apart(runs_in(tmp_path / "alone")[shared.folder.name], shared) == []


def test_told_to_stop_all_ranks_end_and_the_last_finished_round_is_saved(tmp_path):
    process = torchrun(2, "run.py", *f"{LONG} --rounds 100000 --export_dir {tmp_path}".split())
    until(lambda: any(len(path.read_text().splitlines()) > 3 for path in tmp_path.glob("*/history.csv")), process)
    those = ranks_of(process)
    process.terminate()
    code, out, err = ended(process)
    assert code != 0
    assert err.count("resume after the last finished round") == 1
    assert not psutil.wait_procs(those, timeout=20)[1]
    (folder,) = (path.parent for path in tmp_path.glob("*/checkpoint-*.pt"))
    assert saves.saved_round(folder) > 0
