"""An HTTP server: one pass of the backbone for all networks and all requests that wait. Extra `serve`.

server.py   the command's work: listens, opens the networks, serves until a signal
app.py      the routes, with their inputs and outputs
guard.py    limits of a request before its route reads it: token, number, size, time
batcher.py  the thread that predicts, one batch after the other
metrics.py  counts and times for Prometheus
"""
