"""`read-cache report`: a run folder as one HTML page and its pictures. Knows results.jsonl, and nothing of stores.
`read-cache tables`: READ rows of the paper's Tables 1 and 2, from results alone.

aggregate.py  networks by configuration, the choice on validation, mean and deviation over seeds
measured.py   time, memory and energy, as far as they were recorded
style.py      what all pictures share
curves.py     losses and metric by epoch
rates.py      metric against learning rate
tables.py     rows of tables, and the JSON
html.py       tables and pictures as HTML
page.py       the page
write.py      a run folder in, files out

paper.py, paper.toml  the paper's own figures
costs.py              time, memory and energy of both stages
glue.py               results as rows: scores by task, their average, parameters, costs
glue_tables.py        the tables as Markdown, and what sets their rows apart
glue_figure.py        the picture beside a table
markdown.py           tables as Markdown
"""
