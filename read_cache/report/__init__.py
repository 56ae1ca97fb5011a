"""`read-cache report`: a run folder as one HTML page and its pictures. Knows results.jsonl, and nothing of stores.

aggregate.py  networks by configuration, the choice on validation, mean and deviation over seeds
measured.py   time, memory and energy, as far as they were recorded
style.py      what all pictures share
curves.py     losses and metric by epoch
rates.py      metric against learning rate
tables.py     rows of tables, and the JSON
html.py       tables and pictures as HTML
page.py       the page
write.py      a run folder in, files out
"""
