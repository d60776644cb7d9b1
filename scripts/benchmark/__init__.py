"""The parts of scripts/bench: each section measures one claim of docs/performance.md, beside peers in the same run."""
