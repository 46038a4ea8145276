"""Forked children that log join the run of their parent, and touch nothing else of it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

import psutil
import pytest

from tests.delivery.otlp.receiver import Protocol, receiver
from tests.session.test_folders_across_processes import written
from tests.support import mlflow_content as mlflow
from tests.support.agents import Agents
from tests.support.scripts import run_script
from tests.support.trackers import TRACKERS, backends, scalars, subjects_in
from tracelet_otel import semconv
from tracelet_otel.otlp.decoding import decode_attributes, decode_series

SHAPES = """
import multiprocessing, os, sys, threading
from concurrent.futures import ProcessPoolExecutor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
import tracelet_otel

tracelet_otel.configure(backends={backends!r}, run_id="forks", isolation={isolation!r})
fork = multiprocessing.get_context("fork")

def fold(name):
    with SummaryWriter(f"runs/{{name}}") as writer:
        for step in range(3):
            writer.add_scalar("loss", len(name) + step / 8, step)

def pool(name):
    with fork.Pool(2) as workers:  # which ends its workers by SIGTERM
        workers.map(fold, [f"{{name}}/{{number}}" for number in range(7)])

def bare(name):
    child = os.fork()
    if child == 0:
        fold(name)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def fork_of_a_fork(name):
    child = os.fork()
    if child == 0:
        bare(name + "/second")
        fold(name + "/first")
        bare(name + "/third")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def in_a_thread(name):
    thread = threading.Thread(target=bare, args=(name,))
    thread.start()
    thread.join()

def falls_through(name):
    child = os.fork()
    if child == 0:
        fold(name)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0

class Data:
    def __init__(self, name):
        self.name = name
    def __len__(self):
        return 4
    def __getitem__(self, index):
        with SummaryWriter(f"runs/{{self.name}}/{{index}}") as writer:
            writer.add_scalar("index", index, index)
        return index

def loader(name):
    assert len(list(DataLoader(Data(name), num_workers=2, multiprocessing_context=fork))) == 4

