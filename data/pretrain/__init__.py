"""How the bundled backbone was made: a small T5 pretrained by span corruption (`make backbone`).

    corpus text ──► vocabulary.py (SentencePiece) ──► corpus.py (token ids on disk)
                ──► embeddings.py (PPMI start)    ──► spans.py (span corruption) ──► __main__.py (the training loop)

Nothing here is needed to use read-cache; it is kept so that the bundled weights can be made again.
"""
