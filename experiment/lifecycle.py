"""The life of a run's folder: it is locked, its log is opened, the run begins or goes on, and what is left is completed."""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import plugins
import saves
from data import partition
from errors import reason_of
from experiment import identity
from experiment.answers import write_features
from experiment.checkpoints import checkpoint_of
from experiment.preparation import Experiment, at_work
from experiment.rounds import Logger, Row, play_rounds
from federation import computing_with, ranks
from untrusted import EscapingFormatter, appended, escape

log = logging.getLogger("chorus")
log.setLevel(logging.DEBUG)  # a run's log gets all of it; what is shown is decided by who has the terminal


def run(
    experiment: Experiment,
    force: bool = False,
    watch: Callable[[Row | str], None] = lambda row: None,
    loggers: Sequence[Logger] = (),
) -> saves.Run:
    """Carry the experiment out, or go on with it, and save it; a finished run is returned as it is.

    `watch` is called after each round with its row of the history, and with words while clients fine-tune; `loggers` get
    the rows too, those of a run that goes on from its beginning. Raises DivergedError when a training loss is not finite,
    saves.BusyError where another process is at work on this run, LostError where a rank of torchrun has failed. A
    KeyboardInterrupt saves the last finished round, and so does a LostError. Raises UserError where a
    plugin has changed Chorus.
    """
    plugins.check()
    folder = experiment.folder
    with ExitStack() as held:
        try:
            held.enter_context(saves.locked(folder))
        except OSError:  # of somebody else's, or on a disk that is only read: what is finished needs no lock
            if force or not saves.finished(folder):
                raise
            saves.verify(there := saves.load(folder))
            return there
        if force:
            saves.clear(folder)
        if (there := saves.whole(folder, "the run is made anew, from its checkpoint where that is good")) is not None:
            return there
        (folder / saves.DONE).unlink(missing_ok=True)  # of a damaged one: it is unfinished from now on
        with _logged(folder / "run.log", experiment.data.unverified):
            saves.remove_half_written(folder)
            experiment = experiment if force else _going_on(experiment)
            digests = _begin(experiment)
            saved = checkpoint_of(experiment, force)
            # one thread for what is not a server's phase or an evaluation, whatever the process has
            with computing_with(1), ranks.leading(_handed_over(experiment, saved)), at_work(experiment) as federation:
                last = play_rounds(experiment, federation, saved, watch, loggers)
            _finish(experiment, last, digests)
    return saves.load(folder)


def _going_on(one: Experiment) -> Experiment:
    """The experiment, whose `config.json` keeps what that of the unfinished run says, where any node was allowed: that it
    was, and, as "earlier_environments", the nodes of other kinds that made rounds of it."""
    if not saves.checkpoints(one.folder):
        return one
    try:
        before, now = saves.read_config(one.folder), one.config
    except saves.UnreadableError:
        raise
    except saves.DamagedError as error:
        log.warning("%s; it is written anew", error)
        return one
    if not (before.get("any_node") or now.get("any_node")):
        return one
    known = [*before.get("earlier_environments", []), before["environment"]]
    earlier = [environment for environment in known if environment != now["environment"]]
    unique = [environment for place, environment in enumerate(earlier) if environment not in earlier[:place]]
    return replace(one, config={**now, "any_node": True, "earlier_environments": unique})


def _handed_over(experiment: Experiment, saved: dict[str, Any] | None) -> tuple[Experiment, dict[str, Any] | None]:
    """What other ranks are to follow: the data set is there already, and the history is of no use."""
    return replace(experiment, data=None), saved and {**saved, "history": None}


class _RunLog(logging.FileHandler):
    """Writes to a regular file alone: to open a pipe would wait for its reader."""

    def _open(self):
        return appended(Path(self.baseFilename))


@contextmanager
def _logged(path: Path, unverified: str) -> Iterator[None]:
    """Inside, the command, warnings and tracebacks go to the run's log as well; why it failed is left beside it."""
    failed = path.with_name("failed")
    failed.unlink(missing_ok=True)
    handler = _RunLog(path, encoding="utf-8")
    # of a full disk the log says nothing: the run ends, and tells it, with the first file that it cannot write
    handler.handleError = lambda record: None
    handler.setFormatter(EscapingFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    log.debug("%s in %s", escape(" ".join(sys.argv)), escape(Path.cwd()))
    if unverified:
        log.debug("unverified data: %s", unverified)
    try:
        yield
    except BaseException as error:
        log.debug("stopped", exc_info=True)
        if isinstance(error, Exception):
            with suppress(OSError):  # of a full disk, say, which may be why
                saves.write_text(failed, f"{escape(reason_of(error))}\n")
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):
            handler.close()


def _begin(experiment: Experiment) -> dict[str, str]:
    """What is asked for, and who gets what -> {file: digest}."""
    folder = experiment.folder
    return {
        "config.json": saves.write_json(folder / "config.json", experiment.config),
        "split.npz": saves.write_arrays(folder / "split.npz", partition.arrays(experiment.data, experiment.split)),
    }


def save_split(experiment: Experiment) -> Path:
    """Save the split as `.npz` beside the runs, named by data set, partition and the split's digest -> where it is."""
    options, split = experiment.options, experiment.split
    named = f"split-{identity.stem(experiment.data.name)}-{options.partition}-{split.digest}.npz"
    path = experiment.folder.parent / named
    path.parent.mkdir(parents=True, exist_ok=True)
    saves.write_arrays(path, partition.arrays(experiment.data, split))
    return path


def _finish(experiment: Experiment, last: dict[str, Any], digests: dict[str, str]) -> None:
    """Derive from the last checkpoint what people open, and say that the run is done, and what is in its files."""
    from saves import workbook  # openpyxl and pandas, not before they are needed

    folder = experiment.folder
    checkpoint, *older = saves.checkpoints(folder)
    for path in older:
        path.unlink()
    digests = {
        **digests,
        **last["files"],
        **write_features(experiment, [entry for entry in last["history"] if "features" in entry]),
        "history.npz": saves.write_history(folder, saves.frame_of(last["history"])),
        checkpoint.name: saves.digest_of(checkpoint),
    }
    finished = saves.Run(folder, experiment.config, digests)
    saves.written(folder / "history.xlsx", lambda path: workbook.write(path, finished))
    saves.write_done(folder, digests)
