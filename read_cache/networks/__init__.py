"""Side networks: what trains.

config.py   the settings of one READ network
cells.py    RNN, GRU and LSTM over layers
read.py     READ, Eq. 1 of the paper, in one screenful
phi.py      the states it takes in: whole, or components
batch.py    what a network sees of a batch of examples
collate.py  stored arrays to such a batch
folder.py   a trained network on disk: safetensors, config.json, model card
"""
