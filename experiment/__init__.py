"""One experiment: data -> federation -> rounds -> saved run.

`prepare` checks everything and names the run, before anything is written; `plan` says what it will cost; `run` carries it
out, or goes on with it.
"""

from experiment.identity import earlier
from experiment.planning import Plan, plan
from experiment.preparation import Experiment, federation_of, prepare, resolve
from experiment.rounds import draw_split, run

__all__ = ["Experiment", "Plan", "draw_split", "earlier", "federation_of", "plan", "prepare", "resolve", "run"]
