"""On a cluster that Slurm shares out: one array job, each of whose elements calls the very command line that was typed.

Nothing has to be handed out: an element makes what it finds unfinished and locked by none, as any second command in the same
`--export_dir` does. So elements may begin and end when they like, on any node of the submitter's kind (`launch/nodes.py`).
(submitit, the library for jobs from Python, pickles a function for each job and brings its result back. Here both are files
that a run has anyway, so that of its work one script of ten lines would be left.)
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import saves
from errors import UserError
from experiment import Experiment
from launch import nodes
from options import Launch
from untrusted import print_escaped

COMMAND = Path(__file__).resolve().parent.parent / "run.py"
PATIENCE = 5.0  # seconds that an element which finds no more to do waits for runs of others, before it frees its node
SCRIPT = """\
#!/bin/sh
#SBATCH --job-name=chorus
#SBATCH --array=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60
# Each element makes what it finds unfinished. Told to stop, by the scheduler or a minute or two before its time is over, it
# saves the last finished round: python takes the shell's place, so that the signal reaches it.
cd {folder} || exit 1
exec {command}
"""


def is_asked(ready: Sequence[Experiment], how: Launch) -> bool:
    """Whether runs are to be made elsewhere: not by an element of a job, nor where all are finished."""
    return how.slurm is not None and how.named_by is None and bool(_unfinished(ready, how))


def _unfinished(ready: Sequence[Experiment], how: Launch) -> list[Experiment]:
    return [one for one in ready if how.force or not saves.finished(one.folder)]


def hand_over(ready: Sequence[Experiment], how: Launch, words: Sequence[str], then: Sequence[Experiment] = ()) -> None:
    """Submit the command line `words` as a job, and print where it stands. `then`: runs that may follow these."""
    both, n = [*ready, *then], len(_unfinished(ready, how))
    job, folder = submit(words, [*both, *(nodes.independent(one, how) for one in both)], how)
    out = sys.stderr if how.json else sys.stdout
    others = " on held-out data, then those with the settings that are chosen" if then else ""
    environment = ready[0].config["environment"]
    kind = ", ".join(f"{name} {environment[name]}" for name in ("processor", "device", "torch"))
    print_escaped(f"job {job}: {n} of {len(ready)} runs to make{others}", file=out)
    print_escaped(
        f"  on nodes with {kind}" + (", and any other (--any_node)" if how.any_node else "; others decline"), file=out
    )
    print_escaped(f"  script and logs: {folder}", file=out)
    print_escaped(f"  python -m figures.status {shlex.quote(str(ready[0].folder.parent))} tells how they stand", file=out)
    print_escaped("  the element that ends last prints the table, as this command does once all are finished", file=out)


def submit(words: Sequence[str], runs: Iterable[Experiment], how: Launch) -> tuple[str, Path]:
    """Have the command line `words` called by each element of an array job -> the job's id, and the folder of its script and
    logs, which is beside the runs. `runs`: at least one of each algorithm that elements look for. Raises UserError, with
    nothing submitted and nothing left."""
    given = _options(how.slurm)
    if how.force:
        raise UserError("--force: each element of --slurm would make every run anew; remove their folders instead")
    if shutil.which("sbatch") is None:
        raise UserError("--slurm: no sbatch is here; must be called where jobs are submitted")
    folder = _new(how.export_dir.absolute() / "slurm")
    script, named = folder / "job.sh", folder / "named.json"
    try:
        nodes.write(runs, named)
        command = [sys.executable, str(COMMAND), *words, "--named_by", str(named)]
        script.write_text(SCRIPT.format(folder=shlex.quote(str(Path.cwd())), command=shlex.join(command)))
        log = f"{folder}/%A_%a.log".replace(str(folder), str(folder).replace("%", "%%"))
        told = subprocess.run(
            ["sbatch", "--parsable", f"--output={log}", *given, str(script)], capture_output=True, text=True, check=False
        )
        if told.returncode:
            why = " ".join(told.stderr.split())
            raise UserError(f"--slurm {how.slurm}: refused by sbatch ({why})")
    except BaseException:
        shutil.rmtree(folder)
        with suppress(OSError):  # of earlier jobs
            folder.parent.rmdir()
        raise
    return told.stdout.split()[-1].partition(";")[0], folder


def _options(text: str) -> list[str]:
    """The words of --slurm. Raises UserError where they are not all options and their values: what sbatch takes for a script
    would be submitted in the place of ours."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--slurm {text}: not to be read ({error})") from None
    for before, word in zip(["", *words], words, strict=False):
        if not word.startswith("-") and (not before.startswith("-") or "=" in before):
            raise UserError(f"--slurm {text}: {word} is no option; must be options of sbatch, as one text in quotes")
    return words


def _new(folder: Path) -> Path:
    """The first of the folders 1, 2, ... in this one that is not there yet, made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "1"
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            path = folder / str(int(path.name) + 1)
        else:
            return path
