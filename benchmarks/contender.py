"""Run one contender in this process: ``python -m benchmarks.contender NAME run|recover JOB.json REPORT.json``."""

import importlib
import importlib.metadata
import logging
import sys
from pathlib import Path

import msgspec

from benchmarks.contract import Job, Recovered, Report


def main(name: str, action: str, job_path: str, report_path: str) -> None:
    """Load the job, call ``benchmarks.<name>.<action>`` and write its report. Raises whatever the contender
    raises."""
    # the last lines are what the runner shows of a run that failed
    logging.basicConfig(level=logging.WARNING)
    job = msgspec.json.decode(Path(job_path).read_bytes(), type=Job)
    module = importlib.import_module(f"benchmarks.{name}")
    report: Report | Recovered = getattr(module, action)(job)
    report.versions = {package: importlib.metadata.version(package) for package in module.DISTRIBUTIONS}
    Path(report_path).write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
