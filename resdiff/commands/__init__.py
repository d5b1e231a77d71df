"""The commands of `resdiff`, one file each; `resdiff.cli` puts them together. Nothing heavy is imported at module level."""
