"""A real server of the S3 protocol on loopback, which asks for keys and checks signatures."""

from __future__ import annotations

import json
import logging
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class S3:
    """A server with one user, who may do everything, and the bucket "models"."""

    host: str
    port: int
    key: str
    secret: str

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def uri(self) -> str:
        return f"s3://{self.host}:{self.port}/models"

    def environment(self, *, key: str = "", secret: str = "") -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": key or self.key, "AWS_SECRET_ACCESS_KEY": secret or self.secret}

    def names(self, bucket: str = "models") -> list[str]:
        """Return the names of the objects in a bucket."""
        return [item.name for item in _backend().buckets[bucket].keys.values()]

    def body(self, key: str, bucket: str = "models") -> bytes:
        return bytes(_backend().buckets[bucket].keys[key].value)


def _backend() -> Any:
    from moto.s3.models import s3_backends

    return s3_backends["123456789012"]["aws"]


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run the server; from the first request of the block on every one must be signed."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AWS_")}
    os.environ.update(AWS_ACCESS_KEY_ID="boot", AWS_SECRET_ACCESS_KEY="boot", AWS_DEFAULT_REGION="us-east-1")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        _post(f"{endpoint}/moto-api/reset", "")
        iam = boto3.client("iam", endpoint_url=endpoint)
        iam.create_user(UserName="trainer")
        allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName="trainer", PolicyName="all", PolicyDocument=policy)
        made = iam.create_access_key(UserName="trainer")["AccessKey"]
        s3 = boto3.client("s3", endpoint_url=endpoint)
        s3.create_bucket(Bucket="models")
        iam.close()
        s3.close()
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            del os.environ[name]
        # From here on signatures are checked.
        _post(f"{endpoint}/moto-api/reset-auth", "0")
        yield S3(host, port, made["AccessKeyId"], made["SecretAccessKey"])
    finally:
        _post(f"{endpoint}/moto-api/reset-auth", "Infinity")
        server.stop()
        os.environ.update(kept)


def _post(url: str, body: str) -> None:
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "text/plain"}, method="POST")
    with urllib.request.urlopen(request) as answer:
        answer.read()


def write_profile(home: Path, name: str, s3: S3) -> None:
    """Write ~/.aws/credentials and config with one profile."""
    folder = home / ".aws"
    folder.mkdir(parents=True)
    (folder / "credentials").write_text(
        f"[{name}]\naws_access_key_id = {s3.key}\naws_secret_access_key = {s3.secret}\n"
    )
    (folder / "config").write_text(f"[profile {name}]\nregion = eu-west-1\nendpoint_url = {s3.endpoint}\n")
