"""persona-stream: one event log on Kafka, tables folded from it, answers while the user is still there."""

import os

# Before numpy is imported anywhere: a product of a mask with a few thousand counts is too small to share, and threads
# that spin for the next one take the other core from whoever has work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
