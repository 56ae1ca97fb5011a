"""`read-cache plan`: what a store and its training will take, measured on a sample of the rows.

forecast.py   bytes by arithmetic, exact; the stages in turn
extraction.py the plan of the whole store, and the extraction of a sample
training.py   training on the sample's store
backbone.py   a model with its own weights, or with random ones where only its configuration is at hand
processes.py  a function in a process of its own

It may import everything but the command line, the bench, the report and the API. A stage's process imports what that
stage imports, so that its memory is the stage's.
"""
