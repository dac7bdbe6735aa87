"""A stand-in for the job server of a Ray cluster: its part of the REST API, kept in memory; nothing is run."""

import asyncio
import threading
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class FakeJobs:
    """What is asked and answered.

    ``endings`` are the exit codes with which the jobs end that are submitted, in their order; a job with code None runs until
    it is stopped. A log outlives its job, as Ray's does, and ``slow`` is how long its tail stays open after the end (seconds).
    """

    version: str
    token: str | None = None
    endings: list[int | None] = field(default_factory=list)
    jobs: dict[str, dict] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    slow: float = 0.0
    submitted: list[dict] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def app(self) -> web.Application:
        made = web.Application(middlewares=[self._guard])
        made.add_routes(
            [
                web.get("/api/version", self._version), web.get("/api/jobs/", self._list), web.post("/api/jobs/", self._submit),
                web.get("/api/jobs/{name}", self._get), web.delete("/api/jobs/{name}", self._delete),
                web.post("/api/jobs/{name}/stop", self._stop), web.get("/api/jobs/{name}/logs", self._logs),
                web.get("/api/jobs/{name}/logs/tail", self._tail),
            ]
        )  # fmt: skip
        return made

    @web.middleware
    async def _guard(self, request, handler):
        self.tokens.add(request.headers.get("Authorization"))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, text="Unauthorized")
        return await handler(request)

    async def _version(self, request):
        return web.json_response({"version": "4", "ray_version": self.version, "ray_commit": "x", "session_name": "s"})

    async def _list(self, request):
        return web.json_response([*self.jobs.values()])

    async def _get(self, request):
        return web.json_response(self.jobs[request.match_info["name"]])

    async def _submit(self, request):
        asked = await request.json()
        name = asked["submission_id"]
        if name in self.jobs:
            return web.Response(status=500, text=f"ValueError: Job with submission_id {name} already exists.")
        self.submitted.append(asked)
        self.logs[name] = self.logs.get(name, "") + f"driver {len(self.submitted)} says a line\n"
        code = self.endings.pop(0)
        self.jobs[name] = {
            "type": "SUBMISSION", "submission_id": name, "entrypoint": asked["entrypoint"], "metadata": asked["metadata"],
            "status": "RUNNING", "message": "", "driver_exit_code": None, "to_be": code,
        }  # fmt: skip
        return web.json_response({"job_id": name, "submission_id": name})

    async def _delete(self, request):
        job = self.jobs.pop(request.match_info["name"])
        assert job["status"] != "RUNNING"
        return web.json_response({"deleted": True})

    async def _stop(self, request):
        self.jobs[request.match_info["name"]]["status"] = "STOPPED"
        return web.json_response({"stopped": True})

    async def _logs(self, request):
        return web.json_response({"logs": self.logs[request.match_info["name"]]})

    async def _tail(self, request):
        said = web.WebSocketResponse()
        await said.prepare(request)
        name = request.match_info["name"]
        await said.send_str(self.logs[name])
        job = self.jobs[name]
        if job["to_be"] is not None:
            job["driver_exit_code"] = job["to_be"]
            job["status"] = "FAILED" if job["to_be"] else "SUCCEEDED"
        else:
            job["status"] = "STOPPED"
        if self.slow:
            self.logs[name] += "its last line\n"
            await asyncio.sleep(self.slow)
        await said.close()
        return said


def serve(jobs: FakeJobs):
    """Serves on loopback from a thread; gives the URL and what ends it."""
    loop, up, found = asyncio.new_event_loop(), threading.Event(), {}

    async def start():
        runner = web.AppRunner(jobs.app(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found["port"] = runner.addresses[0][1]
        found["runner"] = runner
        up.set()

    def run():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(found["runner"].cleanup())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert up.wait(30)

    def end():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)

    return f"http://127.0.0.1:{found['port']}", end
