"""In this process, one after another."""

from collections.abc import Iterator, Sequence
from functools import partial

from tqdm import tqdm

import experiment
import saves
from errors import DivergedError
from experiment import Experiment
from figures import folder


def launch(
    ready: Sequence[Experiment], force: bool = False, quiet: bool = False
) -> Iterator[tuple[Experiment, saves.Run | DivergedError]]:
    """Carry out experiment after experiment; yields each with its saved run, or with the reason why there is none."""
    for number, one in enumerate(ready, start=1):
        options = one.options
        label = f"{options.algorithm} seed {options.seed} ({number}/{len(ready)})"
        # disable=None: no bar where standard error is no terminal
        with tqdm(total=options.rounds, desc=label, unit="round", disable=True if quiet else None, leave=False) as bar:
            try:
                result = experiment.run(one, force, partial(_show, bar))
                folder.complete(result)
            except DivergedError as error:
                result = error
        yield one, result


def _show(bar: tqdm, row: dict[str, float] | str) -> None:
    if isinstance(row, str):
        bar.set_postfix_str(row)
        return
    shown = {"loss": f"{row['loss']:.3f}"}
    for what in ("global", "personal"):
        if f"{what}_mean" in row:
            shown[what] = f"{row[f'{what}_mean']:.1%}"
    bar.set_postfix(shown, refresh=False)
    bar.update(row["round"] - bar.n)  # a resumed run starts where it stood
