import asyncio

import pytest
from chassis.app.worker.stages import Part, PartEnded, run_stages
from chassis.process.ending import DrainTimedOut


class Recorder:
    """Parts that write down when they stop."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.stopping = asyncio.Event()
        self.consumer_ended = asyncio.Event()

    def part(self, name: str, *, waits_for: asyncio.Event | None = None) -> Part:
        async def run(stop: asyncio.Event) -> None:
            await stop.wait()
            if waits_for is not None:
                await waits_for.wait()
            self.events.append(name)
            if name == "consumer":
                self.consumer_ended.set()

        return run

    async def run(self, *stages: list[Part], drain_timeout: float = 5) -> None:
        await run_stages(
            stages,
            self.stopping,
            on_started=lambda: self.events.append("started"),
            on_stopping=lambda: self.events.append("draining"),
            on_failed=lambda: self.events.append("failed"),
            drain_timeout=drain_timeout,
        )


async def test_readiness_fails_first_and_the_relay_stops_after_the_jobs_whose_events_it_publishes() -> None:
    recorder, jobs_done = Recorder(), asyncio.Event()
    run = asyncio.create_task(
        recorder.run([recorder.part("jobs", waits_for=jobs_done), recorder.part("consumer")], [recorder.part("relay")])
    )
    recorder.stopping.set()
    await recorder.consumer_ended.wait()
    assert recorder.events == ["started", "draining", "consumer"]
    jobs_done.set()
    await run
    assert recorder.events == ["started", "draining", "consumer", "jobs", "relay"]


async def test_a_part_that_fails_ends_the_others_and_the_process() -> None:
    recorder = Recorder()

    async def fail(_stop: asyncio.Event) -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError):
        await recorder.run([fail, recorder.part("jobs")], [recorder.part("relay")])
    assert recorder.events == ["started", "failed"]


async def test_a_part_that_ends_unasked_is_a_failure() -> None:
    async def return_early(_stop: asyncio.Event) -> None:
        pass

    recorder = Recorder()
    with pytest.RaisesGroup(PartEnded):
        await recorder.run([return_early, recorder.part("jobs")])


async def test_work_left_after_the_drain_time_out_is_named() -> None:
    async def hang(stop: asyncio.Event) -> None:
        job = asyncio.create_task(asyncio.Event().wait(), name="job-7")
        try:
            await asyncio.Event().wait()
        finally:
            job.cancel()

    recorder = Recorder()
    recorder.stopping.set()
    with pytest.RaisesGroup(pytest.RaisesExc(DrainTimedOut, match=r"left after 0\.05 s: job-7, part-.*hang")):
        await recorder.run([hang, recorder.part("consumer")], drain_timeout=0.05)
