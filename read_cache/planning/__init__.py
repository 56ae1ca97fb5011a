"""What a store and its training will take, told before anything heavy runs: `read-cache plan`.

models.py    a model by its configuration: a folder's, the hub's, or the well-known T5s' from a table
glue.py      how many rows GLUE has and how long they are, for where they are not at hand
rows.py      lengths of every example, exact or estimated, and the store's layout, which follows from them
batches.py   the batches that both stages will make, and what their cost is counted in
machine.py   this machine in a few words; what was measured on it is kept and used again
passes.py    seconds of the backbone's pass, by a few layers with random weights
steps.py     seconds of a network's step
disk.py      bytes a second, written and read, where the store will lie
estimate.py  all of it together
recommend.py the form that the disk holds, and why

It may import everything but the command line and the bench; only these may import it.
"""