if __name__ == "__main__":
    with SummaryWriter("runs") as writer:
        writer.add_scalar("loss", 100.0, 0)
        for shape in {shapes!r}.split():
            globals()[shape](shape)
        writer.add_scalar("loss", 101.0, 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("isolation", "shapes"),
    [
        ("process", "pool bare fork_of_a_fork in_a_thread falls_through loader"),
        ("thread", "pool bare"),
    ],
    ids=["process", "thread"],
)
def test_what_they_log_is_in_every_tracker(
    tmp_path: Path, database: Path, isolation: str, shapes: str
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with subjects_in(tmp_path, database) as subjects:
        code = SHAPES.format(backends=backends(tmp_path), isolation=isolation, shapes=shapes)
        variables = {"OMP_NUM_THREADS": "2"}  # as for users: a fork while threads of torch are there
        done = run_script(work, code, zero_code=False, variables=variables, timeout=170)
        assert done.returncode == 0, done.stderr
        expected = written(work, "runs")
        assert {tag.partition("/")[0].rstrip(":") for tag in expected} == {"loss", *shapes.split()}
        for name in TRACKERS:
            assert scalars(subjects[name], "forks") == expected, name
            assert subjects[name].status("forks") == "finished", name


OTLP = """
import multiprocessing, os, signal, sys, threading, time
import tracelet_otel

backend = {{"endpoint": {endpoint!r}, "protocol": {protocol!r}}}
session = tracelet_otel.configure({{"otlp": backend}}, run_id="first" if len(sys.argv) == 1 else None)

def forked(work):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

"""


class Told(NamedTuple):
    """What a receiver was told by a script."""

    done: CompletedProcess[str]
    points: dict[tuple[str, str], list[tuple[int, float]]]
    """By run and tag."""
    statuses: list[tuple[str, str]]
    """Runs and how they ended, in their order."""
    params: list[dict[str, Any]]


def told(
    folder: Path, script: str, *, protocol: Protocol = "http/protobuf", code: int = 0, zero_code: bool = False
) -> Told:
    """What a script logs, which finds its helpers above."""
    with receiver(protocol) as inbox:
        begin = OTLP.format(endpoint=inbox.endpoint, protocol=protocol)
        done = run_script(folder, begin + textwrap.dedent(script), zero_code=zero_code)
    assert done.returncode == code, done.stderr
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for request in inbox.metrics:
        for series in decode_series(request):
            found = points.setdefault((series.run_id, series.tag), [])
            found += [(point.step, point.value) for point in series.points]
    ends = [decode_attributes(record.attributes) for record in inbox.events("status")]
    return Told(
        done,
        {key: sorted(values) for key, values in points.items()},
        [(str(end[semconv.RUN_ID]), str(end[semconv.RUN_STATUS])) for end in ends],
        [json.loads(record.body.bytes_value) for record in inbox.events("params")],
    )


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_what_they_log_is_at_a_receiver(tmp_path: Path, protocol: Protocol) -> None:
    script = """
    def work(number):
        tracelet_otel.log_scalar("child", float(number), number)

    tracelet_otel.log_scalar("loss", 0.0, 0)
    tracelet_otel.flush()  # its connection is there when the children begin
    with multiprocessing.get_context("fork").Pool(2) as workers:
        workers.map(work, range(9))
    assert ended(forked(lambda: work(9))) == 0
    tracelet_otel.log_scalar("loss", 1.0, 1)
    """
    found = told(tmp_path, script, protocol=protocol)
    assert found.points == {
        ("first", "loss"): [(0, 0.0), (1, 1.0)],
        ("first", "child"): [(number, float(number)) for number in range(10)],
    }
    assert found.statuses == [("first", "finished")]


def test_a_child_that_logs_nothing_starts_nothing(tmp_path: Path) -> None:
    script = """
    def work():
        before = set(os.listdir("/proc/self/fd"))
        while len(os.listdir("/proc/self/task")) > 1:  # the SDK detects its resource in another
            time.sleep(0.001)
        assert session.flush() and tracelet_otel.flush()
        assert threading.active_count() == 1
        assert set(os.listdir("/proc/self/fd")) == before
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert os._exit.__module__ == "posix"

    for step in range(1000):
        tracelet_otel.log_scalar("loss", float(step), step)
    assert ended(forked(work)) == 0
    child = os.fork()
    if child == 0:
        work()
        sys.exit(3)
    assert ended(child) == 3
    """
    found = told(tmp_path, script)
    assert found.points == {("first", "loss"): [(step, float(step)) for step in range(1000)]}
    assert found.statuses == [("first", "finished")]
    assert found.done.stderr.count("tracelet-otel: ") == 2


def test_nothing_of_the_parent_is_delivered_or_ended_by_a_child(tmp_path: Path) -> None:
    script = """
    def work():
        assert session.flush()
        tracelet_otel.log_scalar("child", 1.0, 0)
        assert session.flush() and tracelet_otel.flush()
        session.__exit__(None, None, None)
        tracelet_otel.log_scalar("late", 1.0, 0)
        tracelet_otel.shutdown("failed")

    for step in range(1000):
        tracelet_otel.log_scalar("loss", float(step), step)
    assert ended(forked(work)) == 0
    tracelet_otel.log_scalar("end", 1.0)
    """
    found = told(tmp_path, script)
    assert found.points == {
        ("first", "loss"): [(step, float(step)) for step in range(1000)],
        ("first", "child"): [(0, 1.0)],
        ("first", "end"): [(0, 1.0)],
    }
    assert found.statuses == [("first", "finished")]


def test_a_child_goes_on_in_the_runs_that_it_was_forked_in(tmp_path: Path) -> None:
    script = """
    log = tracelet_otel.log_scalar
    log("loss", 0.0)
    with tracelet_otel.run(run_id="opened"):
        log("loss", 10.0)
        child = os.fork()
        log("loss", 11.0 + (child == 0))
    log("after", float(child == 0))
    if child == 0:
        with tracelet_otel.run(run_id="own"):
            log("loss", 20.0)
        log("after", 2.0)
        tracelet_otel.shutdown()
        os._exit(0)
    assert ended(child) == 0
    with tracelet_otel.run(run_id="unopened"):
        assert ended(forked(lambda: log("loss", 30.0))) == 0
    log("loss", 1.0)
    """
    found = told(tmp_path, script)
    assert found.points == {
        ("first", "loss"): [(0, 0.0), (1, 1.0)],
        ("first", "after"): [(0, 0.0), (0, 1.0), (1, 2.0)],
        ("opened", "loss"): [(0, 10.0), (1, 11.0), (1, 12.0)],
        ("own", "loss"): [(0, 20.0)],
        ("unopened", "loss"): [(0, 30.0)],
    }
    assert sorted(found.statuses) == [
        ("first", "finished"),
        ("opened", "finished"),
        ("own", "finished"),
        ("unopened", "finished"),
    ]


def test_inside_a_block_the_environment_names_the_blocks_run(tmp_path: Path) -> None:
    script = """
    tracelet_otel.log_scalar("loss", 0.0)
    def work():
        with tracelet_otel.run(run_id="block", name="named"):
            tracelet_otel.log_scalar("inside", 1.0)  # opens the session's run in this process too
            assert os.environ["TRACELET_RUN_ID"] == "block"
            assert "named" in os.environ["TRACELET_RUN_OWNER"]
        assert os.environ["TRACELET_RUN_ID"] == "first"
    assert ended(forked(work)) == 0
    """
    found = told(tmp_path, script)
    assert found.points == {("first", "loss"): [(0, 0.0)], ("block", "inside"): [(0, 1.0)]}
    assert sorted(found.statuses) == [("block", "finished"), ("first", "finished")]


def test_a_nested_child_leaves_the_run_of_its_parent_alone(tmp_path: Path) -> None:
    """Its session was there before ``configure()``, as a part of the parent's run."""
    script = """
    import subprocess
    if len(sys.argv) > 1:
        nested = tracelet_otel.configure({"otlp": backend}, child_runs="nested")
        assert nested.run.id != "first"
        tracelet_otel.log_scalar("below", 1.0)
    else:
        tracelet_otel.log_scalar("loss", 0.0)
        subprocess.run([sys.executable, __file__, "child"], check=True)
        tracelet_otel.log_scalar("loss", 1.0)
    """
    found = told(tmp_path, script, zero_code=True)
    assert found.points.pop(("first", "loss")) == [(0, 0.0), (1, 1.0)]
    [(run, tag)] = found.points
    assert tag == "below"
    assert found.statuses == [(run, "finished"), ("first", "finished")]


def test_parameters_that_are_found_before_the_first_value_of_a_child(tmp_path: Path) -> None:
    script = """
    from tracelet_otel.instrumentation import parameters
    def work():
        parameters.found("transformers_trainer", {"lr": 0.5})
        tracelet_otel.log_scalar("loss", 0.0)
    assert ended(forked(work)) == 0
    """
    found = told(tmp_path, script)
    assert found.params == [{"lr": 0.5}]


@pytest.mark.parametrize(("code", "status"), [(0, "finished"), (3, "failed")])
def test_the_child_of_a_mere_launcher_ends_its_run(tmp_path: Path, code: int, status: str) -> None:
    script = f"""
    child = os.fork()
    if child == 0:
        tracelet_otel.log_scalar("loss", 0.5, 0)
        os._exit({code})
    sys.exit(ended(child))
    """
    found = told(tmp_path, script, code=code)
    assert found.points == {("first", "loss"): [(0, 0.5)]}
    assert found.statuses == [("first", status)]
    assert found.done.stderr.count("tracelet-otel: ") == 2


def test_a_child_finds_no_lock_taken_and_no_module_half_imported(tmp_path: Path) -> None:
    script = """
    from tracelet_otel.foundation import forks, importing
    sys.path.insert(0, ".")
    with open("slow.py", "w") as file:
        file.write("import threading, time; threading.current_thread().begun.set(); time.sleep(1)")

    class Import(threading.Thread):
        begun = threading.Event()
        def run(self):
            with importing.IMPORTING:
                import slow

    taken, end = threading.Event(), threading.Event()
    def take():
        from contextlib import ExitStack
        with ExitStack() as stack:
            for lock in forks._locks:
                if lock is not importing.IMPORTING:
                    stack.enter_context(lock)
            taken.set()
            end.wait()

    def work():
        import slow
        tracelet_otel.log_scalar("bad", "text", 0)
        for lock in forks._locks:
            with lock:
                pass
        tracelet_otel.log_scalar("loss", 1.0, 1)

    tracelet_otel.log_scalar("loss", 0.0, 0)
    importing_thread, taking = Import(), threading.Thread(target=take)
    taking.start()
    taken.wait()
    importing_thread.start()
    importing_thread.begun.wait()
    child = forked(work)
    end.set()
    assert ended(child) == 0
    """
    found = told(tmp_path, script)
    assert found.points == {("first", "loss"): [(0, 0.0), (1, 1.0)]}


def test_a_child_that_cannot_record_says_so_once_and_is_counted_at_the_end(tmp_path: Path) -> None:
    script = """
    import resource
    from torch.utils.tensorboard import SummaryWriter
    def work():
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        os.setuid(65534)
        writer.add_scalar("loss", 1.0, 0)
        with tracelet_otel.run("inside"):
            tracelet_otel.log_scalar("child", 1.0)
        tracelet_otel.log_artifact(__file__)
        assert not tracelet_otel.flush()

    writer = SummaryWriter("logs/child")
    tracelet_otel.log_scalar("first", 0.0, 0)
    assert [ended(child) for child in [forked(work), forked(work)]] == [0, 0]
    with SummaryWriter("logs/main") as writer:
        writer.add_scalar("loss", 1.0, 1)
    """
    found = told(tmp_path, script)
    assert found.points == {("first", "first"): [(0, 0.0)], ("first", "loss"): [(1, 1.0)]}
    *_, delivered, closing = found.done.stderr.splitlines()
    assert found.done.stderr.count("is recorded") == 2
    assert "delivered all" in delivered
    assert (
        closing == "tracelet-otel: 2 child processes could not start to record: what they logged is nowhere"
    )


def test_the_child_of_a_child_that_cannot_record_tries_again(tmp_path: Path) -> None:
    script = """
    def below():
        tracelet_otel.log_scalar("below", 1.0, 0)

    def work():
        start, threading.Thread.start = threading.Thread.start, None
        tracelet_otel.log_scalar("child", 1.0, 0)
        threading.Thread.start = start
        assert ended(forked(below)) == 0

    tracelet_otel.log_scalar("loss", 0.0, 0)
    assert ended(forked(work)) == 0
    """
    found = told(tmp_path, script)
    assert found.points == {("first", "loss"): [(0, 0.0)], ("first", "below"): [(0, 1.0)]}
    assert found.done.stderr.count("is recorded") == 1


def test_children_that_live_on_do_not_keep_the_agent(tmp_path: Path, database: Path, agents: Agents) -> None:
    code = """
    import os, sys, threading, time
    import tracelet_otel
    stop = threading.Event()
    def log():
        step = 0
        while not stop.wait(0.0005):
            tracelet_otel.log_scalar("loss", step / 7, step)
            step += 1
        print(step)
    thread = threading.Thread(target=log)
    thread.start()
    tracelet_otel.flush()
    for number in range(40):  # while requests are under way
        if os.fork() == 0:
            sys.stdout.close()
            os.close(1)
            os.close(2)
            time.sleep(1000)
            os._exit(0)
        tracelet_otel.flush()
    stop.set()
    thread.join()
    """
    done = run_script(tmp_path, code, variables=agents.variables)
    children = [one for one in psutil.process_iter() if str(tmp_path) in "".join(one.cmdline())]
    assert len(children) == 40
    assert done.returncode == 0, done.stderr
    agents.wait_until_gone_without_a_trace()
    assert all(child.is_running() for child in children)
    for child in children:
        child.kill()
    stored = mlflow.points(database)["loss"]
    assert [point.step for point in stored] == list(range(int(done.stdout)))
