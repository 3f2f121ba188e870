"""One experiment: data -> federation -> rounds -> saved run.

`prepare` checks everything and names the run, before anything is written; `run` carries it out, or goes on with it.
"""

from experiment.identity import earlier
from experiment.preparation import Experiment, federation_of, prepare, resolve
from experiment.rounds import draw_split, run

__all__ = ["Experiment", "draw_split", "earlier", "federation_of", "prepare", "resolve", "run"]
