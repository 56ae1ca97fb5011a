"""Side networks: what trains.

config.py   the settings of one READ network
cells.py    RNN, GRU and LSTM over layers
read.py     READ, Eq. 1 of the paper, in one screenful
batch.py    what a network sees of a batch of examples
folder.py   a trained network on disk: safetensors, config.json, model card
"""
