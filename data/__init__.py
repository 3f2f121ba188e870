"""The data sets (`datasets`, read by `files`, `pictures` and `silos`), random changes of their images (`augment`), and who
gets what of them (`partition`). Downloads lie in this folder, outside git."""
