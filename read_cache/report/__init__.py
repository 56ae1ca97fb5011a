"""Results of runs as one HTML page (`read-cache report`) and as rows of the paper's tables (`read-cache tables`).

frames.py    results as data frames: configurations, the choice on validation, scores by kind and task
costs.py     time, memory and energy of both stages
stores.py    baselines and sizes of stores that are still there
pictures.py  learning curves, metric against learning rate
page.py      the page; page.html.j2 is its template
paper.py     the paper's own figures, from paper.toml
tables.py    Tables 1 and 2 as Markdown, CSV and JSON; tables.md.j2 is the template
"""
