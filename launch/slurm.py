"""Runs on a Slurm cluster: one array job, each element of which executes the command line that the user typed.

No run has to be assigned: an element executes the runs that are unfinished and not locked, as any second command in the same
`--export_dir` does. So elements may start and end at any time, on any node of the submitter's kind (`launch/nodes.py`).
(submitit, the library for jobs from Python, pickles a function for each job and returns the function's result. Here, files
that a run has anyway hold both, so submitit would only replace one script of ten lines.)
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
from untrusted import print_escaped, wrap

COMMAND = Path(__file__).resolve().parent.parent / "run.py"
PATIENCE = 5.0  # seconds that an element without work waits for runs of other elements, before it frees its node
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


def is_asked(experiments: Sequence[Experiment], launch_options: Launch) -> bool:
    """Return whether to submit the runs: `--slurm` is set, this is no element of a job, and some run is unfinished."""
    return (
        launch_options.slurm is not None
        and launch_options.named_by is None
        and bool(_unfinished(experiments, launch_options))
    )


def _unfinished(experiments: Sequence[Experiment], launch_options: Launch) -> list[Experiment]:
    return [experiment for experiment in experiments if launch_options.force or not saves.finished(experiment.folder)]


def hand_over(
    experiments: Sequence[Experiment], launch_options: Launch, argv: Sequence[str], then: Sequence[Experiment] = ()
) -> None:
    """Submit the command line `argv` as a job, and print where its files are. `then`: runs that may follow."""
    all_experiments, n_unfinished = [*experiments, *then], len(_unfinished(experiments, launch_options))
    job, folder = submit(
        argv,
        [*all_experiments, *(nodes.independent(experiment, launch_options) for experiment in all_experiments)],
        launch_options,
    )
    out = sys.stderr if launch_options.json else sys.stdout
    later_runs = " (tuning on held-out data), then the runs with the selected settings" if then else ""
    environment = experiments[0].config["environment"]
    node_kind = ", ".join(f"{name} {environment[name]}" for name in ("processor", "device", "torch"))
    others = " and all others (--any_node)" if launch_options.any_node else "; other nodes decline"
    lines = [
        f"job {job}: {n_unfinished} of {len(experiments)} runs are left{later_runs}",
        f"  on nodes with {node_kind}{others}",
        f"  script and logs: {folder}",
        f"  python -m figures.status {shlex.quote(str(experiments[0].folder.parent))} shows their status",
        "  the last element to finish prints the table; so does this command, once all runs are finished",
    ]
    print_escaped(*map(wrap, lines), sep="\n", file=out)


def submit(argv: Sequence[str], runs: Iterable[Experiment], launch_options: Launch) -> tuple[str, Path]:
    """Submit the command line `argv` as an array job; return the job's id and the folder of its script and logs.

    The folder is next to the runs' folders. `runs`: at least one run of each algorithm that elements look for. Raises
    UserError where no job was submitted; then no file is left.
    """
    sbatch_options = _split_options(launch_options.slurm)
    if launch_options.force:
        raise UserError("--force: each element of the --slurm job would repeat every run; remove their folders instead")
    if shutil.which("sbatch") is None:
        raise UserError("--slurm: the command sbatch does not exist; run this command where jobs are submitted")
    folder = _create_folder(launch_options.export_dir.absolute() / "slurm")
    script, names_file = folder / "job.sh", folder / "named.json"
    try:
        nodes.write(runs, names_file)
        command = [sys.executable, str(COMMAND), *argv, "--named_by", str(names_file)]
        script.write_text(SCRIPT.format(folder=shlex.quote(str(Path.cwd())), command=shlex.join(command)))
        log = f"{folder}/%A_%a.log".replace(str(folder), str(folder).replace("%", "%%"))
        sbatch = subprocess.run(
            ["sbatch", "--parsable", f"--output={log}", *sbatch_options, str(script)],
            capture_output=True,
            text=True,
            check=False,
        )
        if sbatch.returncode:
            reason = " ".join(sbatch.stderr.split())
            raise UserError(f"--slurm {launch_options.slurm}: refused by sbatch ({reason})")
    except BaseException:
        shutil.rmtree(folder)
        with suppress(OSError):  # the parent also holds the folders of earlier jobs
            folder.parent.rmdir()
        raise
    return sbatch.stdout.split()[-1].partition(";")[0], folder


def _split_options(text: str) -> list[str]:
    """Split the text of --slurm into words.

    Raises UserError where a word is neither an option nor the value of an option: sbatch would take the word for a script,
    and submit that script instead of this one.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--slurm {text}: cannot be parsed ({error})") from None
    for previous, word in zip(["", *words], words, strict=False):
        if not word.startswith("-") and (not previous.startswith("-") or "=" in previous):
            raise UserError(f"--slurm {text}: {word} is not an option; must be options of sbatch, in one pair of quotes")
    return words


def _create_folder(folder: Path) -> Path:
    """Create and return the first of the folders 1, 2, ... in this folder that does not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "1"
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            path = folder / str(int(path.name) + 1)
        else:
            return path
