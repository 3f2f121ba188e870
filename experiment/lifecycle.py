"""The life of a run's folder: lock the folder, open its log, start or resume the run, and complete the saved files."""

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
log.setLevel(logging.DEBUG)  # a run's log gets every message; the command decides what the terminal shows


def run(
    experiment: Experiment,
    force: bool = False,
    watch: Callable[[Row | str], None] = lambda row: None,
    loggers: Sequence[Logger] = (),
) -> saves.Run:
    """Run an experiment, or resume it, and save it; return a finished run at once.

    `watch` is called after each round with the round's row of the history, and with messages while clients fine-tune.
    `loggers` get the rows too; a resumed run passes them the rows since its beginning. A KeyboardInterrupt saves the last
    finished round, and so does a LostError.

    Raise DivergedError if a training loss is not finite, saves.BusyError if another process has locked this run, LostError
    if a rank of torchrun has failed, and UserError if a plugin has changed Chorus.
    """
    plugins.check()
    folder = experiment.folder
    with ExitStack() as stack:
        try:
            stack.enter_context(saves.locked(folder))
        except OSError:  # another user's folder, or a read-only disk: a finished run needs no lock
            if force or not saves.finished(folder):
                raise
            saves.verify(existing := saves.load(folder))
            return existing
        if force:
            saves.clear(folder)
        if (existing := saves.whole(folder, "rerunning it, from its last good checkpoint if there is one")) is not None:
            return existing
        (folder / saves.DONE).unlink(missing_ok=True)  # a damaged run counts as unfinished from now on
        with _logged(folder / "run.log", experiment.data.unverified):
            saves.remove_half_written(folder)
            experiment = experiment if force else _with_earlier_environments(experiment)
            digests = _begin(experiment)
            saved = checkpoint_of(experiment, force)
            # one thread, except in a server's phase or an evaluation, whatever the process has
            with computing_with(1), ranks.leading(_for_other_ranks(experiment, saved)), at_work(experiment) as federation:
                checkpoint = play_rounds(experiment, federation, saved, watch, loggers)
            _finish(experiment, checkpoint, digests)
    return saves.load(folder)


def _with_earlier_environments(experiment: Experiment) -> Experiment:
    """Return the experiment with the environments of the unfinished run in its `config.json`.

    If the user allowed any node, `config.json` keeps this fact and, as "earlier_environments", the other kinds of nodes that
    computed rounds of the run.
    """
    if not saves.checkpoints(experiment.folder):
        return experiment
    try:
        saved_config, config = saves.read_config(experiment.folder), experiment.config
    except saves.UnreadableError:
        raise
    except saves.DamagedError as error:
        log.warning("%s; writing it again", error)
        return experiment
    if not (saved_config.get("any_node") or config.get("any_node")):
        return experiment
    known = [*saved_config.get("earlier_environments", []), saved_config["environment"]]
    earlier = [environment for environment in known if environment != config["environment"]]
    unique = [environment for i, environment in enumerate(earlier) if environment not in earlier[:i]]
    return replace(experiment, config={**config, "any_node": True, "earlier_environments": unique})


def _for_other_ranks(experiment: Experiment, saved: dict[str, Any] | None) -> tuple[Experiment, dict[str, Any] | None]:
    """Return what the other ranks need to follow: they have the data set already and do not need the history."""
    return replace(experiment, data=None), saved and {**saved, "history": None}


class _RunLog(logging.FileHandler):
    """Write to a regular file only: opening a pipe would block until it has a reader."""

    def _open(self):
        return appended(Path(self.baseFilename))


@contextmanager
def _logged(path: Path, unverified: str) -> Iterator[None]:
    """Write the command, warnings and tracebacks to the run's log inside; if the run fails, save the reason in a file."""
    failed = path.with_name("failed")
    failed.unlink(missing_ok=True)
    handler = _RunLog(path, encoding="utf-8")
    # the log ignores a full disk: the run stops with an error at the first file that it cannot write
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
            with suppress(OSError):  # for example a full disk, which may be the reason
                saves.write_text(failed, f"{escape(reason_of(error))}\n")
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        with suppress(OSError):
            handler.close()


def _begin(experiment: Experiment) -> dict[str, str]:
    """Write the configuration and the split; return {file: digest}."""
    folder = experiment.folder
    return {
        "config.json": saves.write_json(folder / "config.json", experiment.config),
        "split.npz": saves.write_arrays(folder / "split.npz", partition.arrays(experiment.data, experiment.split)),
    }


def save_split(experiment: Experiment) -> Path:
    """Save the split as `.npz` next to the runs; return its path.

    The file is named by data set, partition and the split's digest.
    """
    options, split = experiment.options, experiment.split
    file_name = f"split-{identity.stem(experiment.data.name)}-{options.partition}-{split.digest}.npz"
    path = experiment.folder.parent / file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    saves.write_arrays(path, partition.arrays(experiment.data, split))
    return path


def _finish(experiment: Experiment, last_checkpoint: dict[str, Any], digests: dict[str, str]) -> None:
    """Derive the files for users from the last checkpoint, and mark the run as done with the digests of its files."""
    from saves import workbook  # imports openpyxl and pandas, which are slow to load

    folder = experiment.folder
    checkpoint, *older = saves.checkpoints(folder)
    for path in older:
        path.unlink()
    digests = {
        **digests,
        **last_checkpoint["files"],
        **write_features(experiment, [entry for entry in last_checkpoint["history"] if "features" in entry]),
        "history.npz": saves.write_history(folder, saves.frame_of(last_checkpoint["history"])),
        checkpoint.name: saves.digest_of(checkpoint),
    }
    finished = saves.Run(folder, experiment.config, digests)
    saves.written(folder / "history.xlsx", lambda path: workbook.write(path, finished))
    saves.write_done(folder, digests)
