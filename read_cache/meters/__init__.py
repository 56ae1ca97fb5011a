"""Meters: wall time, peak memory and energy of a stage. A quantity that cannot be measured is None, never zero.

readings.py  the result, its sum over sessions, and one line for people
gauges.py    energy counters (NVML, RAPL), utilisation (Eq. 4), peaks of memory
meter.py     the context manager that samples gauges on a thread, once a second
stage.py     a meter of the device that torch uses; the only module here that imports torch
sessions.py  readings kept beside a store

Energy counters belong to a whole board or processor: the energy of other programs on it is included.
"""
