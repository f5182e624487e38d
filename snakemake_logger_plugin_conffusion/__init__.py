"""Snakemake's logger plugin `conffusion`: what a run says in the terminal, by `conffusion.pipeline.terminal`.

The profiles switch it on (`logger: conffusion`). With --verbose or --debug-dag Snakemake's own output appears instead,
and only the last lines are added. rules/common.smk names the plan and the jobs, as attributes of log records.
"""

import logging
import re
import sys
import threading
from typing import Any

from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from conffusion.pipeline.plan import Plan
from conffusion.pipeline.records import job_name
from conffusion.pipeline.terminal import PROGRESS_SECONDS, TerminalLog
from conffusion.report.summary import run_summary

_NOTHING_TO_DO = "Nothing to be done"
_INTERRUPTED = ("Terminating processes on user request", "Will exit after finishing currently running jobs")
# Said before a run starts, or after a job has failed, when the failure's own lines say more.
_ROUTINE = ("Assuming unrestricted shared filesystem", "Config file ", "Multiple includes of ")
_CONSEQUENCES = ("CalledProcessError", "Exiting because a job execution failed", "At least one job did not complete")
_OUT_OF_MEMORY = ": someone stopped it, or the machine ran out of memory"


class LogHandler(LogHandlerBase):
    """Prints the lines of a `TerminalLog` at Snakemake's events; names that are not explained are Snakemake's."""

    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Set up, once the settings are known."""
        settings = self.common_settings
        self._stream = sys.stdout if settings.stdout else sys.stderr
        self._is_quiet = bool({Quietness.ALL, Quietness.PROGRESS, Quietness.RULES} & set(settings.quiet or ()))
        self._plan: Plan | None = None
        self._log: TerminalLog | None = None
        self._has_started = self._is_interrupted = self._is_up_to_date = self._has_counted = False
        self._ended = threading.Event()

    @property
    def writes_to_stream(self) -> bool:
        """Whether this handler takes the place of Snakemake's own."""
        return not (self.common_settings.verbose or self.common_settings.debug_dag)

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a record means for people, if anything."""
        try:
            lines = self._lines(record)
            if self.writes_to_stream and (not self._is_quiet or record.levelno >= logging.WARNING):
                self._print(lines)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Print the last lines."""
        if not self._ended.is_set():
            self._ended.set()
            has_failed = self._log is not None and self._log.has_failed
            if self._log and not self._is_interrupted and (has_failed or not self._is_quiet):
                self._print(self._log.closing())
            is_complete = self._log.is_reported if self._log else self._is_up_to_date
            if self._plan and is_complete and not self._is_quiet:
                self._print(run_summary(self._plan.run))
        super().close()

    def _lines(self, record: logging.LogRecord) -> list[str]:
        """What a record of Snakemake, or of rules/common.smk, means."""
        event, values, log = getattr(record, "event", None), record.__dict__, self._log
        if "conffusion_plan" in values:
            self._plan = values["conffusion_plan"]
        elif "conffusion_jobs" in values and self._plan:
            return self._open(self._plan, values["conffusion_jobs"])
        elif event == LogEvent.WORKFLOW_STARTED:
            self._has_started = True
        elif event == LogEvent.RUN_INFO and self.common_settings.dryrun and not self._has_counted:
            self._has_counted = True
            return [record.getMessage().strip(), "", "This was a dry run. Each job and its reason: add --verbose"]
        elif event in (None, LogEvent.ERROR):
            return self._message(record)
        elif event == LogEvent.GROUP_ERROR and log and not self._is_interrupted:
            return [line for job in values["job_error_info"] for line in self._failed(log, job)]
        elif event == LogEvent.JOB_ERROR and log and not self._is_interrupted:
            return self._failed(log, values)
        elif event == LogEvent.JOB_INFO and log:
            log.started(values["jobid"], _name(values))
        elif event == LogEvent.JOB_FINISHED and log:
            return log.finished(values["job_id"])
        return []

    def _open(self, plan: Plan, names: list[str]) -> list[str]:
        """The first line; from now on progress is shown."""
        self._log = TerminalLog(plan, names)
        if self.writes_to_stream and not self._is_quiet:
            threading.Thread(target=self._show_progress, args=(self._log,), name="progress", daemon=True).start()
        return self._log.opening()

    def _show_progress(self, log: TerminalLog) -> None:
        while not self._ended.wait(PROGRESS_SECONDS / 3):
            with self.lock or threading.RLock():
                self._print(log.progress())

    def _failed(self, log: TerminalLog, job: dict[str, Any]) -> list[str]:
        return log.failed(job["jobid"], _name(job), job["log"])

    def _message(self, record: logging.LogRecord) -> list[str]:
        """A message without numbers: warnings and errors as they are, of others what a person needs."""
        text = record.getMessage().strip()
        if text.startswith(_NOTHING_TO_DO):
            self._is_up_to_date = True
            return [text]
        if text.startswith(_INTERRUPTED):
            is_first, self._is_interrupted = not self._is_interrupted, True
            return [] if not is_first else self._log.interrupted() if self._log else [text]
        if record.levelno >= logging.ERROR:
            died = re.search(r"died with <Signals\.(\w+)", text)
            if died and not self._is_interrupted:
                return [f"a job was ended by {died[1]}{_OUT_OF_MEMORY if died[1] == 'SIGKILL' else ''}"]
            is_known = self._is_interrupted or (self._log and any(words in text for words in _CONSEQUENCES))
            return [] if is_known else [text]
        if record.levelno >= logging.WARNING:
            return [f"warning: {text}"]
        if text.startswith("Trying to restart job") and self._log:
            return ["    It is tried again."]
        return [] if self._has_started or text.startswith(_ROUTINE) or text in ("", "None") else [text]

    def _print(self, lines: list[str]) -> None:
        for line in lines:
            self._stream.write(f"{line}\n")
        self._stream.flush()


def _name(job: dict[str, Any]) -> str:
    return job_name(job["log"][0], job["rule_name"]) if job["log"] else job["rule_name"]
