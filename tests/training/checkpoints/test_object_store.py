"""Checkpoints in object storage: a real S3 server on loopback, killed and started again."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import s3fs

from durable.errors import MissingExtra
from durable.verified import MANIFEST
from tests.support.commands import said
from tests.support.kills import fingerprint, killed, training
from tests.support.servers import KEYS, S3Server
from tests.support.stores import fresh
from training.checkpoints.checkpoint import STATE, Checkpoint, Checkpoints, RunLock, newest
from training.checkpoints.errors import BucketError, NoCheckpoint
from training.checkpoints.object_store import Bucket, Uploads
from training.checkpoints.settings import CheckpointSettings
from training.resume import scores_in

URL = "s3://desk/qdesk"
RUN = "0123456789abcdef"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    running = S3Server(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        running.start()
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("desk")
        yield running
        running.kill()
        s3fs.S3FileSystem.clear_instance_cache()


def waited(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, {"weights": np.full(50_000, step)}, {"run_ids": [RUN]})


def test_they_arrive_are_kept_few_and_are_found_from_another_machine(
    server: S3Server, tmp_path: Path
) -> None:
    settings = CheckpointSettings(where=f"{URL}/kept", keep_last=2)
    said: list[str] = []
    with Checkpoints(RunLock(tmp_path / "here" / RUN), settings, 1, said.append) as checkpoints:
        for step in range(1, 6):
            save(checkpoints, step)
    bucket = Bucket(f"{URL}/kept")
    assert bucket.names() == [RUN]
    assert bucket.steps(RUN) == ["step-000000000004", "step-000000000005"]
    found = newest(tmp_path / "there" / RUN, bucket, said.append)
    assert found.step == 5
    assert (found.arrays["weights"] == 5).all()
    assert Checkpoint.load(tmp_path / "there" / RUN / "step-000000000005").step == 5
    assert [line for line in said if "waiting" not in line] == []


def test_what_another_machine_uploaded_is_judged_by_the_same_rule(tmp_path: Path) -> None:
    """Its best stays the best, and nothing goes that this machine has merely not seen."""
    url = f"file://{tmp_path}/bucket"
    settings = CheckpointSettings(where=url, keep_last=2)
    with Checkpoints(RunLock(tmp_path / "here" / RUN), settings, 1, print) as checkpoints:
        for step, score in ((1, 0.9), (2, 0.1), (3, 0.2)):
            checkpoints.save(step, {"w": np.ones(3)}, {"run_ids": [RUN]}, score)
    bucket = Bucket(url)
    elsewhere = scores_in(bucket, RUN)
    assert elsewhere == {1: 0.9, 2: 0.1, 3: 0.2}
    lock = RunLock(tmp_path / "there" / RUN)
    newest(lock.folder, bucket, print)
    with Checkpoints(lock, settings, 100, print, elsewhere) as checkpoints:
        assert not checkpoints.due(4, score=0.5)
        checkpoints.save(4, {"w": np.ones(3)}, {"run_ids": [RUN]}, 0.3)
    assert bucket.steps(RUN) == [f"step-{step:012d}" for step in (1, 3, 4)]


def test_a_bucket_that_lost_a_file_gives_the_one_before(tmp_path: Path) -> None:
    url, said = f"file://{tmp_path}/bucket", list[str]()
    settings = CheckpointSettings(where=url)
    with Checkpoints(RunLock(tmp_path / "here" / RUN), settings, 1, print) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    (tmp_path / "bucket" / RUN / "step-000000000002" / STATE).unlink()
    assert newest(tmp_path / "there" / RUN, Bucket(url), said.append).step == 1
    assert "step-000000000002: checkpoints file://" in said[0]


def test_a_damaged_one_in_the_bucket_is_named_and_the_one_before_taken(
    server: S3Server, tmp_path: Path
) -> None:
    url, said = f"{URL}/damaged", list[str]()
    settings = CheckpointSettings(where=url)
    with Checkpoints(RunLock(tmp_path / "here" / RUN), settings, 1, print) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
    files = s3fs.S3FileSystem()
    path = f"desk/qdesk/damaged/{RUN}/step-000000000002/{STATE}"
    files.pipe_file(path, files.cat_file(path)[:-1])
    assert newest(tmp_path / "there" / RUN, Bucket(url), said.append).step == 1
    assert len(said) == 1
    assert f"damaged in {url}" in said[0]
    assert [p.name for p in (tmp_path / "there" / RUN).iterdir()] == ["step-000000000001"]
    files.rm_file(f"desk/qdesk/damaged/{RUN}/step-000000000001/manifest.json")
    shutil.rmtree(tmp_path / "there")
    with pytest.raises(NoCheckpoint, match=rf"and {url}/{RUN}: there is no checkpoint"):
        newest(tmp_path / "there" / RUN, Bucket(url), said.append)


def test_a_server_killed_and_started_again_gets_them_all(server: S3Server, tmp_path: Path) -> None:
    """Saving goes on meanwhile; nobody ever sees half a checkpoint."""
    url, said = f"{URL}/killed", list[str]()
    bucket, settings = Bucket(url), CheckpointSettings(where=url, keep_last=100)
    half: list[str] = []
    over = threading.Event()

    def watch() -> None:
        """Loads whatever is to be seen, all the time."""
        mine = Bucket(url)
        while not over.is_set():
            try:
                for step in mine.steps(RUN):
                    mine.download(RUN, tmp_path / "seen" / step, (STATE, MANIFEST))
                    Checkpoint.load(tmp_path / "seen" / step)
            except ValueError as error:
                half.append(str(error))
            except Exception:
                time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with Checkpoints(RunLock(tmp_path / RUN), settings, 1, said.append) as checkpoints:
            for step in range(1, 16):
                began = time.monotonic()
                save(checkpoints, step)
                assert time.monotonic() - began < 5  # it never waits for the server
                if step == 5:
                    assert waited(lambda: len(bucket.steps(RUN)) > 0)
                    server.kill()
                if step == 10:
                    assert waited(lambda: any("cannot be uploaded" in line for line in said))
                    server.start()
    finally:
        server.kill()
        server.start()
        over.set()
        watcher.join()
    assert bucket.steps(RUN) == [f"step-{step:012d}" for step in range(1, 16)]
    assert half == []
    assert sum("trying again until it can" in line for line in said) == 1
    assert sum("uploads go on with" in line for line in said) == 1


def test_what_never_arrived_is_uploaded_by_the_next(server: S3Server, tmp_path: Path) -> None:
    url = f"{URL}/later"
    settings, said = CheckpointSettings(where=url), list[str]()

    def interrupted() -> None:
        with Checkpoints(RunLock(tmp_path / RUN), settings, 1, said.append) as checkpoints:
            save(checkpoints, 1)
            raise KeyboardInterrupt  # who interrupts does not want to wait

    server.kill()
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted()
    finally:
        server.start()
    assert "step-000000000001 did not arrive" in said[-1]
    with Checkpoints(RunLock(tmp_path / RUN), settings, 1, said.append):
        pass
    assert Bucket(url).steps(RUN) == ["step-000000000001"]


def test_a_full_queue_leaves_the_oldest_out_and_says_so(tmp_path: Path) -> None:
    class Stuck(Bucket):
        """A bucket whose first upload takes until it is told otherwise."""

        gate = threading.Event()

        def upload(self, run: str, folder: Path) -> None:
            self.gate.wait()
            super().upload(run, folder)

    said: list[str] = []
    bucket = Stuck(f"file://{tmp_path}/bucket")
    names = [f"step-{step:012d}" for step in range(6)]
    uploads = Uploads(bucket, RUN, 2, set, said.append)
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
        uploads.put(tmp_path / name)
    assert len(uploads.waiting) == 3
    Stuck.gate.set()
    assert uploads.close(30) == set()
    assert bucket.steps(RUN) == [names[0], *names[4:]]
    bucket.remove(RUN, names[0])
    assert bucket.names(RUN) == names[4:]
    assert [line.split("; ")[1].split()[0] for line in said] == names[1:4]


def test_what_was_set_aside_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    said: list[str] = []
    uploads = Uploads(Bucket(f"file://{tmp_path}/bucket"), RUN, 3, set, said.append)
    uploads.put(tmp_path / "step-000000000001", if_missing=True)
    assert uploads.close(30) == set()
    assert said == []


def test_an_upload_that_breaks_off_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    """Whichever file it breaks off at; the manifest is the last."""
    bucket = Bucket(f"file://{tmp_path}/bucket")
    with Checkpoints(RunLock(tmp_path / RUN), CheckpointSettings(), 1, print) as checkpoints:
        save(checkpoints, 1)
    folder = tmp_path / RUN / "step-000000000001"
    copy, copied = bucket._files.put_file, list[str]()

    def breaking(source: str, target: str) -> None:
        if len(copied) == 1:
            raise ConnectionError
        copied.append(target)
        copy(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket._files, "put_file", breaking)
        with pytest.raises(ConnectionError):
            bucket.upload(RUN, folder)
    assert bucket.names(RUN, folder.name) == [STATE]
    assert bucket.steps(RUN) == []
    bucket.upload(RUN, folder)
    assert bucket.steps(RUN) == [folder.name]


def test_urls_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(BucketError, match=r"s3://x/y: cannot be read \(NoCredentials.*environment"):
        Bucket("s3://x/y").names()
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(MissingExtra, match=r"pip install 'qdesk\[gcs\]'"):
        Bucket("gs://desk/qdesk")
    with pytest.raises(BucketError, match="checkpoints nonsense://x: this is no URL"):
        Bucket("nonsense://x")


def test_a_training_goes_on_on_another_machine(
    server: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed here; there, with an empty store, it ends as one that was never killed."""
    where = ("--checkpoints", f"{URL}/moved")
    alone, here, there = (fresh(tmp_path / name) for name in ("alone", "here", "there"))
    said(capsys, *training("tabular", 6000, alone)[1:])
    bucket = Bucket(f"{URL}/moved")
    process = threading.Thread(target=killed, args=(training("tabular", 6000, here, *where), 3.0))
    process.start()
    process.join()
    (run,) = bucket.names()
    assert bucket.steps(run)
    shutil.rmtree(here)
    said(capsys, "train", "--resume", "latest", *where, "--mlruns", there)
    expected, found = fingerprint(alone), fingerprint(there)
    # Versions before the best so far were not taken along; the best and the last were.
    assert set(found.pop("versions")) <= set(expected.pop("versions"))
    assert found == expected
