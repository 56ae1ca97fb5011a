"""Meters: wall time, peak memory and energy of a stage. A quantity that cannot be measured is None, never zero.

Energy counters belong to a whole board or processor: the energy of other programs on it is included.
"""
