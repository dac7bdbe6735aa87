"""The job server of a Ray cluster (its dashboard's port, 8265), with its errors in words that a person can use.

It is part of ``ray[default]`` on the head; a client needs no more than Ray. The job of a sweep has the sweep's name as its id.
"""

import asyncio
import contextlib
import http.client
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clcore.errors import UnknownName, UserError
from cluster.auth import read_token

#: Seconds that the job server may take to answer.
PATIENCE = 5.0
#: Seconds between two looks at a job that is followed: Ray's own tail of its log ends up to five seconds after the job.
LOOK = 0.5
#: Where a job says which question it answers.
QUESTION = "clsweep.question"
RUNNING, STOPPED = ("PENDING", "RUNNING"), "STOPPED"


class Unreachable(UserError):  # noqa: N818 - reads as the sentence it prints
    """The job server does not answer (any more)."""


@dataclass(frozen=True)
class Job:
    """A job as the server knows it.

    Attributes:
        name: its id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        message: what the server says about that.
        question: digest of the question it answers; None: it is no sweep.
        code: exit code of its driver; None: none yet, or not known.
    """

    name: str
    status: str
    message: str
    question: str | None
    code: int | None


class JobServer:
    """The job server of a cluster.

    Args:
        url: ``http://HOST:8265``.
        environment: variables that say which token is sent.

    Raises:
        UserError: it does not answer, takes another token, or runs another Ray.
    """

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"{url} is no address of a job server: it must be http://HOST:8265.")
        token = read_token(dict(environment))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._check(headers)
        os.environ["RAY_API_SERVER_ADDRESS"] = self.url  # or RAY_ADDRESS would go before what we say
        from ray.job_submission import JobSubmissionClient

        for handler in logging.getLogger("ray").handlers:
            handler.setLevel(logging.WARNING)  # it tells of every package that it sends
        self.client: Any = _said(self.url, lambda: JobSubmissionClient(self.url, headers=headers))

    def _check(self, headers: dict[str, str]) -> None:
        import ray

        request = urllib.request.Request(f"{self.url}/api/version", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                version = str(json.load(answer)["ray_version"])
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                what = "does not take the token that is sent" if headers else "wants a token"
                raise UserError(f"{self.url} {what}: name the file of the cluster's own with --token-file.") from None
            raise UserError(f"{self.url} is no job server of Ray (it answers {error.code}).") from None
        except OSError as error:
            hint = "is the head up, and ray[default] installed there (the job server is part of its dashboard)?"
            raise Unreachable(f"no job server answers at {self.url} ({getattr(error, 'reason', error)}): {hint}") from None
        except (ValueError, KeyError, TypeError, http.client.HTTPException):
            raise UserError(f"{self.url} is no job server of Ray (it answers something else).") from None
        if version.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise UserError(f"{self.url} runs Ray {version}, and this machine Ray {ray.__version__}: install the same here.")

    def find(self, name: str) -> Job | None:
        """A job by its id; None where there is none."""
        return next((job for job in self.jobs() if job.name == name), None)

    def get(self, name: str) -> Job:
        """A job by its id.

        Raises:
            UnknownName: there is none.
        """
        jobs = {job.name: job for job in self.jobs()}
        if name not in jobs:
            raise UnknownName("job", name, jobs)
        return jobs[name]

    def jobs(self) -> list[Job]:
        """All jobs that were submitted."""
        listed = _said(self.url, self.client.list_jobs)
        return [_job(details) for details in listed if details.submission_id]

    def submit(self, name: str, entrypoint: str, question: str, runtime_env: Mapping[str, Any]) -> int:
        """Submits a job; one of the same id that has ended makes room for it.

        Returns:
            Characters that earlier jobs of the id have left in the log, which goes on.

        Raises:
            UserError: the server refuses it.
        """
        before = 0
        if self.find(name) is not None:
            before = len(self.logs(name))
            _said(self.url, lambda: self.client.delete_job(name))
        metadata = {QUESTION: question}
        _said(
            self.url,
            lambda: self.client.submit_job(
                entrypoint=entrypoint, submission_id=name, metadata=metadata, runtime_env=dict(runtime_env)
            ),
        )
        return before

    def stop(self, name: str) -> None:
        """Asks a job to end, by SIGTERM; the server does not wait long."""
        _said(self.url, lambda: self.client.stop_job(name))

    def logs(self, name: str) -> str:
        """What a job has said so far."""
        return str(_said(self.url, lambda: self.client.get_job_logs(name)))

    def follow(self, name: str, show: Callable[[str], None], before: int = 0) -> None:
        """Shows what a job says until it ends.

        Args:
            name: its id.
            show: shows text.
            before: characters of its log that are not to be shown.

        Raises:
            Unreachable: the server went away meanwhile.
        """
        heard = 0

        def hear(text: str) -> None:
            nonlocal heard
            new, heard = text[max(before - heard, 0) :], heard + len(text)
            if new:
                show(new)

        async def tail() -> None:
            async for lines in self.client.tail_job_logs(name):
                hear(lines)

        async def until_the_end() -> None:
            tailing = asyncio.ensure_future(tail())
            while not (await asyncio.wait([tailing], timeout=LOOK))[0]:
                if (await asyncio.to_thread(self.get, name)).status not in RUNNING:
                    tailing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await tailing

        _said(self.url, lambda: asyncio.run(until_the_end()))
        hear(self.logs(name)[heard:])


def _said(url: str, call: Callable[[], Any]) -> Any:
    """What a call gives; Ray's errors in one line."""
    import aiohttp
    import requests
    from ray.exceptions import RayError

    try:
        return call()
    except (ConnectionError, requests.ConnectionError, requests.Timeout, aiohttp.ClientError) as error:
        raise Unreachable(f"the job server at {url} answers no more ({_line(error)}).") from None
    except (RuntimeError, ValueError, RayError) as error:
        raise UserError(f"the job server at {url} refuses: {_line(error)}") from None


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def _job(details: Any) -> Job:
    status = str(getattr(details.status, "value", details.status))
    question = (details.metadata or {}).get(QUESTION)
    return Job(details.submission_id, status, details.message or "", question, details.driver_exit_code)
