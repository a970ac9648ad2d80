"""Programs that run with us and without us: what must not differ is in tests/process/test_guest.py.

Each is a whole program. `guest` is the module that guest_support.py writes beside it: `begin()` starts a task, or does
nothing; `report()` reports a scalar, or does nothing; `look(place)` notes signals, hooks, threads and so on.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

__all__ = ["PROGRAMS", "Program"]


@dataclass(frozen=True, kw_only=True)
class Program:
    """One row of the table.

    Attributes:
        options: of the interpreter, before the program's file.
        stdin: what is typed.
        send: sent to the program once it has printed "go".
        needs: modules without which the row is skipped.
        status: of the task, where it is not what the exit status says; None where none is told.
    """

    name: str
    source: str
    options: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    stdin: str = ""
    send: signal.Signals | None = None
    needs: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    status: str | None = "completed"


_POOL = """
import multiprocessing, guest
def work(number):
    guest.report(number)
    return number * number
def first(look):
    guest.look("in a worker")
if __name__ == "__main__":
    guest.begin()
    context = multiprocessing.get_context({method!r})
    {use}
    guest.end()
    guest.look("after the end")
"""

_POOL_USES = {
    "with": "with context.Pool(4) as pool: print(pool.map(work, range(8)))",
    "close and join": "pool = context.Pool(4); print(pool.map(work, range(8))); pool.close(); pool.join()",
    "terminate": "pool = context.Pool(4); print(pool.map(work, range(8))); pool.terminate(); pool.join()",
    "tasks per child": "with context.Pool(2, maxtasksperchild=1) as pool: print(pool.map(work, range(6), chunksize=1))",
    "terminate while they work": "pool = context.Pool(4); pool.map_async(work, range(9999)); pool.terminate()",
}

_POOLS = [
    Program(name=f"pool: {name}, {method}", source=_POOL.format(method=method, use=use))
    for method in ("fork", "spawn", "forkserver")
    for name, use in _POOL_USES.items()
    if method == "fork" or name == "with"
]

_FORK = """
import os, signal, sys, time, guest
guest.begin()
child = os.fork()
if child == 0:
    guest.look("in the child")
    {child}
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
guest.end()
guest.look("after the end")
"""

_CHILDREN = {
    "returns": "os._exit(0)",
    "sys.exit": "sys.exit(3)",
    "raises": "sys.stderr = None; raise ValueError('bad')",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "SIGTERM after a report": "guest.report(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
    "a handler of its own": """signal.signal(signal.SIGTERM, lambda *_: os._exit(9))
    guest.report(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)""",
}

_FORKS = [Program(name=f"fork: {name}", source=_FORK.format(child=child)) for name, child in _CHILDREN.items()]

_KILLED = """
import os, resource, signal, time, guest
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
guest.begin()
guest.report()
os.kill(os.getpid(), signal.{name})
time.sleep(60)
print("survived")
"""

_SIGNALS = [
    Program(name=f"killed by {name}", source=_KILLED.format(name=name), status="stopped")
    for name in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGINT")
] + [
    Program(
        name="SIGTERM in a C call",
        send=signal.SIGTERM,
        status="stopped",
        source="""
import hashlib, guest
guest.begin()
guest.report()
print("go", flush=True)
hashlib.pbkdf2_hmac("sha256", b"x", b"y", 60_000_000)
""",
    ),
    Program(
        name="SIGTERM of a child in a C call",
        source="""
import hashlib, os, signal, guest
guest.begin()
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    guest.report()
    os.write(writer, b"go")
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 60_000_000)
os.read(reader, 2)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
guest.expect_points(1)
""",
    ),
    Program(
        name="SIGTERM ignored",
        source="""
import os, signal, guest
signal.signal(signal.SIGTERM, signal.SIG_IGN)
guest.begin()
os.kill(os.getpid(), signal.SIGTERM)
print("survived")
""",
    ),
    Program(
        name="SIGTERM handled, set before",
        status="stopped",
        source="""
import os, signal, sys, guest
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
guest.begin()
os.kill(os.getpid(), signal.SIGTERM)
""",
    ),
    Program(
        name="SIGTERM handled, set later over what was there",
        status="stopped",
        source="""
import os, signal, guest
guest.begin()
before = signal.getsignal(signal.SIGTERM)
def handle(number, frame):
    print("saving")
    if callable(before):
        before(number, frame)
    print("saved")
signal.signal(signal.SIGTERM, handle)
os.kill(os.getpid(), signal.SIGTERM)
print("went on")
""",
    ),
    Program(
        name="SIGUSR1 handled, as under Slurm",
        source="""
import os, signal, guest
guest.begin()
assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
signal.signal(signal.SIGUSR1, lambda *_: print("requeue"))
os.kill(os.getpid(), signal.SIGUSR1)
print("went on")
""",
    ),
    Program(
        name="faulthandler's own signal",
        source="""
