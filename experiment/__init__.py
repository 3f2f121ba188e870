"""One experiment: data -> federation -> rounds -> saved run.

`prepare` checks everything and names the run, before Chorus writes anything; `plan` estimates what the run costs; `run`
starts the run or resumes it.
"""

from experiment.identity import earlier
from experiment.lifecycle import run, save_split
from experiment.planning import Plan, costs_of, plan
from experiment.preparation import Experiment, federation_of, prepare, resolve

__all__ = ["Experiment", "Plan", "costs_of", "earlier", "federation_of", "plan", "prepare", "resolve", "run", "save_split"]
