"""Networks, one architecture per file. Module paths are written into saved pipelines: public API."""