import faulthandler, os, signal, sys, guest
faulthandler.register(signal.SIGUSR2, file=sys.stdout, all_threads=False)
guest.begin()
os.kill(os.getpid(), signal.SIGUSR2)
guest.end()
os.kill(os.getpid(), signal.SIGUSR2)
print("went on")
""",
    ),
    Program(
        name="an interval timer",
        source="""
import signal, guest
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
guest.begin()
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while len(ticks) < 300:
    guest.report()
signal.setitimer(signal.ITIMER_REAL, 0)
print(len(ticks) >= 300)
""",
    ),
    Program(
        name="a process group is ended",
        source="""
import os, signal, subprocess, sys, guest
guest.begin()
tree = subprocess.Popen([sys.executable, "-c", '''
import subprocess, sys, guest
guest.begin()
guest.report()
program = "import guest, time; guest.report(); print('go', flush=True); time.sleep(60)"
subprocess.run([sys.executable, "-c", program])
'''], start_new_session=True, stdout=subprocess.PIPE)
print(tree.stdout.readline())
os.killpg(tree.pid, signal.SIGTERM)
print(tree.wait(), tree.stdout.read())
""",
    ),
]

_LOOPS = [
    Program(
        name="asyncio with a signal handler",
        send=signal.SIGTERM,
        source="""
import asyncio, signal, guest
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("go", flush=True)
    await stop.wait()
    print("stopped")
guest.begin()
asyncio.run(main())
""",
    ),
    Program(
        name="asyncio and Ctrl-C",
        send=signal.SIGINT,
        source="""
