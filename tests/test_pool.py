"""Clients side by side: how tensors travel, who works, what ends, and that a run's files are the same."""

import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ROOT, default_signals, tiny_federation
from hypothesis import given, settings
from hypothesis import strategies as st

import algorithms
import commandline
import experiment
import saves
from checks.hard import methods
from errors import DivergedError, LostError
from experiment import evaluation
from federation import scratch
from federation.pool import Pool, context_of_workers, packed
from helpers import EVALUATION_BATCH
from launch import scheduling

QUICK = "--n_clients 4 --rounds 2 --reduced 0.2 --partition lda --alpha 0.5"


def prepared(folder, line):
    """The experiment of a command line."""
    classes = algorithms.all_options()
    (run,), launch_options, _ = commandline.parse(
        [*line.split(), "--export_dir", str(folder)], classes, dict.fromkeys(classes, "")
    )
    return experiment.prepare(run, launch_options)


# --- how tensors travel ---


def laid_out(shape, order, dtype, gap):
    """A tensor whose dimensions lie in memory in that order, with a gap between rows where `gap` says so."""
    whole = torch.randn([shape[d] for d in order]).mul(100).to(dtype)
    if gap:
        whole = torch.stack([whole, whole], -1)[..., 0]
    return whole.permute([order.index(d) for d in range(len(order))])


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_tensor_arrives_with_its_bits_type_and_strides_in_aligned_memory_of_its_own(data):
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    order = data.draw(st.permutations(range(len(shape))))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8]))
    sent = laid_out(shape, order, dtype, gap=data.draw(st.booleans()))
    got = pickle.loads(packed(sent))
    assert got.dtype == sent.dtype
    assert torch.equal(got, sent)
    assert got.stride() == sent.clone().stride(), "as torch lays out a copy: with the same strides where there are no gaps"
    assert got.data_ptr() % 64 == 0
    assert got.untyped_storage().nbytes() == got.nbytes


def test_what_holds_tensors_arrives_too():
    model = tiny_federation(dtype=torch.float32).skeletons[0].requires_grad_(True)
    next(model.parameters()).requires_grad_(False)
    sent = {"model": model, "rows": [(torch.arange(3), None), "words"], "double": lambda x: 2 * x}
    got = pickle.loads(packed(sent))
    assert got["double"](4) == 8
    assert torch.equal(got["rows"][0][0], torch.arange(3))
    for item, other in zip(model.parameters(), got["model"].parameters(), strict=True):
        assert torch.equal(item, other)
        assert item.requires_grad == other.requires_grad
        assert item.stride() == other.stride()


def test_a_sent_tensor_is_about_as_long_as_its_bytes():
    assert len(packed(torch.zeros(100_000))) < 4 * 100_000 + 500


# --- who works ---


@pytest.fixture(scope="module")
def crowd():
    """A tiny federation with two workers."""
    federation = tiny_federation()
    pool = Pool(federation, tiny_federation, n=2)
    pool.wait()
    yield replace(federation, pool=pool)
    pool.close()


def whoever(federation, k, *row):
    return os.getpid(), k, federation.round, federation.party, row


def test_several_clients_go_to_the_workers_in_their_order_and_one_or_a_server_stays(crowd):
    here = os.getpid()
    done = crowd.at(3).with_party("somebody").map_clients(whoever, [0, 2], ["none", "two"])  # the second has more examples
    assert [rest for _, *rest in done] == [[0, 3, "somebody", ("none",)], [2, 3, "somebody", ("two",)]]
    assert here not in [pid for pid, *_ in done]
    assert crowd.map_clients(whoever, [1]) == [(here, 1, 0, "client", ())]
    assert [pid for pid, *_ in replace(crowd, threads=2).with_party("server").map_clients(whoever, [0, 1])] == [here, here]


def test_what_is_seen_otherwise_is_seen_so_by_the_workers(crowd):
    shares = (torch.tensor([5]), torch.tensor([6, 7]), torch.tensor([], dtype=torch.int64))
    options = replace(crowd, shares=shares).map_clients(lambda federation, k: federation.shares[k], [0, 1, 2])
    assert [item.tolist() for item in options] == [[5], [6, 7], []]
    assert len(crowd.map_clients(lambda federation, k: federation.shares[k], [0, 1])[1]) == 20, "for that call alone"


