"""The rounds of an experiment, what each leaves in the history, and how a run is saved and resumed."""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import figures.exchange
import figures.split
import saves
from data import partition
from errors import DivergedError
from evaluation import evaluate, personalise
from experiment import identity
from experiment.preparation import Experiment, federation_of
from federation import Federation, computing_with
from helpers import Round, cross_entropy
from options import Options

CHECKPOINT_SECONDS = 60  # at most this much work is lost when a run is killed, or the round it was in
log = logging.getLogger("chorus")
log.setLevel(logging.DEBUG)  # a run's log gets all of it; what is shown is decided in run.py


def run(
    experiment: Experiment, force: bool = False, watch: Callable[[dict[str, float] | str], None] = lambda row: None
) -> saves.Run:
    """Carry the experiment out, or go on with it, and save it; a finished run is returned as it is.

    `watch` is called after each round with its row of the history, and with words while clients fine-tune. Raises
    DivergedError when a training loss is not finite.
    """
    folder = experiment.folder
    with saves.locked(folder):
        if force:
            saves.clear(folder)
        if (folder / "done").exists():
            return saves.load(folder)
        with _logged(folder / "run.log", experiment.data.unverified):
            _begin(experiment)
            with computing_with(1):  # what is not a server's phase or an evaluation, whatever the process has
                _rounds(experiment, watch)
            _finish(experiment)
    return saves.load(folder)


@contextmanager
def _logged(path: Path, unverified: str) -> Iterator[None]:
    """Inside, the command, warnings and tracebacks go to the run's log as well."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    log.debug("%s in %s", " ".join(sys.argv), Path.cwd())
    if unverified:
        log.debug("unverified data: %s", unverified)
    try:
        yield
    except BaseException:
        log.debug("stopped", exc_info=True)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def _begin(experiment: Experiment) -> None:
    saves.write_json(experiment.folder / "config.json", experiment.config)
    draw_split(experiment, experiment.folder, "split")


def draw_split(experiment: Experiment, folder: Path, stem: str = "") -> Path:
    """Save the split as `stem.npz` in a folder and draw it beside as `stem.png`, which is returned. Without a stem it is
    named by the data set, the partition and the split's digest."""
    options, split = experiment.options, experiment.split
    npz = folder / f"{stem or f'split-{identity.stem(experiment.data.name)}-{options.partition}-{split.digest}'}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    saves.write_arrays(npz, partition.arrays(experiment.data, split))
    figures.split.draw(npz, npz.with_suffix(".png"))
    return npz.with_suffix(".png")


def _rounds(experiment: Experiment, watch: Callable[[dict[str, float] | str], None]) -> None:
    options, module, folder = experiment.options, experiment.module, experiment.folder
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    federation = federation_of(experiment)
    with FlopCounterMode(display=False):  # torch imports much at its first count, which is none of a round's seconds
        torch.zeros(1).add(1)
    saved = saves.read_checkpoint(folder)
    if saved is None:
        began = time.perf_counter()
        state = module.start(federation, options)
        history = [_entry(federation, 0, Round([], torch.zeros(0), {}), {}, {}, time.perf_counter() - began, 0.0)]
        first = 1
    else:
        state, history, first = _to(saved["state"], federation.device), saved["history"], saved["round"] + 1
        log.info("%s: resumed after round %d of %d", folder.name, saved["round"], options.rounds)

    written = time.perf_counter()
    for r in range(first, options.rounds + 1):
        before = dict(state), list(history)
        try:
            began = time.perf_counter()
            done = module.communicate(federation.at(r), state, options)
            _check(options, r, done)
            trained = time.perf_counter()
            evaluated = ({}, {})
            if r == options.rounds or (options.track_history and r % options.track_history == 0):
                evaluated = evaluate(federation, experiment.split, done)
            if r == options.rounds and options.ft_epochs:
                loss = getattr(module, "tuning_loss", cross_entropy)
                tuned = personalise(federation, experiment.split, done, options, loss, watch)
                evaluated = tuple({**one, **other} for one, other in zip(evaluated, tuned, strict=True))
            spent = time.perf_counter() - trained
            history.append(_entry(federation, r, done, *evaluated, trained - began, spent))
        except KeyboardInterrupt:
            saves.write_tensors(folder / "checkpoint.pt", {"round": r - 1, "state": before[0], "history": before[1]})
            raise
        if r == options.rounds:
            saves.write_tensors(folder / "weights.pt", _final_weights(federation, done))
        if r == options.rounds or time.perf_counter() - written >= CHECKPOINT_SECONDS:
            saves.write_tensors(folder / "checkpoint.pt", {"round": r, "state": state, "history": history})
            written = time.perf_counter()
        watch(history[-1]["round"])


