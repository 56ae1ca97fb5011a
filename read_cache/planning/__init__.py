"""`read-cache plan`: exact bytes of a store by arithmetic; times of both stages from a sample of its rows."""