def test_streams_are_those_of_the_round_and_the_client(crowd):
    def draw(federation, k):
        return federation.stream("batches", k).random()

    alone = replace(crowd, pool=None)
    assert crowd.at(2).map_clients(draw, [0, 1, 2]) == alone.at(2).map_clients(draw, [0, 1, 2])


def test_the_workers_counts_are_added_once(crowd):
    def spend(federation, k):
        federation.meter.spent["steps", federation.party, k] += k + 1

    for _ in range(2):
        crowd.map_clients(spend, [0, 1, 2])
    assert {k: crowd.meter.spent["steps", "client", k] for k in range(3)} == {0: 2, 1: 4, 2: 6}


def test_an_error_of_a_clients_work_is_an_error_of_the_round(crowd):
    def diverge(federation, k):
        raise DivergedError(f"client {k} is lost")

    with pytest.raises(DivergedError, match="client 1 is lost"):
        crowd.map_clients(diverge, [1, 2])
    assert len(crowd.map_clients(whoever, [0, 1])) == 2, "and the workers go on"


def test_until_they_are_there_the_work_is_done_here():
    federation = tiny_federation()
    pool = Pool(federation, partial(time.sleep, 60), n=2)
    try:
        assert not pool.is_ready
        assert replace(federation, pool=pool).map_clients(whoever, [0, 1])[0][0] == os.getpid()
    finally:
        pool.close()


def test_a_worker_that_is_killed_ends_the_run_with_an_error():
    federation = tiny_federation()
    pool = Pool(federation, tiny_federation, n=2)
    try:
        pool.wait()
        with pytest.raises(LostError, match="a worker process was killed"):
            replace(federation, pool=pool).map_clients(lambda federation, k: os.kill(os.getpid(), signal.SIGKILL), [0, 1])
    finally:
        pool.close()


def half_an_answer(message, federation, k):
    """Begin to answer, as with rows that take a while to be written, and say so in a file."""
    frame = sys._getframe()
    while "result_queue" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["result_queue"]._writer.fileno(), struct.pack("!i", 1000) + b"half")
    (message / str(k)).touch()
    time.sleep(60)


def test_workers_that_end_in_the_middle_of_an_answer_hold_nobody_up(tmp_path):
    federation = tiny_federation()
    pool = Pool(federation, tiny_federation, n=2)
    pool.wait()
    options = partial(replace(federation, pool=pool).map_clients, partial(half_an_answer, tmp_path), [0, 1])
    with ThreadPoolExecutor(1) as aside:
        answers = aside.submit(options)
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.01)
        closing = threading.Thread(target=pool.close, daemon=True)
        closing.start()
        closing.join(30)
        assert not closing.is_alive()
        assert isinstance(answers.exception(), LostError)


# --- a run ---


@pytest.mark.parametrize(
    "line", ["fedbabu --model LeNet5 --ft_epochs 1 --validation 0.2", "cfkd --model LeNet5,ResNet4 --feature_dim 16"]
)
def test_a_run_with_workers_leaves_the_same_files(line, tmp_path, monkeypatch):
    alone = experiment.run(prepared(tmp_path / "a", f"{line} {QUICK}"))
    monkeypatch.setattr(Pool, "is_ready", property(lambda pool: pool.wait() or True))
    monkeypatch.setattr(evaluation, "PART", EVALUATION_BATCH)  # of 360 test images: two parts
    crowd = experiment.run(replace(prepared(tmp_path / "b", f"{line} {QUICK}"), workers=2))
    assert crowd.folder.name == alone.folder.name
    assert methods.apart(alone, crowd) == []