def _to(tree: Any, device: torch.device) -> Any:
    if isinstance(tree, dict):
        return {key: _to(value, device) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_to(value, device) for value in tree]
    return tree.to(device) if isinstance(tree, Tensor) else tree


def _check(options: Options, r: int, done: Round) -> None:
    losses = dict(zip([f"client {k}" for k in done.clients] or ["the server"], done.loss.tolist(), strict=True))
    if "server_loss" in done.told:
        losses["the server"] = done.told["server_loss"]
    wrong = [who for who, value in losses.items() if not math.isfinite(value)]
    if wrong:
        raise DivergedError(
            f"{options.algorithm}: the training loss of {wrong[0]} is {losses[wrong[0]]} in round {r}; "
            f"nothing after it would mean anything; a smaller --lr (it is {options.lr:g}) may help"
        )


def _entry(federation: Federation, r: int, done: Round, of_round: dict, of_clients: dict, seconds: float, evaluation: float):
    """A round's part of the history, as plain numbers and tensors; see `saves.frame_of`."""
    crossed = federation.wire.collect()
    effort, columns = dict(federation.effort), {}
    federation.effort.clear()
    counted = ("bytes_up", "bytes_down", "bytes_between", "steps", "samples", "flops")
    totals: dict[str, float] = dict.fromkeys(counted, 0)

    def count(name: str, client: int | None, amount: int) -> None:
        totals[name] = totals.get(name, 0) + amount
        if client is not None:
            columns.setdefault(name, {}).setdefault(client, 0)
            columns[name][client] += amount

    for (direction, kind), by_client in crossed.items():
        for client, nbytes in by_client.items():
            count(f"bytes_{direction}", client, nbytes)
            count(f"bytes_{direction}:{kind}", client, nbytes)
    for (what, party, client), amount in effort.items():
        count(what, client if party == "client" else None, amount)
        if (what, party) == ("flops", "server"):
            count("flops:server", None, amount)
    columns["loss"] = dict(zip(done.clients, done.loss.tolist(), strict=False))
    columns.update(of_clients)
    columns.update({name: told for name, told in done.told.items() if isinstance(told, dict)})
    of_all = {name: told for name, told in done.told.items() if not isinstance(told, dict)}
    present = sorted({client for column in columns.values() for client in column})
    clients = {
        name: torch.tensor([column.get(k, math.nan) for k in present], dtype=torch.float64)
        for name, column in columns.items()
    }
    clients["client"] = torch.tensor(present, dtype=torch.int64)
    loss = done.loss.mean().item() if len(done.loss) else math.nan
    timing = dict(
        zip(saves.TIMING, (seconds, federation.clock.pop("train_seconds", 0.0), evaluation, _peak(federation)), strict=True)
    )
    return {"round": {"round": r, "loss": loss, **totals, **of_round, **of_all, **timing}, "clients": clients}


def _peak(federation: Federation) -> float:
    """Bytes of memory at most: of the CUDA device since the last call, or of this process since it began."""
    if federation.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(federation.device)
        torch.cuda.reset_peak_memory_stats(federation.device)
        return float(peak)
    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)


def _final_weights(federation: Federation, done: Round) -> dict[str, Any]:
    """{answer: weights}, or rows of weights where every client has its own."""

    def weights(answer: Callable, k: int) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in answer(k).state_dict().items()}

    return {
        name: weights(answer, 0) if name == "global" else [weights(answer, k) for k in federation.clients]
        for name, answer in done.answers.items()
    }


def _finish(experiment: Experiment) -> None:
    """Derive from the checkpoint what people open, and say that the run is done."""
    from saves import workbook  # openpyxl and pandas, not before they are needed

    folder = experiment.folder
    checkpoint = saves.read_checkpoint(folder)
    saves.write_frame(folder / "history.pkl", saves.frame_of(checkpoint["history"]))
    finished = saves.Run(folder, experiment.config)
    workbook.write(folder / ".history.xlsx", finished)
    (folder / ".history.xlsx").replace(folder / "history.xlsx")
    if "edges" in checkpoint["state"]:  # the clients are on a graph
        figures.exchange.report(finished, checkpoint["state"])
    (folder / "done").touch()
