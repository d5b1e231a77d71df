"""The page of a report: what is shown of a finished benchmark, and how."""