def test_closed_workers_are_gone_and_so_is_the_file_of_the_data(tmp_path):
    before = set(psutil.Process().children(recursive=True))
    run_experiment = replace(prepared(tmp_path / "runs", f"fedavg {QUICK}"), workers=2)
    with experiment.preparation.at_work(run_experiment) as federation:
        federation.pool.wait()
        pids = {pid for pid, *_ in federation.map_clients(whoever, [0, 1, 2, 3])}
        assert list(scratch.of_process().glob("*/data.pt"))
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not list(scratch.of_process().glob("*/data.pt"))
    left = set(psutil.Process().children(recursive=True)) - before
    assert [p for p in left if "from multiprocessing" not in " ".join(p.cmdline())] == [], "but for the two of the library"


LONG = "fedavg --n_clients 4 --rounds 100000 --model MLP --lr 1e-4 --jobs 2 --workers 2 --track_history 0 --quiet"


def started(folder, temporary):
    words = [sys.executable, "run.py", *LONG.split(), "--export_dir", str(folder)]
    with default_signals():
        process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(temporary)})
    parent = psutil.Process(process.pid)
    deadline = time.monotonic() + 60
    while sum(map(has_the_data, workers_of(parent))) < 2 or not list(folder.glob("*/history.csv")):
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.1)
    return process, workers_of(parent)


def has_the_data(worker):
    """Whether it has begun: the first thing that it does is to ignore signals."""
    try:
        return any(mapped.path.endswith("data.pt") for mapped in worker.memory_maps())
    except psutil.Error:
        return False


def workers_of(parent):
    """The processes that a server has forked."""
    try:
        servers = [p for p in parent.children() if "forkserver" in " ".join(p.cmdline())]
        return [worker for server in servers for worker in server.children()]
    except psutil.Error:  # one that has just ended
        return []


@pytest.fixture
def temporary():
    """A folder for temporary files, whose name is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_no_worker_and_no_file_outlives_a_killed_parent(temporary, tmp_path):
    process, workers = started(tmp_path / "runs", temporary)
    process.kill()
    process.wait()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_to_all_processes_saves_the_last_finished_round(name, code, temporary, tmp_path):
    """As a terminal and a batch system send it."""
    process, workers = started(tmp_path / "runs", temporary)
    for worker in workers:
        worker.send_signal(getattr(signal, name))
    time.sleep(1)  # the run notices nothing
    process.send_signal(getattr(signal, name))
    assert process.wait(30) == code
    output = process.stderr.read().decode()
    assert "resume after the last finished round" in output
    assert "Traceback" not in output, output
    assert not psutil.wait_procs(workers, timeout=20)[1]
    (folder,) = {path.parent for path in (tmp_path / "runs").glob("*/checkpoint-*.pt")}
    assert saves.saved_round(folder) > 0


# --- how many ---


def test_auto_is_the_cores_of_a_long_run_and_typed_is_as_typed(tmp_path):
    short = prepared(tmp_path, f"fedavg {QUICK}")
    long = prepared(tmp_path, "fedavg --n_clients 4 --rounds 1000 --model LeNet5")
    assert scheduling.work_of(short) < scheduling.LONG < scheduling.work_of(long)
    assert scheduling.workers_of(short, "auto", cores=2) == 1
    assert scheduling.workers_of(long, "auto", cores=2) == 2
    assert scheduling.workers_of(long, "auto", cores=1) == 1
    assert scheduling.workers_of(long, "auto", cores=8) == 4, "no more than clients"
    assert scheduling.workers_of(short, 2, cores=1) == 2
    few = prepared(tmp_path, "fedavg --n_clients 10 --participation 0.35 --rounds 1000")
    assert scheduling.workers_of(few, "auto", cores=8) == 3
    on_cuda = replace(long, options=replace(long.options, device="cuda:0"))
    assert scheduling.workers_of(on_cuda, 4, cores=4) == 1


def test_where_a_server_of_workers_cannot_be_they_begin_from_nothing(monkeypatch):
    """A socket's name is short, and TMPDIR may be long."""

    def ensure_running():
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", ensure_running)
    assert context_of_workers().get_start_method() == "spawn"


def test_a_run_takes_the_cores_of_its_workers_or_threads(tmp_path):
    run_experiment = prepared(tmp_path, f"fedavg {QUICK} --threads 2")
    assert [replace(run_experiment, workers=n).cores for n in (1, 2, 3)] == [2, 2, 3]
