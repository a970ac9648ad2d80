"""An asyncio program without a Task: a Pipeline of its own, where awaiting is the backpressure.

    python examples/asyncio_program.py

Four workers handle jobs and report how long each took. `await pipeline.put(...)` waits while the queue is full,
so nothing is ever dropped; `pipeline.emit(...)` is the same for code that cannot await.
"""

import asyncio
import random
import secrets
import time

from telemetry import Pipeline, RecordChange, Scalar, Settings, TaskHeader, open_sink
from telemetry.events import task_fields

WORKERS = 4
JOBS = 200


async def work(pipeline: Pipeline, worker: int, jobs: asyncio.Queue[int]) -> None:
    while not jobs.empty():
        job = jobs.get_nowait()
        begun = time.perf_counter()
        await asyncio.sleep(random.uniform(0.001, 0.01))
        milliseconds = 1000 * (time.perf_counter() - begun)
        await pipeline.put(Scalar("job time (ms)", f"worker {worker}", milliseconds, job, time.time_ns()))


async def main() -> None:
    settings = Settings.load()
    task = TaskHeader(
        task_id=secrets.token_hex(16),
        writer_id=Pipeline.new_writer_id(),
        project="examples",
        name="asyncio program",
        created_unix_ns=time.time_ns(),
    )
    jobs: asyncio.Queue[int] = asyncio.Queue()
    for job in range(JOBS):
        jobs.put_nowait(job)

    async with Pipeline(task, [open_sink(settings.url or "zip:", settings)], settings=settings) as pipeline:
        # A task is what its record says; Task.init writes these changes by itself.
        for change in task_fields(task, {"status": "in_progress"}):
            await pipeline.put(change)
        async with asyncio.TaskGroup() as group:
            for worker in range(WORKERS):
                group.create_task(work(pipeline, worker, jobs))
        await pipeline.put(RecordChange(time.time_ns(), "task", "status", "completed"))

    print(f"task {task.task_id}: {pipeline.ledger()}")


if __name__ == "__main__":
    asyncio.run(main())
