"""Tables and pictures of saved runs; nothing here reads anything but `saves`."""


def pyplot():
    """matplotlib's pyplot, for files alone: it opens no window, and is not imported before it is needed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
