"""Draw a map of the clients' features by round, of saved runs made with `--track_features`.

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
from figures.styles import MARKERS as ALL_MARKERS
from figures.styles import of_classes
from saves import Run

COLUMNS = 6  # default number of rounds; the default number of clients is the number of markers
PERPLEXITY = 30  # of t-SNE
MANY = 26  # with more classes than this, the legend omits the classes
GREY = "#444444"
MARKERS = ALL_MARKERS[:6]  # these are distinct as small dots too


def features(run: Run) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """Return the features that a run kept, of all its clients together.

    Returns the rounds [T], the features float [T, N, D] of N examples, and for each example its class, int [N], and its
    client, int [N]. Rounds in which the run had diverged are left out. Raises UserError for a run without features, where
    the lengths of the clients' features differ, and for fewer than two examples or two features."""
    saved = run.arrays("features")
    if saved is None:
        raise UserError(f"{run.folder}: has no features; rerun it with --track_features N --force")
    clients = range(sum(name.startswith("features_") for name in saved))
    of_clients = [saved[f"features_{k}"] for k in clients]
    if len(lengths := sorted({values.shape[2] for values in of_clients})) > 1:
        length_text = " and ".join(map(str, lengths))
        raise UserError(
            f"{run.folder}: the clients' features differ in dimension ({length_text}), so they have no common axes"
        )
    if lengths[0] < 2 or sum(values.shape[1] for values in of_clients) < 2:
        raise UserError(f"{run.folder}: requires at least two examples with at least two features")
    classes = np.concatenate([saved[f"labels_{k}"] for k in clients])
    clients_of_examples = np.repeat(clients, [values.shape[1] for values in of_clients])
    values = np.concatenate(of_clients, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = np.isfinite(np.square(values).sum((1, 2)))  # PCA sums squares
    if not is_finite.any():
        raise UserError(f"{run.folder}: diverged in all rounds with saved features")
    return saved["rounds"][is_finite].tolist(), values[is_finite], classes, clients_of_examples


def embedded(values: np.ndarray, method: str = "pca") -> np.ndarray:
    """Return features float [T, N, D] in two dimensions, float [T, N, 2].

    "pca" uses the axes of the last of T, "tsne" embeds each of T separately. Repeated calls return the same result."""
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
    """Return a panel per round, of all clients or of some; with PCA all panels have the same axes.

    `name`: the name of the run. Raises UserError as `features`."""
    kept_rounds, values, classes, clients_of_examples = features(run)
    places = [kept_rounds.index(r) for r in rounds]
    # PCA needs the last kept round for its axes, shown or not
    points = embedded(values[[*places, -1]])[:-1] if method == "pca" else embedded(values[places], method)
    all_clients = range(clients_of_examples.max() + 1)
    marker_of = dict(zip(all_clients if clients is None else clients, cycle(MARKERS), strict=False))
    class_names = [f"class {class_name}" for class_name in run.arrays("features")["classes"]]
    looks = list(zip(class_names, of_classes(len(class_names)), strict=True))
    keys = [key(class_name, Style(colour)) for class_name, colour in looks if len(looks) <= MANY]
    keys += [
        key(f"client {run.called(k)}", Style(GREY, marker=marker)) for k, marker in list(marker_of.items())[: len(MARKERS)]
    ]
    axes = [Axis(ticks={}), Axis(name, ticks={})]
    if method == "pca":
        visible = points[:, np.isin(clients_of_examples, list(marker_of))]
        margin = 0.05 * np.ptp(visible, axis=(0, 1))
        spans = zip(visible.min((0, 1)) - margin, visible.max((0, 1)) + margin, strict=True)
        titles = ("principal component 1", f"{name}\nprincipal component 2".strip())
        axes = [Axis(title, span=span, ticks={}) for title, span in zip(titles, spans, strict=True)]
    round_panels = []
    for r, of_round in zip(rounds, points, strict=True):
        marks = list(keys)
        for (c, (class_name, colour)), marker in product(enumerate(looks), dict.fromkeys(marker_of.values())):
            indices = np.flatnonzero(
                (classes == c) & np.isin(clients_of_examples, [k for k in marker_of if marker_of[k] == marker])
            )
            hover = [f"{class_name}, client {run.called(k)}" for k in clients_of_examples[indices]]
            if hover:
                style, label = Style(colour, marker=marker), class_name if len(looks) <= MANY else ""
                marks.append(Points(*of_round[indices].T, style, label, hover=hover, size=3.7))
        round_panels.append(Panel(marks, *axes, f"round {r}", rows=14))
    return round_panels


def draw(
    runs: Sequence[Run],
    path: Path | None = None,
    method: str = "pca",
    rounds: Sequence[int] | None = None,
    clients: Sequence[int] | None = None,
    size: str | None = None,
):
    """Return the representations as a figure, written to a PNG or PDF if there is a path.

    `rounds`: by default up to COLUMNS of the rounds that all runs kept. `clients`: by default as many as there are markers.
    `size`: one of `on_paper.SIZES`. Raises UserError for runs that cannot be compared, for rounds or clients that they did
    not keep, and as `features`."""
    check(runs)
    groups = ordered(runs)
    rows = [(run, _label(run, group, groups)) for group in groups for run in group.runs]
    columns, shown_clients = rounds_shown([features(run)[0] for run, _ in rows], rounds), _clients(runs, clients)
    all_panels = [panel for run, label in rows for panel in panels(run, columns, shown_clients, method, label)]
    return on_paper.figure(all_panels, 2.1, 2.1, path, len(columns), legend="", size=size)


def _label(run: Run, group: Group, groups: Sequence[Group]) -> str:
    seeds = "\nseed {}, split {}".format(*seed_of(run)) if any(len(group.runs) > 1 for group in groups) else ""
    return name_of(group, groups) + seeds


def rounds_shown(kept: Sequence[Sequence[int]], requested: Sequence[int] | None = None) -> list[int]:
    """Return the rounds to draw: the requested rounds, or up to COLUMNS that all runs kept.

    The default rounds are evenly spaced, the first and the last included. Raises UserError for a round that was not kept by
    all runs, and where there is no common round."""
    common = sorted(set(kept[0]).intersection(*kept))
    available = ", ".join(map(str, common)) or "none"
    if wrong := [r for r in requested or () if r not in common]:
        raise UserError(f"--rounds {wrong[0]}: must be a round with features of all these runs: {available}")
    if not common:
        raise UserError("these runs have no common round with features")
    places = np.linspace(0, len(common) - 1, min(COLUMNS, len(common))).round().astype(int)
    return list(requested or [common[place] for place in places])


def _clients(runs: Sequence[Run], requested: Sequence[int] | None) -> list[int]:
    n_clients = min(run.options["n_clients"] for run in runs)
    if wrong := [k for k in requested or () if not 0 <= k < n_clients]:
        raise UserError(f"--clients {wrong[0]}: must be 0 to {n_clients - 1}")
    return list(requested or range(min(n_clients, len(MARKERS))))


def main(argv: Sequence[str] | None = None) -> None:
    parser = command.parser("representations", __doc__)
    parser.add_argument(
        "--method", choices=("pca", "tsne"), default="pca", help="projection to two dimensions (default: pca)"
    )
    parser.add_argument(
        "--rounds", type=int, nargs="+", metavar="R", help=f"rounds to draw (default: up to {COLUMNS} saved rounds)"
    )
    parser.add_argument(
        "--clients", type=int, nargs="+", metavar="K", help=f"clients to draw (default: the first {len(MARKERS)})"
    )
    command.run(parser, draw, argv)


if __name__ == "__main__":
    main()