import asyncio, guest
async def main():
    print("go", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("tidy")
guest.begin()
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
""",
    ),
    Program(
        name="uvloop with a signal handler",
        send=signal.SIGTERM,
        needs=("uvloop",),
        source="""
import asyncio, signal, uvloop, guest
async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("go", flush=True)
    await stop.wait()
    print("stopped")
guest.begin()
uvloop.run(main())
""",
    ),
    Program(
        name="a wake-up descriptor",
        source="""
import os, signal, socket, guest
guest.begin()
ours, theirs = socket.socketpair()
theirs.setblocking(False)
print(signal.set_wakeup_fd(theirs.fileno()))
signal.signal(signal.SIGALRM, lambda *_: None)
signal.raise_signal(signal.SIGALRM)
print(ours.recv(10) == bytes([signal.SIGALRM]))
""",
    ),
    Program(
        name="trio",
        send=signal.SIGTERM,
        needs=("trio",),
        options=("-W", "error"),
        source="""
import signal, trio, guest
async def main():
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        print("go", flush=True)
        async for number in signals:
            print(number == signal.SIGTERM)
            return
guest.begin()
trio.run(main)
""",
    ),
]

_ENDS = [
    Program(name="exit(3)", source="import guest\nguest.begin()\nexit(3)", status="failed"),
    Program(
        name="raise SystemExit with text",
        source="import guest\nguest.begin()\nraise SystemExit('no data')",
        status="failed",
    ),
    Program(name="raise SystemExit(4)", source="import guest\nguest.begin()\nraise SystemExit(4)", status="failed"),
    Program(
        name="raise SystemExit with text, further down",
        source="import guest\nguest.begin()\ndef main(what):\n    raise SystemExit(f'no {what}')\nmain('data')",
        status="failed",
    ),
    Program(name="raise SystemExit", source="import guest\nguest.begin()\nraise SystemExit"),
    Program(name="raise SystemExit(main())", source="import guest\nguest.begin()\nraise SystemExit(guest.report())"),
    Program(
        name="sys.exit is caught, and kept",
        source="""
import sys, guest
kept = []
guest.begin()
try:
    sys.exit(3)
except SystemExit as error:
    kept.append(error)
print("went on")
""",
    ),
    Program(
        name="sys.excepthook is called by hand",
        source="""
import sys, guest
guest.begin()
try:
    1 / 0
except ZeroDivisionError:
    sys.excepthook(*sys.exc_info())
print("went on")
""",
    ),
    Program(
        name="a hook is set over ours",
        status="failed",
        source="""
import sys, guest
guest.begin()
sys.excepthook = lambda *_: print("their hook")
raise ValueError("bad")
""",
    ),
    Program(
        name="rich.traceback.install",
        status="failed",
        needs=("rich",),
        variables={"COLUMNS": "100"},
        source="""
import guest
guest.begin()
from rich.traceback import install
install(show_locals=False)
raise ValueError("bad")
""",
    ),
    Program(
        name="a typo at a prompt",
        options=("-i",),
        stdin="1 / 0\nprint('went on')\n",
        source="import guest\nguest.begin()\n",
    ),
    Program(
        name="code.interact",
        stdin="1 / 0\nprint('went on')\n",
        source="import code, guest\nguest.begin()\ncode.interact(banner='', exitmsg='')\n",
    ),
    Program(
        name="os.execv",
        source="""
import os, sys, guest
guest.begin()
guest.report()
guest.flush()
if len(sys.argv) < 2:
    os.execv(sys.executable, [sys.executable, __file__, "again"])
print(sys.argv[1:])
""",
    ),
    Program(
        name="a daemon by two forks",
        source="""
import os, sys, guest
guest.begin()
reader, writer = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    guest.report()
    os.write(writer, b"alive")
    sys.exit(0)
os.close(writer)
os.wait()
print(os.read(reader, 10))
""",
    ),
]

_SURROUNDINGS = [
    Program(
        name="doctest",
        options=("-m", "doctest"),
        status=None,
        source='''
"""
>>> import guest
>>> _ = guest.begin()
>>> print("shown")
shown
"""
''',
    ),
    Program(
        name="pytest with capsys",
        status=None,
        options=("-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"),
        source="""
import guest, pytest

def test_output_is_pytests(capsys):
    guest.begin()
    guest.report()
    print("shown")
    assert capsys.readouterr().out == "shown\\n"

def test_a_failure_and_an_exit_end_nothing():
    with pytest.raises(SystemExit):
        exit(3)
    assert 1 == 2
""",
    ),
    Program(
        name="a zip file",
        options=("-c", "import sys, zipapp, os, runpy; exec(open(sys.argv[1]).read())"),
        source="""
import os, pathlib, shutil, subprocess, sys, zipapp
folder = pathlib.Path("app")
folder.mkdir(exist_ok=True)
shutil.copy("guest.py", folder / "guest.py")
(folder / "__main__.py").write_text("import guest\\nguest.begin()\\nguest.report()\\nprint('zipped')\\n")
zipapp.create_archive(folder, "app.pyz")
os.execv(sys.executable, [sys.executable, "app.pyz"])
""",
    ),
    Program(
        name="a shell's preexec_fn",
        source="""
import os, signal, subprocess, sys, guest
guest.begin()
look = "import guest; guest.look('in a subprocess')"
subprocess.run([sys.executable, "-c", look], preexec_fn=os.setsid, check=True)
subprocess.run([sys.executable, "-c", look], check=True)
print(subprocess.run(["sh", "-c", "kill -TERM $$"]).returncode, os.system("exit 3"))
""",
    ),
    Program(
        name="a pseudo-terminal's child",
        source="""
import os, signal, time, guest
guest.begin()
child, terminal = os.forkpty()
if child == 0:
    guest.look("in the child")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""",
    ),
    Program(
        name="torch's DataLoader",
        needs=("torch",),
        source="""
import torch.utils.data, guest
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 64
    def __getitem__(self, number):
        guest.report(number)
        return number
if __name__ == "__main__":
    guest.begin()
    for persistent in (False, True):
        loader = torch.utils.data.DataLoader(Numbers(), batch_size=8, num_workers=2, persistent_workers=persistent)
        for epoch in range(3):
            print(sum(int(batch.sum()) for batch in loader))
""",
    ),
    Program(
        name="concurrent.futures",
        source="""
import concurrent.futures, guest
def work(number):
    guest.report(number)
    return number + 1
if __name__ == "__main__":
    guest.begin()
    with concurrent.futures.ProcessPoolExecutor(3) as pool:
        print(list(pool.map(work, range(9))))
""",
    ),
    Program(
        name="joblib",
        needs=("joblib",),
        source="""
import joblib, guest
def work(number):
    guest.report(number)
    return number + 1
if __name__ == "__main__":
    guest.begin()
    print(joblib.Parallel(n_jobs=2)(joblib.delayed(work)(number) for number in range(8)))
    print(joblib.Parallel(n_jobs=2, backend="multiprocessing")(joblib.delayed(work)(number) for number in range(8)))
""",
    ),
    Program(
        name="-X dev -W error",
        options=("-X", "dev", "-W", "error"),
        source="import guest\nguest.begin()\nguest.report()\nprint(1)",
    ),
    Program(name="-OO", options=("-OO",), source="import guest\nguest.begin()\nguest.report()\nprint(1)"),
    Program(
        name="few descriptors",
        source="""
import resource, guest
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
guest.begin()
guest.report()
print(len([open("/dev/null") for _ in range(5)]))
""",
    ),
    Program(
        name="a locale without UTF-8",
        variables={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        source="import guest\nguest.begin()\nguest.report()\nprint('ok')",
    ),
    Program(
        name="a clock that stands still, and jumps back",
        source="""
import time, guest
now = [1_700_000_000.0]
time.time = lambda: now[0]
time.time_ns = lambda: int(now[0] * 1e9)
guest.begin()
for step in range(100):
    guest.report(step)
    now[0] -= step % 2
print("done")
""",
    ),
]

PROGRAMS = [*_POOLS, *_FORKS, *_SIGNALS, *_LOOPS, *_ENDS, *_SURROUNDINGS]
