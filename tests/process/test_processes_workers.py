"""Workers as data loaders and pre-forking servers run them: forked after init, fed by queues and pipes, then ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_processes import family_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_lose_nothing_epoch_after_epoch(method: str, state_dir: Path) -> None:
    """As torch's DataLoader: daemons with a queue each, one for results, a thread in the parent, anew each epoch."""
    # given a parent that logs at full rate meanwhile
    source = f"""
    import queue

    def worker(number, epoch, indices, results):
        logger = Logger.current_logger()
        while (index := indices.get()) is not None:
            logger.report_scalar("points", f"worker {{number}} of {{epoch}}", float(index), index)
            results.put((number, index))

    def epoch_of(context, epoch):
        results = context.Queue()
        queues = [context.Queue() for _ in range(4)]
        workers = [context.Process(target=worker, args=(n, epoch, one, results), daemon=True)
                   for n, one in enumerate(queues)]
        for one in workers:
            one.start()
        collected = queue.Queue()
        pinning = threading.Thread(target=lambda: [collected.put(results.get()) for _ in range(400)], daemon=True)
        pinning.start()
        for index in range(100):
            for one in queues:
                one.put(index)
        for step in range(400):
            number, index = collected.get()
            Logger.current_logger().report_scalar("points", "train", float(index), 400 * epoch + step)
        for one in queues:
            one.put(None)
        for one in workers:
            one.join()
            assert one.exitcode == 0

    if __name__ == "__main__":
        task = init(auto_connect_streams=True)
        for epoch in range(2):
            epoch_of(multiprocessing.get_context({method!r}), epoch)
    """
    family, _ = family_of(source, state_dir)
    # then
    assert family.steps("train") == list(range(800))
    for epoch in range(2):
        for number in range(4):
            assert family.steps(f"worker {number} of {epoch}") == list(range(100))
    assert family.task["status"] == "completed"


@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_workers_of_a_server_that_forks_after_loading_the_program(end: str, state_dir: Path) -> None:
    """As gunicorn --preload: the task begins in the master, workers have their own signal handlers and are replaced."""
    # given workers that answer requests until they are told to end, each in its own way
    source = f"""
    import signal
    task = init(auto_connect_streams=True)
    report("master")

    def serve(name, requests, answers):
        stopping = []
        signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
        logger, step = Logger.current_logger(), 0
        while (request := os.read(requests, 1)) == b"r":
            logger.report_scalar("points", name, 1.0, step)
            step += 1
            os.write(answers, request)
        Task.current_task().flush()
        os.write(answers, b"f")
        while not stopping:
            time.sleep(0.005)
        {end}

    def hire(name):
        requests, answers = os.pipe(), os.pipe()
        child = os.fork()
        if not child:
            os.close(requests[1])
            try:
                serve(name, requests[0], answers[1])
            finally:
                os._exit(70)  # a worker must not run on into the master's code
        os.close(requests[0])
        os.close(answers[1])
        return child, requests[1], answers[0]

    for generation in range(3):
        workers = {{f"worker {{generation}}.{{n}}": hire(f"worker {{generation}}.{{n}}") for n in range(3)}}
        for _ in range(50):
            for child, requests, answers in workers.values():
                os.write(requests, b"r")
                assert os.read(answers, 1) == b"r"
        for child, requests, answers in workers.values():
            os.write(requests, b"q")
            assert os.read(answers, 1) == b"f"
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            os.close(requests)
            os.close(answers)
    report("master again")
    """
    family, _ = family_of(source, state_dir)
    # then each worker is a writer of its own, and the master's task goes on
    for generation in range(3):
        for number in range(3):
            assert family.steps(f"worker {generation}.{number}") == list(range(50))
    assert family.steps("master") == family.steps("master again") == list(range(100))
    (master,) = [series for series in family.points.values() if "master" in series]
    assert set(master) == {"master", "master again"}
    assert family.task["status"] == "completed"
