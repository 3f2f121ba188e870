"""Where the clients' representations lie, round by round, of saved runs made with `--track_features`.

    python -m figures.representations RUN [RUN ...] --method tsne --rounds 1 10 25 -o representations.png

With t-SNE every round has its own axes. All clients of a run, shown or not, are embedded together.

A dot is a training example in the feature space of its client's model, in two dimensions: its colour is the class, its
marker the client. With PCA the axes are those of the run's last round, and movement over rounds is seen.
"""

import sys

if not __package__:
    sys.path[0] += "/.."  # run by its path: `errors` says how to run it

from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path

import numpy as np

from errors import UserError
from figures import command, on_paper
from figures.groups import Group, check, name_of, ordered
from figures.marks import Axis, Panel, Points, Style, key
from figures.metrics import seed_of
from figures.styles import MARKERS, of_classes
from saves import Run

COLUMNS = 6  # rounds, and as many clients as there are markers, where none are asked for
PERPLEXITY = 30  # of t-SNE
MANY = 26  # more classes than this are not in the legend
GREY = "#444444"


def features(run: Run) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """What a run kept of all its clients together: the rounds [T], the features float [T, N, D] of N examples, and of each
    its class, int [N], and its client, int [N]. Rounds in which it had diverged are left out. Raises UserError for a run
    that kept none, where clients' features differ in length, and where there are less than two of two."""
    saved = run.arrays("features")
    if saved is None:
        raise UserError(f"{run.folder}: kept no features; --track_features N, with --force, runs it anew")
    clients = range(sum(name.startswith("features_") for name in saved))
    of_clients = [saved[f"features_{k}"] for k in clients]
    if len(lengths := sorted({values.shape[2] for values in of_clients})) > 1:
        told = " and ".join(map(str, lengths))
        raise UserError(f"{run.folder}: its clients' features have no common axes, they are of {told} numbers")
    if lengths[0] < 2 or sum(values.shape[1] for values in of_clients) < 2:
        raise UserError(f"{run.folder}: a plane takes two examples of two features at least")
    classes = np.concatenate([saved[f"labels_{k}"] for k in clients])
    whose = np.repeat(clients, [values.shape[1] for values in of_clients])
    values = np.concatenate(of_clients, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        usable = np.isfinite(np.square(values).sum((1, 2)))  # what axes are made of
    if not usable.any():
        raise UserError(f"{run.folder}: it had diverged in all rounds of which it kept features")
    return saved["rounds"][usable].tolist(), values[usable], classes, whose


def embedded(values: np.ndarray, method: str = "pca") -> np.ndarray:
    """Features float [T, N, D] in two dimensions, float [T, N, 2]: by "pca" on the axes of the last of T, or each of T by
    "tsne"; the same whenever it is repeated."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if method == "pca":
        axes = PCA(n_components=2, random_state=0).fit(values[-1])
        return np.array([axes.transform(of_round) for of_round in values])
    perplexity = min(PERPLEXITY, (values.shape[1] - 1) / 3)
    return np.array([TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(of_round) for of_round in values])


def panels(
    run: Run, rounds: Sequence[int], clients: Sequence[int] | None = None, method: str = "pca", name: str = ""
) -> list[Panel]:
    """A panel a round, of all clients or of some; with PCA all have the same axes. `name` is of the run. Raises UserError as
    `features`."""
    there, values, classes, whose = features(run)
    places = [there.index(r) for r in rounds]
    # with PCA the last round that was kept is there for its axes, shown or not
    points = embedded(values[[*places, -1]])[:-1] if method == "pca" else embedded(values[places], method)
    everyone = range(whose.max() + 1)
    marker_of = dict(zip(everyone if clients is None else clients, cycle(MARKERS), strict=False))
    words = [f"class {word}" for word in run.arrays("features")["classes"]]
    looks = list(zip(words, of_classes(len(words)), strict=True))
    keys = [key(word, Style(colour)) for word, colour in looks if len(looks) <= MANY]
    keys += [
        key(f"client {run.called(k)}", Style(GREY, marker=marker)) for k, marker in list(marker_of.items())[: len(MARKERS)]
    ]
    axes = [Axis(ticks={}), Axis(name, ticks={})]
    if method == "pca":
        seen = points[:, np.isin(whose, list(marker_of))]
        margin = 0.05 * np.ptp(seen, axis=(0, 1))
        spans = zip(seen.min((0, 1)) - margin, seen.max((0, 1)) + margin, strict=True)
        titles = ("principal component 1", f"{name}\nprincipal component 2".strip())
        axes = [Axis(title, span=span, ticks={}) for title, span in zip(titles, spans, strict=True)]
    found = []
    for r, of_round in zip(rounds, points, strict=True):
        marks = list(keys)
        for (c, (word, colour)), marker in product(enumerate(looks), dict.fromkeys(marker_of.values())):
            it = np.flatnonzero((classes == c) & np.isin(whose, [k for k in marker_of if marker_of[k] == marker]))
            hover = [f"{word}, client {run.called(k)}" for k in whose[it]]
            if hover:
                style, label = Style(colour, marker=marker), word if len(looks) <= MANY else ""
                marks.append(Points(*of_round[it].T, style, label, hover=hover, size=3.7))
        found.append(Panel(marks, *axes, f"round {r}", rows=14))
    return found


def draw(
    runs: Sequence[Run],
    path: Path | None = None,
    method: str = "pca",
    rounds: Sequence[int] | None = None,
    clients: Sequence[int] | None = None,
):
    """The representations as a figure, written to a PNG or PDF where there is a path. `rounds`: by default up to COLUMNS of
    those that all runs kept; `clients`: by default as many. Raises UserError for runs that are not to be compared, for
    rounds or clients that they did not keep, and as `features`."""
    check(runs)
    found = ordered(runs)
    rows = [(run, _label(run, group, found)) for group in found for run in group.runs]
    columns, shown = rounds_shown([features(run)[0] for run, _ in rows], rounds), _clients(runs, clients)
    of_runs = [panel for run, label in rows for panel in panels(run, columns, shown, method, label)]
    return on_paper.figure(of_runs, 2.1, 2.1, path, len(columns), legend="")


def _label(run: Run, group: Group, found: Sequence[Group]) -> str:
    seeds = "\nseed {}, split {}".format(*seed_of(run)) if any(len(group.runs) > 1 for group in found) else ""
    return name_of(group, found) + seeds


def rounds_shown(kept: Sequence[Sequence[int]], asked: Sequence[int] | None = None) -> list[int]:
    """Of the rounds that each of some runs kept those that are drawn: the ones asked for, or up to COLUMNS that all of them
    kept, evenly spaced, the first and the last included. Raises UserError for one that is not there, and for none."""
    common = sorted(set(kept[0]).intersection(*kept))
    told = ", ".join(map(str, common)) or "none"
    if wrong := [r for r in asked or () if r not in common]:
        raise UserError(f"--rounds {wrong[0]}: features of all these runs were kept of rounds {told}")
    if not common:
        raise UserError("these runs kept features of no round in common")
    places = np.linspace(0, len(common) - 1, min(COLUMNS, len(common))).round().astype(int)
    return list(asked or [common[place] for place in places])


def _clients(runs: Sequence[Run], asked: Sequence[int] | None) -> list[int]:
    n_clients = min(run.options["n_clients"] for run in runs)
    if wrong := [k for k in asked or () if not 0 <= k < n_clients]:
        raise UserError(f"--clients {wrong[0]}: the clients of these runs are 0 to {n_clients - 1}")
    return list(asked or range(min(n_clients, len(MARKERS))))


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("representations", __doc__)
    parser.add_argument("--method", choices=("pca", "tsne"), default="pca", help="to two dimensions (default: pca)")
    parser.add_argument("--rounds", type=int, nargs="+", metavar="R", help=f"which (default: up to {COLUMNS} of those kept)")
    parser.add_argument("--clients", type=int, nargs="+", metavar="K", help=f"shown (default: the first {len(MARKERS)})")
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
