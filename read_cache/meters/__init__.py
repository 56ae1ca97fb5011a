"""Meters: wall time, peak memory and energy of a stage. What cannot be measured is said to be so, never taken as zero.

readings.py  the result: numbers with their unit in their name, or why there is none; sessions of a run add up
gauges.py    what turns repeated reads into one number: a counter, a busy time
host.py      peak resident memory of this process
rapl.py      energy of the processor and its memory, by the kernel's RAPL counters
nvml.py      one NVIDIA board: its energy counter, utilisation and power limit
meter.py     the context manager that reads them all on a thread, about once a second
stage.py     a meter of the device that torch runs on; the only module here that imports torch
sessions.py  where an extraction keeps its readings
summary.py   readings in one line for people

Energy counters belong to a whole board or processor: what else runs on it is counted too.
"""
