"""The data sets (`datasets`) and who gets what of them (`partition`). Downloads lie in this folder, outside git."""
