"""What tests of several rooms share: logs of records made by hand, runs of agents over them, real worker processes."""
