"""The worker: a Faust app that runs every agent by the batch."""
