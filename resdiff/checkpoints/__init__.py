"""Foreign weights: reading files, telling families apart, renaming, converting."""
