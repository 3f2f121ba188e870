"""Load data sets (`datasets`, with the readers `files`, `pictures`, `tables` and `silos`), augment their images at random
(`augment`), split the examples among clients (`partition`), and shift each client's features (`shift`). Downloads lie in
this folder, outside git."""
