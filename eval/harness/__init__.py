"""The parts of the benchmark: test sets, statistics, tables, and the page of a report."""
