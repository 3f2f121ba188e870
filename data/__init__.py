"""The data sets (`datasets`, read by `files`, `pictures` and `silos`), random changes of their images (`augment`), who gets
what of them (`partition`) and through which change a client sees it (`shift`). Downloads lie in this folder, outside git."""
