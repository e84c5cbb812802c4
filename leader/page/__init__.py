"""A page to look at: read-only HTTP on the leader, off unless `pageAddress` is set."""
